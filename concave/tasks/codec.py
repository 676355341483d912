"""Values to JSON and back, at the door and in the worker.

Everything that a store keeps is JSON: nothing is ever unpickled, and another language can read it.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from concave.errors import ConfigurationError

__all__ = ["CodecError", "JsonCodec", "describe_errors", "dump_untyped"]

T = TypeVar("T")


class CodecError(ValueError):
    """A value that isn't of its type, or that JSON can't hold. Its text is fit for a user."""


class JsonCodec(Generic[T]):
    """Checks values of one type, and turns them to JSON bytes and back."""

    __slots__ = ("_adapter", "_typed")

    def __init__(self, type_: Any, what: str) -> None:
        self._typed = type_ is not Any
        try:
            self._adapter: TypeAdapter[T] = TypeAdapter(type_)
        except PydanticUserError as error:
            raise ConfigurationError(
                f"{what}: {type_!r} is not a type that Pydantic can check: {error}"
            ) from error

    def encode(self, value: object) -> tuple[T, bytes]:
        """The checked value and its JSON; `CodecError` if it is neither of the type nor fit for JSON."""
        try:
            checked = self._adapter.validate_python(value)
            if not self._typed:
                return checked, dump_untyped(checked)
            return checked, _finite(self._adapter.dump_json(checked, by_alias=True, warnings="error"))
        except ValidationError as error:
            raise CodecError(describe_errors(error)) from error
        except (PydanticSerializationError, ValueError, RecursionError) as error:
            raise CodecError(f"JSON can't hold it: {error}") from error

    def decode(self, data: bytes) -> T:
        """The value that JSON stands for; `CodecError` if it is not of the type."""
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            raise CodecError(describe_errors(error)) from error


def dump_untyped(value: object) -> bytes:
    """A value of no declared type as JSON: models, dataclasses, dates, UUIDs and the like become what Pydantic makes
    of them. Raises ValueError for what JSON can't hold (NaN, cycles, arbitrary objects).
    """
    return _finite(to_json(value, inf_nan_mode="constants"))


def describe_errors(error: ValidationError) -> str:
    """Pydantic's findings in one line, without the values: those may be secrets."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}" for item in found[:10])


def _finite(data: bytes) -> bytes:
    # Pydantic writes NaN and Infinity, which JSON doesn't have. The cheap look first: nearly no input has the words.
    if b"NaN" in data or b"Infinity" in data:
        from_json(data, allow_inf_nan=False)
    return data

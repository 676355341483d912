"""Values to JSON and back, at the door and in the worker.

Everything that a store keeps is JSON: nothing is ever unpickled, and another language can read it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import Any, Final, Generic, TypeVar, cast
from uuid import UUID

from pydantic import (
    BaseModel,
    PydanticUserError,
    Secret,
    SecretBytes,
    SecretStr,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import from_json, to_json

from concave.errors import ConfigurationError

__all__ = ["CodecError", "JsonCodec"]

T = TypeVar("T")

NEVER_NULL: Final = frozenset({str, int, bool, type(None), datetime, date, UUID, Decimal})
"""What is written as null where it is None, and else never."""
STARS = b'"**********"'
"""What Pydantic writes in place of a secret."""
STARRED = "JSON can't hold it: a secret is written as stars"
DEEPEST: Final = 200
"""Levels of lists and objects that Pydantic reads. It writes some more."""


class CodecError(ValueError):
    """A value that isn't of its type, or that JSON can't hold. Its text is fit for a user."""


class JsonCodec(Generic[T]):
    """Checks values of one type, and turns them to JSON bytes and back."""

    __slots__ = ("_adapter", "_plainly_written", "_typed")

    def __init__(self, type_: Any, what: str) -> None:
        self._plainly_written: bool | None = None
        try:
            self._adapter: TypeAdapter[T] = TypeAdapter(type_)
        except (PydanticUserError, NameError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(
                f"{what}: {type_!r} is not a type that Pydantic can check: {reason}"
            ) from error
        self._typed = not _takes_anything(self._adapter.core_schema)

    @property
    def takes_anything(self) -> bool:
        """Whether the type is that of any value, or of any object: what it takes, it leaves as it is."""
        return not self._typed

    def encode(self, value: object) -> tuple[T, bytes]:
        """The checked value and its JSON; `CodecError` if it is neither of the type nor fit for JSON."""
        checked, data = self._encode(value)
        if len(data) > 2 * DEEPEST:
            _check_depth(data)
        return checked, data

    def _encode(self, value: object) -> tuple[T, bytes]:
        try:
            checked: T = self._adapter.validator.validate_python(value)
        except Exception as error:
            raise CodecError(_explained(error)) from error
        try:
            data = self._dump(checked)
        except Exception as error:
            raise CodecError(f"JSON can't hold it: {error}") from error
        return checked, data

    def encode_to_be_read(self, value: object) -> tuple[T, bytes]:
        """`encode`, for what `decode` is to read: `CodecError` also where it couldn't.

        A field whose aliases for reading and writing differ, or a serializer of its own, makes JSON that the type refuses.
        That is to be noticed where it is written, not by a worker.
        """
        if not self._typed:
            checked, data = self.encode(value)
            if data.find(STARS) >= 0 and _has_secret(checked):
                raise CodecError(STARRED)
            return checked, data
        checked, data = self._encode(value)
        try:
            read = self.decode(data)
        except CodecError as error:
            raise CodecError(f"its JSON can't be read back: {error}") from error
        if data.find(STARS) >= 0 and read != checked:
            raise CodecError(STARRED)
        return checked, data

    def decode(self, data: bytes) -> T:
        """The value that JSON stands for; `CodecError` if it is not of the type."""
        try:
            value: T = self._adapter.validator.validate_json(data)
        except Exception as error:
            raise CodecError(_explained(error)) from error
        return value

    def _dump(self, checked: T) -> bytes:
        """Models, dates, UUIDs and the like become what Pydantic makes of them. ValueError for what JSON can't hold."""
        if self._typed:
            data = self._adapter.serializer.to_json(checked, by_alias=True, warnings="error")
        else:
            data = to_json(checked, inf_nan_mode="constants")
        # JSON has neither NaN nor Infinity. Pydantic writes them as such, or as null. The cheap looks first: nearly no
        # value has the words, and most have no null. `in` takes twice as long as `find`: it tries for a number first.
        if data.find(b"NaN") >= 0 or data.find(b"Infinity") >= 0:
            from_json(data, allow_inf_nan=False)
        if data.find(b"null") >= 0:
            self._check_nulls(checked, data)
        return data

    def _check_nulls(self, checked: T, data: bytes) -> None:
        if self._plainly_written is None:
            self._plainly_written = not _has_serializer(self._adapter.core_schema)
        if self._plainly_written and _is_surely_finite(checked):
            return
        plain = self._adapter.dump_python(checked, by_alias=True, warnings=False)
        if _may_be_infinite(plain) and _became_null(plain, from_json(data)):
            raise ValueError("it has a number that is not finite")


def _check_depth(data: bytes) -> None:
    # To read it takes as long as to write it, and few values have that many brackets in all.
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return
    try:
        from_json(data)
    except ValueError as error:
        raise CodecError(f"JSON can't hold it: it is nested too deeply to be read ({error})") from error


def _explained(error: Exception) -> str:
    """Findings in one line, without the values: those may be secrets."""
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {error}"  # a validator of a user's may raise anything
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}" for item in found[:10])


def _is_surely_finite(value: Any) -> bool:
    """Whether each null in a value's JSON is a None, as nearly always. Where that isn't soon told, False."""
    kind = cast("Any", type(value))
    if kind in NEVER_NULL:
        return True
    if kind is float:
        return math.isfinite(value)
    if kind is dict:
        return _are_surely_finite(value.values())
    if kind is list or kind is tuple:
        return _are_surely_finite(value)
    if isinstance(value, BaseModel) and _is_plainly_written(kind):
        return _are_surely_finite([*vars(value).values(), *(value.model_extra or {}).values()])
    return False


def _are_surely_finite(values: Collection[Any]) -> bool:
    for each in values:  # noqa: SIM110  each enqueue comes by here, and a generator takes half as long again
        if type(each) not in NEVER_NULL and not _is_surely_finite(each):
            return False
    return True


def _takes_anything(schema: object) -> bool:
    """Whether a type is that of any value, or of any object: it reads whatever is written of one."""
    if type(schema) is not dict:
        return False  # of a model that isn't fully defined yet, which says so when it is used
    match cast("dict[str, Any]", schema):
        case {"type": "any"}:
            return True
        case {"type": "dict", "keys_schema": {"type": "any" | "str"}, "values_schema": {"type": "any"}}:
            return not _has_serializer(cast("Any", schema))
        case _:
            return False


def _has_secret(value: Any) -> bool:
    """Whether a secret is in what an untyped value holds. That has been written: so it is finite, and no circle."""
    match value:
        case SecretStr() | SecretBytes() | Secret():
            return True
        case str() | bytes() | bytearray():
            return False
        case Mapping():
            return any(map(_has_secret, value)) or any(map(_has_secret, value.values()))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        case Collection():
            return any(map(_has_secret, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case BaseModel():
            return any(map(_has_secret, [*vars(value).values(), *(value.model_extra or {}).values()]))
        case _ if is_dataclass(value):
            return any(_has_secret(getattr(value, each.name)) for each in fields(value))
        case _:
            # Not by its attributes: those of an enum's member lead to its class, and back.
            return False


@cache
def _is_plainly_written(model: type[BaseModel]) -> bool:
    return not _has_serializer(model.__pydantic_core_schema__)


def _has_serializer(schema: object) -> bool:
    """Whether a type has a say in how its values are written: they may then be written as something else."""
    match schema:
        case Mapping():
            parts = cast("Mapping[str, object]", schema)
            if "serialization" in parts or parts.get("computed_fields"):
                return True
            return any(_has_serializer(part) for name, part in parts.items() if name != "metadata")
        case list() | tuple():
            return any(map(_has_serializer, cast("list[object]", schema)))
        case _:
            return False


def _may_be_infinite(plain: Any) -> bool:
    """Whether a number in a value may not be finite. Nearly every null is a None, and that is soon told."""
    try:
        words = to_json(plain, inf_nan_mode="constants", bytes_mode="base64", fallback=str)
    except Exception:  # noqa: BLE001  what only the type knows how to write, a key of its own say
        return True
    return b"NaN" in words or b"Infinity" in words


def _became_null(value: Any, written: Any) -> bool:
    """Whether anywhere in a value a number that isn't finite was written as null."""
    match value, written:
        case float(), None:
            return not math.isfinite(value)
        case dict(), dict():
            return any(map(_became_null, value.values(), written.values()))  # pyright: ignore[reportUnknownArgumentType]
        case list() | tuple() | set() | frozenset(), list():
            return any(map(_became_null, value, written))  # pyright: ignore[reportUnknownArgumentType]
        case _:
            return False

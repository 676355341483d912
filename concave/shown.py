"""Values as JSON shows them, whatever they are: also those that it has no way of its own for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_json

__all__ = ["as_base64", "as_json", "shown"]


def as_json(value: Any) -> bytes:
    """JSON, whatever is in it: it has no NaN, and an answer must never fail for a value, since its row is committed by then."""
    return to_json(value, bytes_mode="base64", inf_nan_mode="null", fallback=str)


def as_base64(value: Any) -> Any:
    """Bytes as text in the standard alphabet, which every client's decoder takes; anything else as it is."""
    return b64encode(value).decode() if isinstance(value, bytes) else value


def shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row's values, or some of them, as JSON has them."""
    return from_json(as_json({name: as_base64(value) for name, value in values.items()}))  # type: ignore[no-any-return]

"""Cursors: the place of a page's last row, signed together with the list that it is a place in."""

from __future__ import annotations

import datetime as dt
import decimal
import hmac
import logging
import math
import os
import secrets
import uuid
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Any, Final, cast

from pydantic_core import from_json, to_json

from concave.errors import ConfigurationError
from concave_sqlalchemy.problems import Problem

__all__ = ["Cursors"]

log = logging.getLogger("concave.resource")

VARIABLE: Final = "CONCAVE_SECRET"
MAX_CURSOR: Final = 8192
SIGNATURE: Final = 16
"""Bytes of SHA-256's 32: to guess one takes 2 ** 127 requests."""

PROCESS_SECRET: Final = secrets.token_bytes(32)

TO_PATH: Final = bytes.maketrans(b"+/", b"-_")
FROM_PATH: Final = bytes.maketrans(b"-_", b"+/")

MICROSECOND = dt.timedelta(microseconds=1)


@dataclass(slots=True)
class Cursors:
    """Writes and reads the cursors of one resource.

    The secret is what `of` is given, or the variable CONCAVE_SECRET, or else random for this process: then a cursor of another
    process, or of before a restart, is refused.
    """

    resource: str
    secret: bytes
    is_shared: bool
    _warned: bool = field(default=False, init=False)

    @classmethod
    def of(cls, resource: str, secret: str | bytes | None) -> Cursors:
        """Raises `ConfigurationError` for an empty secret."""
        given = os.environ.get(VARIABLE) if secret is None else secret
        if given is None:
            return cls(resource, PROCESS_SECRET, is_shared=False)
        if not given:
            raise ConfigurationError(f"secret= and {VARIABLE} must not be empty")
        return cls(resource, given.encode() if isinstance(given, str) else given, is_shared=True)

    def write(self, place: Sequence[Any], *, listed: Sequence[str]) -> str:
        """A cursor that stands for a place in the list that `listed` describes: its order, its filter."""
        data = to_json([_packed(value) for value in place])
        return _text(self._signature(data, listed) + data)

    def read(self, cursor: str, *, listed: Sequence[str]) -> list[Any]:
        """The place that a cursor stands for. Raises `Problem` 400 where it is not one of this very list's."""
        try:
            if len(cursor) > MAX_CURSOR:
                raise ValueError("too long")
            raw = a2b_base64(cursor.encode("ascii").translate(FROM_PATH) + b"==")
        except ValueError as error:
            raise self._refusal() from error
        signature, data = raw[:SIGNATURE], raw[SIGNATURE:]
        # Decoders forgive a lot; what was not written here, letter by letter, is not ours.
        if not hmac.compare_digest(signature, self._signature(data, listed)) or _text(raw) != cursor:
            raise self._refusal()
        return [_unpacked(value) for value in from_json(data)]

    def _signature(self, data: bytes, listed: Sequence[str]) -> bytes:
        signed = to_json(["cursor", self.resource, *listed]) + b"\n" + data
        return hmac.digest(self.secret, signed, "sha256")[:SIGNATURE]

    def _refusal(self) -> Problem:
        if not (self.is_shared or self._warned):
            self._warned = True
            log.warning(
                "a cursor was refused. If another process made it, or this one before a restart: set %s, or"
                " use_resource(…, secret=…), to the same value for all; now each has its own",
                VARIABLE,
            )
        message = "it is not one of this list's, with this order and this filter"
        return Problem(
            400,
            f"the cursor can't be used: {message}",
            code="CURSOR_INVALID",
            errors=[{"field": "cursor", "message": message}],
        )


def _text(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).translate(TO_PATH).decode().rstrip("=")


def _packed(value: Any) -> Any:
    """A driver's value as JSON that says what it was."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else ["float", repr(value)]
        case bytes():
            return ["bytes", value.hex()]
        case dt.datetime():
            return ["datetime", value.isoformat()]
        case dt.timedelta():
            return ["timedelta", str(value // MICROSECOND)]
        case dt.date() | dt.time():
            return [type(value).__name__, value.isoformat()]
        case decimal.Decimal():
            return ["decimal", str(value)]
        case uuid.UUID():
            return ["uuid", str(value)]
        case IPv4Address() | IPv6Address() | IPv4Network() | IPv6Network():  # interfaces are addresses, too
            return [type(value).__name__, str(value)]
        case _:
            return str(value)  # of a type of somebody's own, whose text the database reads


def _unpacked(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, text = cast("list[str]", value)
    return UNPACK[kind](text)


UNPACK: Final[Mapping[str, Callable[[str], Any]]] = {
    "float": float,
    "bytes": bytes.fromhex,
    "datetime": dt.datetime.fromisoformat,
    "timedelta": lambda text: int(text) * MICROSECOND,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    # What drivers have for PostgreSQL's INET and CIDR.
    "IPv4Address": IPv4Address,
    "IPv6Address": IPv6Address,
    "IPv4Interface": IPv4Interface,
    "IPv6Interface": IPv6Interface,
    "IPv4Network": IPv4Network,
    "IPv6Network": IPv6Network,
}

"""Pages by keyset: a cursor names the last row of a page, so that rows that come and go shift nothing."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.datastructures import QueryParams

from concave_sqlalchemy.keys import Key, KeyValue
from concave_sqlalchemy.problems import Problem

__all__ = ["PageRequest", "encode_cursor", "no_parameters", "read_page_request"]

PARAMETERS = frozenset({"limit", "cursor", "totalCount"})
MAX_CURSOR = 2048
PARTS = TypeAdapter(list[Any])


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page a client wants: at most `limit` rows whose key comes after `after` (None: from the first)."""

    limit: int
    after: KeyValue | None
    total_count: bool


def read_page_request(query: QueryParams, key: Key, *, default_limit: int, max_limit: int) -> PageRequest:
    """The page that query parameters ask for. 400 for one that is unknown, repeated or can't be."""
    given: Mapping[str, str] = dict(query)
    for name in query:
        if name not in PARAMETERS:
            raise Problem(400, f"unknown query parameter {name!r}; there are {', '.join(sorted(PARAMETERS))}")
    if len(query.multi_items()) != len(given):
        raise Problem(400, "a query parameter is given twice")
    cursor = given.get("cursor")
    return PageRequest(
        limit=_limit(given.get("limit"), default_limit, max_limit),
        after=None if cursor is None else _decode_cursor(cursor, key),
        total_count=_flag("totalCount", given.get("totalCount")),
    )


def no_parameters(query: QueryParams) -> None:
    """400 where there are query parameters: what nobody reads is a mistake that a client should hear of."""
    for name in query:
        raise Problem(400, f"unknown query parameter {name!r}; there are none here")


def encode_cursor(key: KeyValue) -> str:
    """A cursor that stands for the row with this key."""
    return urlsafe_b64encode(to_json(key)).decode().rstrip("=")


def _decode_cursor(cursor: str, key: Key) -> KeyValue:
    try:
        if len(cursor) > MAX_CURSOR:
            raise ValueError("too long")
        data = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        value = key.checked(PARTS.validate_json(data))
    except (ValueError, ValidationError) as error:
        raise _wrong_cursor() from error
    # Decoders forgive a lot; what was not written here, letter by letter, is not ours.
    if encode_cursor(value) != cursor:
        raise _wrong_cursor()
    return value


def _wrong_cursor() -> Problem:
    return Problem(400, "the cursor is not one of this list's", code="CURSOR_INVALID")


def _limit(text: str | None, default: int, most: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or not 1 <= int(text) <= most:
        raise Problem(400, f"limit must be a whole number from 1 to {most}")
    return int(text)


def _flag(name: str, text: str | None) -> bool:
    if text not in {None, "true", "false"}:
        raise Problem(400, f"{name} must be true or false")
    return text == "true"

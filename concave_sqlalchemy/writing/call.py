"""A writing request, and what is answered to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.requests import Request

from concave_sqlalchemy.etags import Conditions
from concave_sqlalchemy.scopes import Access

__all__ = ["Answer", "Call", "IdempotencyKey"]


class IdempotencyKey(NamedTuple):
    """What makes two requests one: a digest of resource, user and key; and one of what is asked, which must be the same."""

    id: str
    fingerprint: str


class Call(NamedTuple):
    """Who asks for a write, by which request and on which conditions, and which rows are theirs to write."""

    request: Request
    user: Any
    access: Access
    conditions: Conditions
    key: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client is answered once the transaction has committed. `body` is JSON, or empty."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

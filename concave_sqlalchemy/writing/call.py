"""A writing request, and what is answered to it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

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


class Answer(NamedTuple):
    """What a client is answered, a write once its transaction has committed. `body` is JSON, or empty.

    An ASGI app, like Starlette's ``Response``, which takes three times as long to find out what is known here.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = MappingProxyType({})

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        if self.body:
            headers += ((b"content-length", b"%d" % len(self.body)), (b"content-type", b"application/json"))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})

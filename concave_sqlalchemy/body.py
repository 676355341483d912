"""A request's JSON body, within limits, whoever reads it: the resource, its `user` callable or a hook."""

from __future__ import annotations

from typing import Any, cast

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

from concave_sqlalchemy.merge_patch import MEDIA_TYPES
from concave_sqlalchemy.problems import Problem, in_header

__all__ = ["Incoming", "read_object"]


class Incoming:
    """A request's body as it arrives: what a `Request` receives from.

    Raises `Problem` (413) beyond `max_bytes`, counted as they arrive, whatever Content-Length says.
    """

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int) -> None:
        self._scope = scope
        self._receive = receive
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False
        self._unread: bytes | None = None

    async def __call__(self) -> Message:
        """The next message: once more the body, where `read` was there before."""
        if self._unread is not None:
            body, self._unread = self._unread, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._next()

    async def read(self) -> bytes:
        """The whole body, whoever has read of it before. Who asks the request for it afterwards gets it, too."""
        taken = len(self._parts)
        while not self._ended:
            if (await self._next())["type"] == "http.disconnect":
                raise ClientDisconnect
        if len(self._parts) > taken:
            self._unread = b"".join(self._parts[taken:])
        return b"".join(self._parts)

    async def _next(self) -> Message:
        if not self._size:
            announced = _content_length(self._scope)
            if announced.isdigit() and int(announced) > self._max_bytes:
                raise self._too_large()
        message = await self._receive()
        if message["type"] == "http.request":
            part = message.get("body", b"")
            if part:
                self._parts.append(part)
                self._size += len(part)
            self._ended = not message.get("more_body", False)
        if self._size > self._max_bytes:
            raise self._too_large()
        return message

    def _too_large(self) -> Problem:
        return Problem(413, f"the body is larger than {self._max_bytes} bytes")


async def read_object(request: Request, *, is_patch: bool = False) -> dict[str, Any]:
    """The body as a JSON object, or as a merge patch, of a request that receives from an `Incoming`.

    Raises `Problem`: 415 for another content type, another kind of patch included, 413 for too many bytes (see `Incoming`), 400 for what isn't JSON, 422
    for JSON that isn't an object.
    """
    _check_content_type(request.headers.get("content-type", ""), is_patch=is_patch)
    data = await cast("Incoming", request.receive).read()
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, f"the body is not JSON: {error}", code="INVALID_JSON") from error
    if not isinstance(value, dict):
        errors = [{"field": "body", "message": "Input should be an object"}]
        raise Problem(422, "the body must be a JSON object", errors=errors)
    return cast("dict[str, Any]", value)


def _content_length(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return bytes(value)
    return b""


def _check_content_type(header: str, *, is_patch: bool) -> None:
    media_type = header.partition(";")[0].strip().lower()
    if is_patch:
        # A patch of another kind means something else by the same JSON.
        if media_type not in MEDIA_TYPES:
            accepted = ", ".join(MEDIA_TYPES)
            raise in_header(
                415, "content-type", f"must be one of {accepted}", accept=accepted, accept_patch=accepted
            )
        return
    kind = media_type.rpartition("/")[2]
    if media_type.startswith("application/") and (kind == "json" or kind.endswith("+json")):
        return
    raise in_header(415, "content-type", "must be application/json", accept="application/json")

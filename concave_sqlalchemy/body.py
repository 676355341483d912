"""A request's JSON body, within limits, whoever reads it: the resource, its `user` callable or a hook."""

from __future__ import annotations

from typing import Any, cast

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from concave_sqlalchemy.merge_patch import MEDIA_TYPES
from concave_sqlalchemy.problems import Problem, in_header

__all__ = ["limited", "read_object"]


def limited(scope: Scope, receive: Receive, max_bytes: int) -> Receive:
    """`receive` that raises `Problem` (413) beyond `max_bytes`, counted as they arrive, whatever Content-Length says."""
    size = 0

    async def receive_within() -> Message:
        nonlocal size
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > max_bytes:
            raise Problem(413, f"the body is larger than {max_bytes} bytes")
        message = await receive()
        size += len(message.get("body", b""))
        if size > max_bytes:
            raise Problem(413, f"the body is larger than {max_bytes} bytes")
        return message

    return receive_within


async def read_object(request: Request, *, is_patch: bool = False) -> dict[str, Any]:
    """The body as a JSON object, or as a merge patch.

    Raises `Problem`: 415 for another content type, another kind of patch included, 413 for too many bytes (see `limited`), 400 for what isn't JSON, 422
    for JSON that isn't an object.
    """
    _check_content_type(request.headers.get("content-type", ""), is_patch=is_patch)
    data = await request.body()  # the request keeps it, so that hooks can read it too
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, f"the body is not JSON: {error}", code="INVALID_JSON") from error
    if not isinstance(value, dict):
        errors = [{"field": "body", "message": "Input should be an object"}]
        raise Problem(422, "the body must be a JSON object", errors=errors)
    return cast("dict[str, Any]", value)


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

"""A request's JSON body, within limits."""

from __future__ import annotations

from typing import Any, cast

from pydantic_core import from_json
from starlette.requests import Request

from concave_sqlalchemy.problems import Problem

__all__ = ["read_object"]


async def read_object(request: Request, max_bytes: int) -> dict[str, Any]:
    """The body as a JSON object.

    Raises `Problem`: 415 for another content type, 413 beyond `max_bytes` (counted as it arrives, whatever
    Content-Length says), 400 for what isn't JSON, 422 for JSON that isn't an object.
    """
    _check_content_type(request.headers.get("content-type", ""))
    data = await _read(request, max_bytes)
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, f"the body is not JSON: {error}", code="INVALID_JSON") from error
    if not isinstance(value, dict):
        errors = [{"field": "body", "message": "Input should be an object"}]
        raise Problem(422, "the body must be a JSON object", errors=errors)
    return cast("dict[str, Any]", value)


def _check_content_type(header: str) -> None:
    media_type = header.partition(";")[0].strip().lower()
    kind = media_type.rpartition("/")[2]
    if media_type.startswith("application/") and (kind == "json" or kind.endswith("+json")):
        return
    raise Problem(415, "the body must be application/json", headers={"accept": "application/json"})


async def _read(request: Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
    return b"".join(parts)


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, f"the body is larger than {max_bytes} bytes")

"""A resource's answers as HTTP responses."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from concave_sqlalchemy.etags import Conditions
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.writing.call import Answer

__all__ = ["allow", "answered", "as_json", "conditional", "json_response"]


def allow(request: Request, *methods: str) -> None:
    """Raises `Problem` 405 for another method, with those that there are."""
    if request.method in methods or (request.method == "HEAD" and "GET" in methods):
        return
    allowed = ", ".join((*methods, "HEAD") if "GET" in methods else methods)
    raise Problem(405, f"{request.method} is not for this path; {allowed} are", headers={"allow": allowed})


def as_json(value: Any) -> Response:
    """A value as JSON."""
    return json_response(to_json(value))


def conditional(conditions: Conditions, body: bytes, tag: str) -> Response:
    """A row, or 304 where the client has it."""
    if conditions.if_match is not None:
        Conditions(conditions.if_match).check(tag)
    if conditions.is_known(tag):
        return Response(status_code=304, headers={"etag": tag})
    return Response(body, media_type="application/json", headers={"etag": tag})


def answered(answer: Answer) -> Response:
    """What a write came to."""
    media_type = "application/json" if answer.body else None
    return Response(
        answer.body, status_code=answer.status, headers=dict(answer.headers), media_type=media_type
    )


def json_response(body: bytes, *, status: int = 200) -> Response:
    """A response whose body is JSON already."""
    return Response(body, status_code=status, media_type="application/json")

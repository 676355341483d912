"""A resource's answers, as far as HTTP has a say in them."""

from __future__ import annotations

from starlette.requests import Request

from concave_sqlalchemy.etags import Conditions
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.writing.call import Answer

__all__ = ["allow", "conditional"]


def allow(request: Request, *methods: str) -> None:
    """Raises `Problem` 405 for another method, with those that there are."""
    if request.method in methods or (request.method == "HEAD" and "GET" in methods):
        return
    allowed = ", ".join((*methods, "HEAD") if "GET" in methods else methods)
    raise Problem(405, f"{request.method} is not for this path; {allowed} are", headers={"allow": allowed})


def conditional(conditions: Conditions, body: bytes, tag: str) -> Answer:
    """A row, or 304 where the client has it."""
    if conditions.if_match is not None:
        Conditions(conditions.if_match).check(tag)
    if conditions.is_known(tag):
        return Answer(304, headers={"etag": tag})
    return Answer(200, body, {"etag": tag})

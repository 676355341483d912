"""Errors as clients see them: RFC 9457's ``application/problem+json``, and nothing internal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.responses import Response

__all__ = ["Problem", "conflict", "in_header", "invalid", "problem_response"]

CODES: dict[int, tuple[str, str]] = {
    400: ("BAD_REQUEST", "bad-request"),
    401: ("UNAUTHORIZED", "unauthorized"),
    403: ("FORBIDDEN", "forbidden"),
    404: ("NOT_FOUND", "not-found"),
    405: ("METHOD_NOT_ALLOWED", "method-not-allowed"),
    409: ("CONFLICT", "conflict"),
    412: ("PRECONDITION_FAILED", "precondition-failed"),
    413: ("PAYLOAD_TOO_LARGE", "payload-too-large"),
    415: ("UNSUPPORTED_MEDIA_TYPE", "unsupported-media-type"),
    422: ("VALIDATION_ERROR", "validation-error"),
    428: ("PRECONDITION_REQUIRED", "precondition-required"),
    429: ("RATE_LIMIT_EXCEEDED", "rate-limit-exceeded"),
    500: ("INTERNAL_ERROR", "internal-error"),
    503: ("UNAVAILABLE", "unavailable"),
}


class Problem(Exception):  # noqa: N818  (RFC 9457's word)
    """An answer that isn't a success. A hook may raise one: everything is rolled back, and the client gets it.

    `errors` are ``{"field": …, "message": …}`` each. `position` is where in a filter, from 0, the mistake is.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        code: str | None = None,
        slug: str | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(detail)
        known_code, known_slug = CODES.get(status, (f"HTTP_{status}", f"http-{status}"))
        self.status = status
        self.detail = detail
        self.code = code or known_code
        self.slug = slug or (self.code.lower().replace("_", "-") if code else known_slug)
        self.errors = list(errors)
        self.headers = dict(headers or {})
        self.position = position


def problem_response(problem: Problem) -> Response:
    """A problem as a response."""
    body: dict[str, Any] = {
        "type": f"/__concave/problems/{problem.slug}",
        "title": _title(problem.status),
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
    }
    if problem.position is not None:
        body["position"] = problem.position
    if problem.errors:
        body["errors"] = problem.errors
    return Response(
        to_json(body),
        status_code=problem.status,
        headers=problem.headers,
        media_type="application/problem+json",
    )


def invalid(error: ValidationError) -> Problem:
    """422 for a body that isn't what the table takes, field by field, without the values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    errors = [{"field": ".".join(map(str, item["loc"])) or "body", "message": item["msg"]} for item in found]
    fields = ", ".join(dict.fromkeys(item["field"] for item in errors))
    return Problem(422, f"not valid: {fields}", errors=errors)


def in_header(status: int, name: str, message: str, *, code: str | None = None, **headers: str) -> Problem:
    """What is wrong with a header of the request, or would be if it were sent."""
    errors = [{"field": name, "message": message}]
    sent = {header.replace("_", "-"): value for header, value in headers.items()}
    return Problem(status, f"{name}: {message}", code=code, errors=errors, headers=sent)


def conflict() -> Problem:
    """409 for a violated constraint. Which one is in the log: its text may tell of other rows."""
    return Problem(409, "the row conflicts with another one, or refers to one that isn't there")


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"

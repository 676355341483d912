"""What query parameters ask for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from starlette.datastructures import QueryParams

from concave_sqlalchemy.problems import Problem

__all__ = ["PageRequest", "flag", "names", "only", "read_page_request"]

PARAMETERS = frozenset({"cursor", "filter", "limit", "orderBy", "select", "totalCount"})


class PageRequest(NamedTuple):
    """Which page a client wants, of which list; the texts are not yet read."""

    limit: int
    cursor: str | None
    total_count: bool
    filter: str
    order_by: str
    select: str | None


def read_page_request(query: QueryParams, *, default_limit: int, max_limit: int) -> PageRequest:
    """The page that query parameters ask for. 400 for one that is unknown, repeated or can't be."""
    given = only(query, PARAMETERS)
    return PageRequest(
        limit=_limit(given.get("limit"), default_limit, max_limit),
        cursor=given.get("cursor"),
        total_count=flag("totalCount", given.get("totalCount")),
        filter=given.get("filter", ""),
        order_by=given.get("orderBy", ""),
        select=given.get("select"),
    )


def only(query: QueryParams, known: Collection[str]) -> Mapping[str, str]:
    """The parameters, each given once and `known`; 400 otherwise: what nobody reads is a mistake that a client should hear of."""
    given: Mapping[str, str] = dict(query)
    for name in given:
        if name not in known:
            there = f"there are {', '.join(sorted(known))}" if known else "there are none here"
            raise Problem(400, f"unknown query parameter {name!r}; {there}", errors=_errors(name, "unknown"))
    items = query.multi_items()
    if len(items) != len(given):
        twice = next(name for name in given if len(query.getlist(name)) > 1)
        raise Problem(400, "a query parameter is given twice", errors=_errors(twice, "given twice"))
    return given


def names(parameter: str, text: str | None, known: Collection[str]) -> list[str]:
    """``a,b`` as names of fields, each of them `known` and kept once; 400 otherwise. None is no name."""
    if text is None:
        return []
    found = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in found:
        if name not in known:
            raise Problem(
                400,
                f"{parameter}: there is no field {name!r} for it",
                errors=_errors(parameter, "no such field"),
            )
    return found


def flag(name: str, text: str | None) -> bool:
    """``true`` or ``false``; false where it isn't given."""
    if text not in {None, "true", "false"}:
        raise Problem(400, f"{name} must be true or false", errors=_errors(name, "true or false"))
    return text == "true"


def _limit(text: str | None, default: int, most: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or not 1 <= int(text) <= most:
        message = f"must be a whole number from 1 to {most}"
        raise Problem(400, f"limit {message}", errors=_errors("limit", message))
    return int(text)


def _errors(name: str, message: str) -> list[Mapping[str, str]]:
    return [{"field": name, "message": message}]

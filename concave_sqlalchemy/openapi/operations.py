"""What can be asked of a resource over HTTP, as data. An operation that is added here is in every document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["OPERATIONS", "Operation"]

READS: Final = (400, 500, 503)
WRITES: Final = (400, 409, 413, 415, 422, 500, 503)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. Names of schemas and parameters are those of `document`."""

    name: str
    method: str
    path: str
    """Below the resource's own."""
    summary: str
    description: str = ""
    parameters: tuple[str, ...] = ()
    body: str = ""
    """The schema of its body, where it has one."""
    status: int = 200
    answer: str = ""
    """The schema of its answer, where that isn't empty."""
    problems: tuple[int, ...] = READS
    links: Mapping[str, str] = field(default_factory=dict[str, str])
    """What can be done next with the row that is answered: a link's name → the operation's."""


ONE_ROW: Final = {"read": "read", "change": "patch", "replace": "replace", "delete": "delete"}

OPERATIONS: Final = (
    Operation(
        "list", "get", "", "A page of rows",
        "Where `hasMore` is true, `nextCursor` is the `cursor` of the next page, with the same `filter` and `orderBy`.",
        parameters=("filter", "orderBy", "select", "limit", "cursor", "totalCount"), answer="Page",
    ),
    Operation(
        "create", "post", "", "A new row", body="Create", status=201, answer="Row", problems=WRITES, links=ONE_ROW,
    ),
    Operation("count", "get", "/count", "How many rows there are", parameters=("filter",), answer="Count"),
    Operation(
        "aggregate", "get", "/aggregate", "Counts, sums, averages, least and greatest values",
        "At least one of `groupBy`, `count`, `sum`, `avg`, `min` and `max` is given. More groups than 1,000 are refused.",
        parameters=("filter", "groupBy", "count", "sum", "avg", "min", "max"), answer="Groups",
    ),
    Operation(
        "read", "get", "/{id}", "One row", parameters=("id", "select"), answer="Selected", problems=(404, *READS),
    ),
    Operation(
        "patch", "patch", "/{id}", "Change some columns of a row", parameters=("id",), body="Patch", answer="Row",
        problems=(404, *WRITES),
    ),
    Operation(
        "replace", "put", "/{id}", "Change all columns of a row",
        "Those that are left out go back to their defaults.",
        parameters=("id",), body="Replace", answer="Row", problems=(404, *WRITES),
    ),
    Operation(
        "delete", "delete", "/{id}", "Delete a row", parameters=("id",), status=204,
        problems=(400, 404, 409, 500, 503),
    ),
)  # fmt: skip

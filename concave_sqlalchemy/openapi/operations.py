"""What can be asked of a resource over HTTP, as data. An operation that is added here is in every document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from concave_sqlalchemy.merge_patch import MEDIA_TYPES as MERGE_PATCH

__all__ = ["JSON", "OPERATIONS", "Operation"]

JSON: Final = "application/json"

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
    media_types: tuple[str, ...] = (JSON,)
    """What its body may be."""
    status: int = 200
    answer: str = ""
    """The schema of its answer, where that isn't empty."""
    problems: tuple[int, ...] = READS
    or_status: int | None = None
    """Another status with the same answer."""
    may_be_known: bool = False
    """Whether 304 says that the client has it already."""
    tagged: bool = False
    """Whether the answer is one row, with its ETag."""
    links: Mapping[str, str] = field(default_factory=dict[str, str])
    """What can be done next with the row that is answered: a link's name → the operation's."""


ONE_ROW: Final = {"read": "read", "change": "patch", "replace": "replace", "delete": "delete"}

KEYED: Final = ("Idempotency-Key",)
CONDITIONAL: Final = ("id", "If-Match", "If-None-Match", "Idempotency-Key")
ONE_WRITE: Final = (404, 412, 428, *WRITES)

OPERATIONS: Final = (
    Operation(
        "list", "get", "", "A page of rows",
        "Where `hasMore` is true, `nextCursor` is the `cursor` of the next page, with the same `filter` and `orderBy`.",
        parameters=("filter", "orderBy", "select", "limit", "cursor", "totalCount"), answer="Page",
    ),
    Operation(
        "create", "post", "", "A new row",
        "With `on_conflict`, a change of the row that has the same values of these fields, where there is one: 200.",
        parameters=("on_conflict", "Idempotency-Key"), body="Create", status=201, or_status=200, answer="Row", problems=WRITES,
        tagged=True, links=ONE_ROW,
    ),
    Operation("count", "get", "/count", "How many rows there are", parameters=("filter",), answer="Count"),
    Operation(
        "aggregate", "get", "/aggregate", "Counts, sums, averages, least and greatest values",
        "At least one of `groupBy`, `count`, `sum`, `avg`, `min` and `max` is given. More groups than 1,000 are refused.",
        parameters=("filter", "groupBy", "count", "sum", "avg", "min", "max"), answer="Groups",
    ),
    Operation(
        "createMany", "post", "/batch", "New rows, all of them or none", parameters=("on_conflict", "Idempotency-Key"),
        body="Drafts", answer="Rows", problems=WRITES,
    ),
    Operation(
        "patchMany", "patch", "/batch", "The same change of several rows, all of them or none",
        "The rows are those of `filter`; or all, which must be said: `all=true`.",
        parameters=("filter", "all", *KEYED), body="Patch", media_types=MERGE_PATCH, answer="Count", problems=WRITES,
    ),
    Operation(
        "deleteMany", "delete", "/batch", "Delete several rows, all of them or none",
        "The rows are those of `filter`; or all, which must be said: `all=true`.",
        parameters=("filter", "all", *KEYED), answer="Count", problems=(400, 409, 413, 422, 500, 503),
    ),
    Operation(
        "read", "get", "/{id}", "One row", parameters=("id", "select", "If-Match", "If-None-Match"), answer="Selected",
        problems=(404, 412, *READS), tagged=True, may_be_known=True,
    ),
    Operation(
        "patch", "patch", "/{id}", "Change some columns of a row", "A merge patch (RFC 7396).", parameters=CONDITIONAL,
        body="Patch", media_types=MERGE_PATCH, answer="Row", problems=ONE_WRITE, tagged=True,
    ),
    Operation(
        "replace", "put", "/{id}", "Change all columns of a row", "Those that are left out go back to their defaults.",
        parameters=CONDITIONAL, body="Replace", answer="Row", problems=ONE_WRITE, tagged=True,
    ),
    Operation(
        "delete", "delete", "/{id}", "Delete a row", parameters=CONDITIONAL, status=204,
        problems=(400, 404, 409, 412, 413, 422, 428, 500, 503),
    ),
)  # fmt: skip

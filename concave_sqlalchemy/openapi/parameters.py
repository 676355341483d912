"""What can be asked along with an operation, in its path, query and headers, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from concave_sqlalchemy.aggregates import aggregable
from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.filters.parser import MAX_LENGTH
from concave_sqlalchemy.openapi.schemas import TEXT, Json, Schemas
from concave_sqlalchemy.openapi.subject import Subject

__all__ = ["ETAGS", "IDEMPOTENCY_KEY", "PARAMETERS"]

RSQL: Final = 'RSQL, as in `age>=18;(role==admin,name=icontains="ada")`: `;` is AND, `,` is OR; lists are written `(a,b)`.'
ETAGS: Final = r'^(\*|(W/)?"[!#-~]*"(, (W/)?"[!#-~]*")*)$'
IDEMPOTENCY_KEY: Final = r"^[!-~]([ -~]{0,253}[!-~])?$"
ORDER: Final = "Fields in order, each with `:asc` or `:desc`, as in `name:asc,id:desc`. NULL counts as the greatest value."


def _query(schema: Json, description: str = "", **more: Any) -> Json:
    return {"in": "query", "schema": schema, **({"description": description} if description else {}), **more}


def _always(parameter: Json) -> Callable[[Subject, Schemas], Json | None]:
    return lambda _subject, _schemas: parameter


def _fields(fields: Iterable[ResourceField], description: str) -> Json | None:
    names = [field.name for field in fields]
    if not names:
        return None
    schema = {"type": "array", "items": {"type": "string", "enum": names}, "minItems": 1}
    # With commas between them: `a,b`.
    return _query(schema, description, style="form", explode=False)


def _one_of(texts: Sequence[str], description: str) -> Json | None:
    return _query({**TEXT, "enum": list(texts)}, description) if texts else None


def _aggregated(function: str, description: str) -> Callable[[Subject, Schemas], Json | None]:
    return lambda subject, _schemas: _fields(aggregable(subject.allowed.readable)[function], description)


def _id(subject: Subject, schemas: Schemas) -> Json:
    key = subject.schema.key
    first, *others = key.fields
    if others:
        description = f"The row's {', '.join(key.names)}, with commas between them."
        pattern = rf"^[^,/]+(,[^,/]+){{{len(others)}}}$"
        return {
            "in": "path",
            "required": True,
            "description": description,
            "schema": {**TEXT, "pattern": pattern},
        }
    schema = schemas.of(first.type)
    if schema.get("type") == "string" and "format" not in schema:
        schema = {**schema, "minLength": 1}
    return {"in": "path", "required": True, "schema": schema}


def _header(pattern: str, description: str) -> Callable[[Subject, Schemas], Json | None]:
    return _always({"in": "header", "schema": {**TEXT, "pattern": pattern}, "description": description})


# None is one that this resource has no use for.
PARAMETERS: Final[Mapping[str, Callable[[Subject, Schemas], Json | None]]] = {
    "id": _id,
    "filter": _always(_query({**TEXT, "format": "rsql", "maxLength": MAX_LENGTH}, RSQL)),
    "orderBy": _always(_query({**TEXT, "format": "order"}, ORDER)),
    "select": lambda subject, _schemas: _fields(
        subject.allowed.readable, "The fields to show; all by default."
    ),
    "limit": lambda subject, _schemas: _query(
        {"type": "integer", "minimum": 1, "maximum": subject.max_limit, "default": subject.default_limit}
    ),
    "cursor": _always(_query({**TEXT, "format": "cursor"}, "The page after another: its `nextCursor`.")),
    "totalCount": _always(_query({"type": "boolean", "default": False}, "Whether to count all that match.")),
    "groupBy": lambda subject, _schemas: _fields(
        aggregable(subject.allowed.filterable)["groupBy"], "What a group has in common."
    ),
    "count": _always(_query({"type": "boolean", "default": False}, "Whether to count each group's rows.")),
    "sum": _aggregated("sum", "Numbers to add up."),
    "avg": _aggregated("avg", "Numbers whose average is wanted."),
    "min": _aggregated("min", "Fields whose least value is wanted."),
    "max": _aggregated("max", "Fields whose greatest value is wanted."),
    "all": _always(
        _query({"type": "boolean", "default": False}, "That all rows are meant, where there is no filter.")
    ),
    "on_conflict": lambda subject, _schemas: _one_of(
        subject.unique, "The key, or fields that are unique together; each of them is then needed."
    ),
    "If-Match": _header(ETAGS, "Only where the row is in one of these states, or there at all: `*`."),
    "If-None-Match": _header(ETAGS, "Only where the row is in none of these states."),
    "Idempotency-Key": _header(
        IDEMPOTENCY_KEY,
        "A name of this request: sent again with it, it is answered again and done once.",
    ),
}

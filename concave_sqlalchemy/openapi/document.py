"""A resource → its part of an OpenAPI 3.1 document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from concave_sqlalchemy.aggregates import aggregable
from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.filters.parser import MAX_LENGTH
from concave_sqlalchemy.json_values import shown_type
from concave_sqlalchemy.openapi.operations import OPERATIONS, Operation
from concave_sqlalchemy.openapi.subject import Subject
from concave_sqlalchemy.schema import BodyModel

__all__ = ["described", "document", "merged"]

Json = dict[str, Any]

PROBLEM: Final = "Problem"
JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"
TEXT: Final[Json] = {"type": "string"}
RSQL: Final = 'RSQL, as in `age>=18;(role==admin,name=icontains="ada")`: `;` is AND, `,` is OR; lists are written `(a,b)`.'
ETAGS: Final = r'^(\*|(W/)?"[!#-~]*"(, (W/)?"[!#-~]*")*)$'
IDEMPOTENCY_KEY: Final = r"^[!-~]([ -~]{0,253}[!-~])?$"
ORDER: Final = "Fields in order, each with `:asc` or `:desc`, as in `name:asc,id:desc`. NULL counts as the greatest value."


def document(title: str, version: str, parts: Iterable[Json]) -> Json:
    """A whole document of the parts that `described` returns."""
    whole: Json = {"openapi": "3.1.0", "info": {"title": title, "version": version}, "paths": {}}
    for part in parts:
        merged(whole, part)
    return whole


def merged(whole: Json, part: Json) -> None:
    """Put a part into a document; what is there by the same name already stays."""
    for path, operations in part["paths"].items():
        whole.setdefault("paths", {}).setdefault(path, operations)
    schemas = whole.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in part["components"]["schemas"].items():
        schemas.setdefault(name, schema)


def described(subject: Subject, path: str) -> Json:
    """The paths and schemas of a resource that is mounted at `path`."""
    base = path.rstrip("/")
    prefix = re.sub(r"[^A-Za-z0-9_-]+", ".", base).strip(".") or subject.table
    schemas = _Schemas(prefix)
    paths: Json = {}
    for operation in OPERATIONS:
        made = _operation(operation, subject, schemas)
        paths.setdefault(f"{base}{operation.path}" or "/", {})[operation.method] = made
    return {"paths": paths, "components": {"schemas": schemas.found}}


class _Schemas:
    """The schemas of one resource, made as they are referred to, each under a name of its own in the whole document."""

    def __init__(self, prefix: str) -> None:
        self.found: Json = {}
        self.prefix = prefix

    def ref(self, name: str, subject: Subject) -> Json:
        full = f"concave.{name}" if name == PROBLEM else f"{self.prefix}.{name}"
        if full not in self.found:
            self.found[full] = {}  # it may refer to itself
            self.found[full] = SCHEMAS[name](subject, self)
        return {"$ref": f"#/components/schemas/{full}"}

    def of(self, kind: Any) -> Json:
        """The schema of a type as it is written in JSON."""
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        return self._hoisted(adapter.json_schema(mode="serialization", ref_template=self._template))

    def of_body(self, model: type[BaseModel]) -> Json:
        """The schema of what a client sends."""
        made = self._hoisted(model.model_json_schema(ref_template=self._template))
        made.pop("title", None)
        for each in made.get("properties", {}).values():
            # No default is the client's to know; a database may make it.
            each.pop("default", None)
            each.pop("title", None)
        return made

    @property
    def _template(self) -> str:
        return f"#/components/schemas/{self.prefix}.{{model}}"

    def _hoisted(self, schema: Json) -> Json:
        for name, each in schema.pop("$defs", {}).items():
            self.found[f"{self.prefix}.{name}"] = each
        return schema


def _operation(operation: Operation, subject: Subject, schemas: _Schemas) -> Json:
    answer: Json = {"description": HTTPStatus(operation.status).phrase}
    if operation.answer:
        answer["content"] = {JSON: {"schema": schemas.ref(operation.answer, subject)}}
    if operation.links and len(subject.schema.key.fields) == 1:
        key = subject.schema.key.names[0].replace("~", "~0").replace("/", "~1")
        answer["links"] = {
            name: {
                "operationId": f"{schemas.prefix}.{target}",
                "parameters": {"id": f"$response.body#/{key}"},
            }
            for name, target in operation.links.items()
        }
    if operation.tagged:
        answer["headers"] = {"ETag": {"schema": TEXT, "description": "The state of the row, for If-Match."}}
    refusals = (401, 403) if subject.may_be_refused else ()
    problems = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_JSON: {"schema": schemas.ref(PROBLEM, subject)}},
        }
        for status in sorted({*operation.problems, *refusals})
    }
    made: Json = {
        "operationId": f"{schemas.prefix}.{operation.name}",
        "summary": operation.summary,
        "tags": [subject.table],
        "responses": {str(operation.status): answer, **problems},
    }
    if operation.or_status is not None:
        others = {name: each for name, each in answer.items() if name != "links"}
        made["responses"][str(operation.or_status)] = {
            **others, "description": HTTPStatus(operation.or_status).phrase,
        }  # fmt: skip
    if operation.may_be_known:
        made["responses"]["304"] = {"description": HTTPStatus(304).phrase}
    if operation.description:
        made["description"] = operation.description
    parameters = {name: PARAMETERS[name](subject, schemas) for name in operation.parameters}
    if parameters:
        made["parameters"] = [{"name": name, **each} for name, each in parameters.items() if each is not None]
    if operation.body:
        content = {"schema": schemas.ref(operation.body, subject)}
        made["requestBody"] = {"required": True, "content": {JSON: content}}
    return made


# Schemas by name.


def _row(subject: Subject, schemas: _Schemas) -> Json:
    whole = _selected(subject, schemas)
    return {**whole, "required": list(whole["properties"])}


def _selected(subject: Subject, schemas: _Schemas) -> Json:
    properties = {
        field.name: schemas.of(shown_type(field, subject.schema.numeric))
        for field in subject.allowed.readable
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _page(subject: Subject, schemas: _Schemas) -> Json:
    return {
        "type": "object",
        "properties": {
            "items": {"type": "array", "items": schemas.ref("Selected", subject)},
            "nextCursor": {"type": ["string", "null"]},
            "hasMore": {"type": "boolean"},
            "totalCount": {"type": "integer", "minimum": 0},
        },
        "required": ["items", "nextCursor", "hasMore"],
        "additionalProperties": False,
    }


def _groups(_subject: Subject, _schemas: _Schemas) -> Json:
    some = {"type": "object", "additionalProperties": True}
    properties: Json = {
        "key": {**some, "type": ["object", "null"]},
        "count": {"type": "integer", "minimum": 0},
        **dict.fromkeys(("sum", "avg", "min", "max"), some),
    }
    group = {"type": "object", "properties": properties, "required": ["key"], "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"groups": {"type": "array", "items": group}},
        "required": ["groups"],
        "additionalProperties": False,
    }


def _count(_subject: Subject, _schemas: _Schemas) -> Json:
    return {
        "type": "object",
        "properties": {"count": {"type": "integer", "minimum": 0}},
        "required": ["count"],
        "additionalProperties": False,
    }


def _rows(subject: Subject, schemas: _Schemas) -> Json:
    return _items(schemas.ref("Row", subject))


def _drafts(subject: Subject, schemas: _Schemas) -> Json:
    return _items(schemas.ref("Create", subject), maxItems=subject.max_batch)


def _items(each: Json, **bounds: int) -> Json:
    return {
        "type": "object",
        "properties": {"items": {"type": "array", "items": each, **bounds}},
        "required": ["items"],
        "additionalProperties": False,
    }


def _problem(_subject: Subject, _schemas: _Schemas) -> Json:
    error = {
        "type": "object",
        "properties": {"field": TEXT, "message": TEXT},
        "required": ["field", "message"],
    }
    return {
        "description": "RFC 9457, with a `code`; `errors` tell of fields, `position` of a place in a filter.",
        "type": "object",
        "properties": {
            **dict.fromkeys(("type", "title", "detail", "code"), TEXT),
            "status": {"type": "integer"},
            "position": {"type": "integer", "minimum": 0},
            "errors": {"type": "array", "items": error},
        },
        "required": ["type", "title", "status", "detail", "code"],
    }


def _body(choose: Callable[[Subject], tuple[BodyModel, bool]]) -> Callable[[Subject, _Schemas], Json]:
    def made(subject: Subject, schemas: _Schemas) -> Json:
        model, completed = choose(subject)
        return schemas.of_body(model.partial if completed else model.whole)

    return made


SCHEMAS: Final[Mapping[str, Callable[[Subject, _Schemas], Json]]] = {
    "Row": _row,
    "Selected": _selected,
    "Page": _page,
    "Groups": _groups,
    "Count": _count,
    "Rows": _rows,
    "Drafts": _drafts,
    PROBLEM: _problem,
    "Create": _body(lambda subject: (subject.schema.create, subject.completes_create)),
    "Patch": _body(lambda subject: (subject.schema.patch, subject.completes_update)),
    "Replace": _body(lambda subject: (subject.schema.replace, subject.completes_update)),
}


# Parameters by name. None is one that this resource has no use for.


def _query(schema: Json, description: str = "", **more: Any) -> Json:
    return {"in": "query", "schema": schema, **({"description": description} if description else {}), **more}


def _always(parameter: Json) -> Callable[[Subject, _Schemas], Json | None]:
    return lambda _subject, _schemas: parameter


def _fields(fields: Iterable[ResourceField], description: str) -> Json | None:
    names = [field.name for field in fields]
    if not names:
        return None
    schema = {"type": "array", "items": {"type": "string", "enum": names}, "minItems": 1}
    # With commas between them: `a,b`.
    return _query(schema, description, style="form", explode=False)


def _aggregated(function: str, description: str) -> Callable[[Subject, _Schemas], Json | None]:
    return lambda subject, _schemas: _fields(aggregable(subject.allowed.readable)[function], description)


def _id(subject: Subject, schemas: _Schemas) -> Json:
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


def _header(pattern: str, description: str) -> Callable[[Subject, _Schemas], Json | None]:
    return _always({"in": "header", "schema": {**TEXT, "pattern": pattern}, "description": description})


PARAMETERS: Final[Mapping[str, Callable[[Subject, _Schemas], Json | None]]] = {
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
    "on_conflict": _always(
        _query(
            {**TEXT, "format": "unique-fields"}, "The key, or fields that are unique together, as in `email`."
        )
    ),
    "If-Match": _header(ETAGS, "Only where the row is in one of these states, or there at all: `*`."),
    "If-None-Match": _header(ETAGS, "Only where the row is in none of these states."),
    "Idempotency-Key": _header(
        IDEMPOTENCY_KEY,
        "A name of this request: sent again with it, it is answered again and done once.",
    ),
}

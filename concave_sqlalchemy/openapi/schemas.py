"""What bodies look like: the schemas of a resource, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from concave_sqlalchemy.json_values import shown_type
from concave_sqlalchemy.openapi.subject import Subject
from concave_sqlalchemy.schema import BodyModel

__all__ = ["PROBLEM", "TEXT", "Json", "Schemas"]

Json = dict[str, Any]

PROBLEM: Final = "Problem"
TEXT: Final[Json] = {"type": "string"}


class Schemas:
    """The schemas of one resource, made as they are referred to, each under a name of its own in the whole document."""

    def __init__(self, prefix: str) -> None:
        self.found: Json = {}
        self.prefix = prefix

    def ref(self, name: str, subject: Subject) -> Json:
        """A reference to a schema of `SCHEMAS`."""
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


def _row(subject: Subject, schemas: Schemas) -> Json:
    whole = _selected(subject, schemas)
    return {**whole, "required": list(whole["properties"])}


def _selected(subject: Subject, schemas: Schemas) -> Json:
    properties = {
        field.name: schemas.of(shown_type(field, subject.schema.numeric))
        for field in subject.allowed.readable
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _page(subject: Subject, schemas: Schemas) -> Json:
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


def _groups(_subject: Subject, _schemas: Schemas) -> Json:
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


def _count(_subject: Subject, _schemas: Schemas) -> Json:
    return {
        "type": "object",
        "properties": {"count": {"type": "integer", "minimum": 0}},
        "required": ["count"],
        "additionalProperties": False,
    }


def _rows(subject: Subject, schemas: Schemas) -> Json:
    return _items(schemas.ref("Row", subject))


def _drafts(subject: Subject, schemas: Schemas) -> Json:
    return _items(schemas.ref("Create", subject), maxItems=subject.max_batch)


def _items(each: Json, **bounds: int) -> Json:
    return {
        "type": "object",
        "properties": {"items": {"type": "array", "items": each, **bounds}},
        "required": ["items"],
        "additionalProperties": False,
    }


def _problem(_subject: Subject, _schemas: Schemas) -> Json:
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


def _body(choose: Callable[[Subject], tuple[BodyModel, bool]]) -> Callable[[Subject, Schemas], Json]:
    def made(subject: Subject, schemas: Schemas) -> Json:
        model, completed = choose(subject)
        return schemas.of_body(model.partial if completed else model.whole)

    return made


SCHEMAS: Final[Mapping[str, Callable[[Subject, Schemas], Json]]] = {
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

"""A resource → its part of an OpenAPI 3.1 document."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from concave_sqlalchemy.openapi.operations import JSON, OPERATIONS, Operation
from concave_sqlalchemy.openapi.parameters import PARAMETERS
from concave_sqlalchemy.openapi.schemas import PROBLEM, TEXT, Json, Schemas
from concave_sqlalchemy.openapi.subject import Subject

__all__ = ["described", "document", "merged"]

PROBLEM_JSON: Final = "application/problem+json"


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
    schemas = Schemas(prefix)
    paths: Json = {}
    for operation in OPERATIONS:
        made = _operation(operation, subject, schemas)
        paths.setdefault(f"{base}{operation.path}" or "/", {})[operation.method] = made
    return {"paths": paths, "components": {"schemas": schemas.found}}


def _operation(operation: Operation, subject: Subject, schemas: Schemas) -> Json:
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
        made["requestBody"] = {"required": True, "content": dict.fromkeys(operation.media_types, content)}
    return made

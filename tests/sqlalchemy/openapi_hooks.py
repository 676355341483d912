"""What Schemathesis can't read in a schema, since it is about this app's rows: it loads this file by itself.

A filter is in a language of its own, an order names fields, and a cursor is one that the list itself gave.
"""

import re
import uuid
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, HookContext

from concave_sqlalchemy.openapi.parameters import ETAGS, IDEMPOTENCY_KEY

FILTERS = (
    "",
    "{0}!=null",
    "{0}=isnull=false;({0}=isnull=true,{1}=isnull=true)",
    "{1}==null or {0}!=null and {1}!=null",
    "{0}=in=(null)",
)
SHAPES = {"If-Match": ETAGS, "If-None-Match": ETAGS, "Idempotency-Key": IDEMPOTENCY_KEY}
ORDERS = ("", "{0}", "{0}:desc,{1}:asc", "{1}:DESC")

for name in ("rsql", "order", "cursor", "unique-fields"):
    schemathesis.openapi.format(name, st.text(max_size=5))
schemathesis.openapi.format("date-time-local", st.datetimes().map(lambda moment: moment.isoformat()))


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    query: Any = case.query
    is_valid = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    _settle_headers(case, is_valid=is_valid)
    if not is_valid or not isinstance(query, dict):
        return
    fields = _fields(case)
    query.pop("on_conflict", None)
    if case.path.endswith("/batch") and case.method in {"PATCH", "DELETE"}:
        query["filter"] = f"{fields[0]}==null"
        return
    for parameter, choices in (("filter", FILTERS), ("orderBy", ORDERS)):
        if parameter in query:
            text = choices[len(str(query[parameter])) % len(choices)]
            query[parameter] = text.format(fields[0], fields[-1])
    if "cursor" in query:
        _follow(case, query)
    if case.path.endswith("/aggregate") and not set(query) - {"filter", "count"}:
        query["count"] = "true"


def _settle_headers(case: Case[Any], *, is_valid: bool) -> None:
    """Conditions that the row meets, and a key that no other request had; but for those that are no such thing at all."""
    for name, value in (
        ("If-Match", "*"),
        ("If-None-Match", '"none"'),
        ("Idempotency-Key", uuid.uuid4().hex),
    ):
        if name in case.headers and (is_valid or re.fullmatch(SHAPES[name], str(case.headers[name]))):
            case.headers[name] = value


def _fields(case: Case[Any]) -> list[str]:
    """What can be filtered and sorted by: what can be grouped by, which its own operation tells."""
    of_table = case.operation.schema.raw_schema["paths"][
        case.path.removesuffix("/aggregate")
        .removesuffix("/count")
        .removesuffix("/{id}")
        .removesuffix("/batch")
        + "/aggregate"
    ]
    return list(
        next(each for each in of_table["get"]["parameters"] if each["name"] == "groupBy")["schema"]["items"][
            "enum"
        ]
    )


def _follow(case: Case[Any], query: dict[str, Any]) -> None:
    """The second page of the list that is asked for, where it has one."""
    listed: dict[str, str] = {name: query[name] for name in ("filter", "orderBy") if name in query}
    answer = requests.get(
        f"{case.operation.base_url.rstrip('/')}{case.path}", params=listed | {"limit": "1"}, timeout=10
    )
    cursor = answer.json()["nextCursor"]
    del query["cursor"]
    if cursor is not None:
        query["cursor"] = cursor

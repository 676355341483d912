"""What Schemathesis can't read in a schema, since it is about this app's rows: it loads this file by itself.

A filter is in a language of its own, an order names fields, and a cursor is one that the list itself gave.
"""

import itertools
import re
import uuid
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, HookContext
from schemathesis.generation.meta import TestPhase

from concave_sqlalchemy.openapi.parameters import ETAGS, IDEMPOTENCY_KEY

FILTERS = (
    "",
    "{0}!=null",
    "{0}=isnull=false;({0}=isnull=true,{1}=isnull=true)",
    "{1}==null or {0}!=null and {1}!=null",
    "{0}=in=(null)",
)
SHAPES = {"If-Match": ETAGS, "If-None-Match": ETAGS, "Idempotency-Key": IDEMPOTENCY_KEY}
in_turn = itertools.cycle(("name==a", "name=in=(a,b,c)", "", "row!=null,note==null", "seat<0;name!=b"))
names = itertools.cycle("abcdefghij")
BATCHES = ("/slots/batch",)
"""Where it hurts nobody that rows are changed and deleted; nothing else is to lose what a sequence of requests goes on with."""
ORDERS = ("", "{0}", "{0}:desc,{1}:asc", "{1}:DESC")

for name in ("rsql", "order", "cursor"):
    schemathesis.openapi.format(name, st.text(max_size=5))
schemathesis.openapi.format("date-time-local", st.datetimes().map(lambda moment: moment.isoformat()))


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    is_valid = case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE
    _settle_headers(case, is_valid=is_valid)
    if not is_valid:
        return
    fields = _fields(case)
    if case.path.endswith("/batch") and case.method in {"PATCH", "DELETE"}:
        case.query = _of_batch(case, fields)
        return
    if case.path in BATCHES:
        body: Any = case.body
        for row in body["items"]:
            row["name"] = next(names)
    query: Any = case.query
    if not isinstance(query, dict):
        return
    if "on_conflict" in query:
        _complete(case.body, query["on_conflict"].split(","))
    for parameter, choices in (("filter", FILTERS), ("orderBy", ORDERS)):
        if parameter in query:
            text = choices[len(str(query[parameter])) % len(choices)]
            query[parameter] = text.format(fields[0], fields[-1])
    if "cursor" in query:
        _follow(case, query)
    if case.path.endswith("/aggregate") and not set(query) - {"filter", "count"}:
        query["count"] = "true"


def _of_batch(case: Case[Any], fields: list[str]) -> dict[str, Any]:
    """Which rows: those of a filter, or all of them; of what is needed later, none."""
    query = dict(case.query or {})
    is_needed = case.path not in BATCHES or (
        case.meta is not None and case.meta.phase.name is TestPhase.STATEFUL
    )
    if is_needed:
        return {**query, "filter": f"{fields[0]}==null"}
    choice = next(in_turn)
    return {**query, "filter": choice} if choice else {"all": "true"}


def _complete(body: Any, unique: list[str]) -> None:
    """Rows with all of the fields that tell whether they are there already."""
    for number, row in enumerate(body["items"] if set(body) == {"items"} else [body]):
        for field in unique:
            row.setdefault(field, number)


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

"""What Schemathesis can't read in a schema, since it is about this app's rows: it loads this file by itself.

A filter is in a language of its own, an order names fields, and a cursor is one that the list itself gave.
"""

from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, HookContext

FILTERS = (
    "",
    "{0}!=null",
    "{0}=isnull=false;({0}=isnull=true,{1}=isnull=true)",
    "{1}==null or {0}!=null and {1}!=null",
    "{0}=in=(null)",
)
ORDERS = ("", "{0}", "{0}:desc,{1}:asc", "{1}:DESC")

for name in ("rsql", "order", "cursor"):
    schemathesis.openapi.format(name, st.text(max_size=5))
schemathesis.openapi.format("date-time-local", st.datetimes().map(lambda moment: moment.isoformat()))


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    query: Any = case.query
    if (
        case.meta is None
        or case.meta.generation.mode is not GenerationMode.POSITIVE
        or not isinstance(query, dict)
    ):
        return
    fields = _fields(case)
    for parameter, choices in (("filter", FILTERS), ("orderBy", ORDERS)):
        if parameter in query:
            text = choices[len(str(query[parameter])) % len(choices)]
            query[parameter] = text.format(fields[0], fields[-1])
    if "cursor" in query:
        _follow(case, query)
    if case.path.endswith("/aggregate") and not set(query) - {"filter", "count"}:
        query["count"] = "true"


def _fields(case: Case[Any]) -> list[str]:
    """What can be filtered and sorted by: what can be grouped by, which its own operation tells."""
    of_table = case.operation.schema.raw_schema["paths"][
        case.path.removesuffix("/aggregate").removesuffix("/count").removesuffix("/{id}") + "/aggregate"
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

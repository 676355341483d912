"""Requests that nobody would send who means well, for Hypothesis to build; many of them are nearly right."""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from hypothesis import strategies as st
from pydantic_core import to_json

from concave_sqlalchemy.filters.operators import BUILT_IN

__all__ = ["CURSOR", "Asked", "asked"]

CURSOR: Final = "<the next page>"
"""Stands in a query for the cursor that the last list gave; with letters after it, for one that was tampered with."""

PIECES = (
    "'", '"', ";", "--", "/*", "\\", "%", "_", "(", ")", "[", "]", ",", "=", "==", "!", "<", ">", "&", "|", " ", "\n", "\t", "\0", "null",
    "true", "and", "or", "0", "1", "-1", "1e308", "99999999999999999999", "é", "ß", "İ", "Ω", "漢", "😀", "\u202e", "\ufeff", "\ud7ff", "e\u0301",
    "' OR '1'='1", '1" or id!="1', 'x"),(id!="x', "); DROP TABLE things; --", "{}", "${x}", "%s", ":a", "?", "$1", "a", "Ada", "../", "..",
)  # fmt: skip
FIELDS = (
    "id",
    "owner",
    "name",
    "count",
    "price",
    "amount",
    "on",
    "at",
    "made",
    "day",
    "span",
    "size",
    "token",
    "blob",
    "data",
)
"""Those of the table, and all of its kinds."""
PLAIN = (
    "1", "0", "-7", "3.5", "true", "false", "null", "small", "Ada", "2024-01-15", "2024-01-15T12:00:00Z", "2024-01-15T12:00:00",
    "P1DT2H", "00000000-0000-4000-8000-000000000000", "YQ==", "9" * 25, "1e400", "0001-01-01T00:00:00+14:00",
)  # fmt: skip

texts = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(max_size=12).map(
    lambda text: text.encode("utf-8", "replace").decode()
)
quoted = texts.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
values = st.sampled_from(PLAIN) | quoted | quoted.map(lambda text: text[:-1]) | texts
lists = st.lists(values, max_size=3).map(lambda each: "(" + ",".join(each) + ")")
fields = st.sampled_from(FIELDS) | st.sampled_from(FIELDS) | texts
operators = st.sampled_from(list(BUILT_IN)) | st.sampled_from(list(BUILT_IN)) | texts
comparisons = st.tuples(fields, operators, values | lists | lists.map(lambda text: f"[{text[1:-1]}]")).map(
    "".join
)
filters = st.recursive(
    comparisons,
    lambda inner: (
        st.tuples(inner, st.sampled_from([";", ",", "&&", "||", " and ", " or ", " ; "]), inner).map("".join)
        | inner.map(lambda text: f"({text})")
        | st.tuples(inner, texts).map("".join)
    ),
    max_leaves=6,
)
directions = st.sampled_from(["", ":asc", ":desc", ":", ":DESC", ":up"])
orders = st.lists(st.tuples(fields, directions).map("".join), max_size=4).map(",".join)
cursors = st.just(CURSOR) | st.just(CURSOR) | texts | st.tuples(st.just(CURSOR), texts).map("".join)
names = st.lists(fields, max_size=4).map(",".join)
limits = (
    st.sampled_from(["1", "2", "20", "100"])
    | st.sampled_from(["0", "101", "-1", "1.0", "\u0661", "9" * 30])
    | texts
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its path is escaped, its query isn't yet."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes = b""

    def query_string(self, cursor: str) -> bytes:
        """Its query, with the cursor that the last list gave."""
        return urlencode({name: value.replace(CURSOR, cursor) for name, value in self.query.items()}).encode()


def _queries(**parameters: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries({}, optional=parameters)


_lists = st.builds(
    Asked,
    st.just("GET"),
    st.just(""),
    _queries(
        filter=filters,
        orderBy=orders,
        cursor=cursors,
        limit=limits,
        select=names,
        totalCount=st.sampled_from(["true", "false", "1"]),
    ),
)
_next_pages = st.builds(
    Asked,
    st.just("GET"),
    st.just(""),
    st.fixed_dictionaries(
        {
            "limit": st.sampled_from(["1", "2"]),
            "orderBy": st.sampled_from(["", *FIELDS]),
            "cursor": st.just(CURSOR),
        }
    ),
)
_counts = st.builds(Asked, st.just("GET"), st.just("/count"), _queries(filter=filters))
_aggregates = st.builds(
    Asked,
    st.just("GET"),
    st.just("/aggregate"),
    _queries(
        filter=filters,
        groupBy=names,
        count=st.sampled_from(["true", "x"]),
        sum=names,
        avg=names,
        min=names,
        max=names,
    ),
)
_strange = st.builds(
    Asked, st.just("GET"), texts.map(lambda text: f"/{quote(text, safe='')}"), _queries(x=texts, filter=texts)
)

_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts | st.sampled_from(PLAIN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
_objects = st.dictionaries(fields, _json, max_size=5)
_bodies = _objects.map(lambda value: to_json(value, inf_nan_mode="constants")) | texts.map(str.encode)
_rows = st.fixed_dictionaries(
    {"owner": st.sampled_from(["me", "you"]), "name": texts},
    optional={"data": _json, "count": st.integers(-5, 5)},
)
_ids = (
    st.integers(-1, 60).map(str)
    | texts.map(lambda text: quote(text, safe=""))
    | st.sampled_from(["%2F", "%00", "%ff", "1,2", "1%2C2", ""])
)
_of_one = st.builds(
    Asked,
    st.sampled_from(["GET", "GET", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"]),
    _ids.map(lambda text: f"/{text}"),
    _queries(select=names) | st.just({}),
    _bodies | _rows.map(to_json),
)
_created = st.builds(Asked, st.just("POST"), st.just(""), st.just({}), _bodies | _rows.map(to_json))


def asked() -> st.SearchStrategy[list[Asked]]:
    """A few requests, one after the other."""
    return st.lists(
        st.one_of(_lists, _lists, _next_pages, _counts, _aggregates, _strange, _of_one, _created),
        min_size=4,
        max_size=14,
    )

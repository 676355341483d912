"""PATCH as a merge patch: the RFC's own examples, and columns of JSON on SQLite and PostgreSQL."""

import asyncio
import copy
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Column, Integer, MetaData, String, Table, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from concave import HookContext, ResourceHooks
from concave_sqlalchemy.merge_patch import merged
from tests.sqlalchemy.support import client_of, database

RFC_7396 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


class Boxed(TypeDecorator[Any]):
    impl = JSON
    cache_ok = True


metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("data", JSON().with_variant(JSONB(), "postgresql")),
    Column("boxed", Boxed),
    Column("name", String(20)),
)


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    async with database(request, tmp_path, metadata) as engine:
        yield engine


@pytest.mark.parametrize("value,patch,result", RFC_7396)
def test_the_examples_of_the_rfc(value: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy((value, patch))
    assert merged(value, patch) == result
    assert (value, patch) == before


@pytest.mark.parametrize("column", ["data", "boxed"])
async def test_the_examples_of_the_rfc_in_a_column(engine: AsyncEngine, column: str) -> None:
    async with client_of(things, engine) as client:
        for number, (value, patch, result) in enumerate(RFC_7396, start=1):
            await client.post("", json={column: value, "name": "a"})
            patched = await client.patch(f"/{number}", json={column: patch})
            assert (patched.status_code, patched.json()[column]) == (200, result)
            assert patched.json()["name"] == "a"
            assert (await client.get(f"/{number}")).json() == patched.json()


async def test_two_patches_of_one_document_both_count(engine: AsyncEngine) -> None:
    async with client_of(things, engine) as client:
        await client.post("", json={"data": {}})
        patches = [client.patch("/1", json={"data": {f"m{n}": n}}) for n in range(10)]
        assert {answer.status_code for answer in await asyncio.gather(*patches)} == {200}
        assert (await client.get("/1")).json()["data"] == {f"m{n}": n for n in range(10)}


async def test_a_hook_sees_the_document_as_it_is_to_be(engine: AsyncEngine) -> None:
    seen: list[Any] = []

    def before(ctx: HookContext, key: Any, data: dict[str, Any]) -> None:
        seen.append(data)

    async with client_of(things, engine, hooks=ResourceHooks(on_before_update=before)) as client:
        await client.post("", json={"data": {"a": 1}})
        await client.patch("/1", json={"data": {"b": 2}})
        await client.put("/1", json={"data": {"c": 3}})
        assert seen == [{"data": {"a": 1, "b": 2}}, {"data": {"c": 3}}]


async def test_other_kinds_of_patch_are_refused(engine: AsyncEngine) -> None:
    async with client_of(things, engine) as client:
        await client.post("", json={"name": "a"})
        for kind in (
            "application/json-patch+json",
            "application/xml",
            "text/json",
            "",
            "application/vnd.x+json",
        ):
            answer = await client.patch("/1", content=b'{"name": "b"}', headers={"content-type": kind})
            assert answer.status_code == 415, kind
            assert answer.headers["accept-patch"] == "application/merge-patch+json, application/json"
        for kind in ("application/merge-patch+json", "Application/JSON; charset=utf-8"):
            answer = await client.patch("/1", content=b'{"name": "b"}', headers={"content-type": kind})
            assert answer.status_code == 200, kind
        deep: Any = 1
        for _ in range(101):
            deep = {"a": deep}
        assert (await client.patch("/1", json={"data": deep})).status_code == 422

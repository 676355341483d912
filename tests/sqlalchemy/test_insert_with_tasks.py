"""On PostgreSQL a new row goes with its tasks in one statement: they are told to the letter what they would be told in another one."""

import datetime as dt
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    Enum,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Select,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    event,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.types import TypeEngine

from concave import (
    DebounceConfig,
    ResourceHooks,
    TaskScheduler,
    TaskTrigger,
    compose_hooks,
    create_task_trigger_hooks,
    define_task,
    initialize_tasks,
)
from concave.hooks import PlainTriggers
from concave.kv import MemoryKV
from concave_sqlalchemy import Fields, use_resource
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.tables import outbox_table
from concave_sqlalchemy.writing.insert_with_tasks import InsertWithTasks
from tests.sqlalchemy.notes import client_of, count, derived
from tests.sqlalchemy.support import database, role_of

MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
tables = MetaData()
things = Table(
    "things",
    tables,
    Column("id", Integer, primary_key=True),
    Column("name", String(60), nullable=False, unique=True),
    Column("note", Text),
    Column("small", SmallInteger, default=7),
    Column("big", BigInteger),
    Column("flag", Boolean, default=lambda: True),
    Column("day", Date),
    Column("local", DateTime),
    Column("at", DateTime(timezone=True), server_default=text("'2026-01-02 03:04:05+00'")),
    Column("token", Uuid),
    Column("ratio", Float),
    Column("size", Double),
    Column("price", Numeric(12, 2)),
    CheckConstraint("name <> 'nobody'", name="somebody"),
)
derived_here = derived.to_metadata(tables)


@define_task(name="told of a thing")
async def told(ctx: Any, entry: dict[str, Any]) -> None: ...


@define_task(name="told of anything")
async def told_too(ctx: Any, entry: Any) -> None: ...


@define_task(name="told of little", max_input_bytes=700)
async def told_little(ctx: Any, entry: dict[str, Any]) -> None: ...


@define_task(name="told of a number")
async def numbered(ctx: Any, number: int) -> None: ...


@define_task(name="told once", idempotency_key=lambda entry: str(entry["data"]["name"]))
async def once(ctx: Any, entry: dict[str, Any]) -> None: ...


@define_task(name="told calmly", debounce=DebounceConfig(window=5, key=lambda entry: str(entry["resource"])))
async def calm(ctx: Any, entry: dict[str, Any]) -> None: ...


TOLD = create_task_trigger_hooks(on_create=[TaskTrigger(told)])
WAITED_FOR = compose_hooks(TOLD, ResourceHooks(on_after_create=lambda *_: None, uses_session=False))
ALL_FIELDS = Fields(writable=[each.key for each in things.columns])
HARD = "".join(map(chr, range(1, 32))) + "\"\\/'\x7f\u2028\ufeff\U0001f600 \\u0041 {}%s $1 :a"

FULL: dict[str, Any] = {
    "id": 1,
    "name": '\\\\"\',"data":{}',
    "note": HARD,
    "small": -1,
    "big": -(2**53) - 1,
    "flag": False,
    "day": "2026-02-28",
    "local": "2026-01-02T03:04:05.120000",
    "at": "2026-01-02T03:04:05.000001Z",
    "token": str(UUID(int=1)),
    "ratio": 2.0,
    "size": -1234.5678,
    "price": "12.50",
}
EMPTY: dict[str, Any] = {**dict.fromkeys(FULL), "id": 2, "name": "", "flag": True}


@pytest.fixture
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    request.param = "postgresql"
    async with database(request, tmp_path, tables) as engine:
        yield engine


@pytest.fixture
async def scheduler() -> AsyncGenerator[TaskScheduler]:
    async with MemoryKV() as kv:
        yield initialize_tasks(kv)


@pytest.fixture
def statements(engine: AsyncEngine) -> list[str]:
    """What SQLAlchemy sends, from now on."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    return sent


def client(engine: AsyncEngine, hooks: ResourceHooks = TOLD, table: Table = things, **options: Any) -> Any:
    if table is things:
        options.setdefault("fields", ALL_FIELDS)
    return client_of(use_resource(table, session=async_sessionmaker(engine), hooks=hooks, **options))


async def tell_first(given: Any, name: str = "first") -> None:
    """The first task goes by itself, since the outbox's table may not be there."""
    assert (await given.post("", json={"id": 1000, "name": name})).status_code == 201


async def inputs(engine: AsyncEngine, scheduler: TaskScheduler) -> list[Any]:
    """Of all tasks but the first, in their order."""
    await Outbox.of(async_sessionmaker(engine)).drain()
    return [task.input for task in reversed(await scheduler.get_tasks())][1:]


async def before_insert(engine: AsyncEngine, body: str) -> None:
    """Have the database do this to each row of things, before it inserts it."""
    function = f"RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$"
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE FUNCTION looked_at() {function}"))
        await connection.execute(
            text("CREATE TRIGGER looks BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION looked_at()")
        )


def of_tables(statements: Sequence[str]) -> list[str]:
    return [each for each in statements if "INSERT" in each]


@pytest.mark.parametrize("row", [FULL, EMPTY, {"id": 3, "name": "only"}], ids=["full", "empty", "defaults"])
async def test_they_are_told_to_the_letter_what_they_would_be_told_otherwise(
    engine: AsyncEngine, statements: list[str], row: dict[str, Any]
) -> None:
    away = TaskScheduler(MemoryKV())  # which isn't connected: rows stay
    payloads: list[str] = []
    bodies: list[Any] = []
    trigger = TaskTrigger(told, delay=5)
    for waits in (False, True):
        hooks = create_task_trigger_hooks(on_create=[trigger], scheduler=away)
        if waits:
            hooks = compose_hooks(hooks, ResourceHooks(on_after_create=lambda *_: None, uses_session=False))
        async with client(engine, hooks, user=lambda _: {"id": ',"data":{}'}) as given:
            await tell_first(given)
            async with engine.begin() as connection:
                await connection.execute(outbox_table.delete())
            statements.clear()
            answer = await given.post("", json=row)
            assert answer.status_code == 201, answer.text
            bodies.append(answer.json())
            assert len(of_tables(statements)) == 1
            assert (outbox_table.name in of_tables(statements)[0]) is not waits
        async with engine.begin() as connection:
            (found,) = (await connection.execute(select(outbox_table))).all()
            await connection.execute(things.delete())
        payloads.append(found.payload.replace(found.id, "id"))
        assert found.destination == away.destination
    assert payloads[0] == payloads[1]
    assert bodies[0] == bodies[1]


async def test_they_are_told_of_who_made_the_row_and_of_no_one_else(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    """What tasks of a user have in common is remembered: ids that are equal, and written otherwise, are kept apart."""
    ids: list[Any] = [None, 1, True, 1.0, "1", UUID(int=1), str(UUID(int=1)), 0, False, HARD, ["a"], {"b": 1}]
    user: dict[str, Any] = {}
    async with client(engine, user=lambda _: user) as given:
        await tell_first(given)
        for number, user_id in enumerate([*ids, *ids]):
            user["id"] = user_id
            assert (await given.post("", json={"name": str(number)})).status_code == 201
        async with engine.connect() as connection:
            payloads = (await connection.execute(select(outbox_table.c.payload))).scalars().all()
    told_of = [(entry["data"]["name"], entry["userId"]) for entry in await inputs(engine, scheduler)]
    expected = [str(each) if isinstance(each, UUID) else each for each in ids] * 2
    assert told_of == [(str(number), each) for number, each in enumerate(expected)]
    assert [type(each) for _, each in told_of] == [type(each) for each in expected]
    assert payloads, "so that what a sweep would send is looked at"
    sent = {task.id: task.input for task in await scheduler.get_tasks()}
    for each in payloads:
        row = json.loads(each)
        assert json.loads(row["input"]) == sent[row["id"]]


async def test_tasks_of_a_row_are_written_in_their_order(
    engine: AsyncEngine, scheduler: TaskScheduler, statements: list[str]
) -> None:
    triggers = [TaskTrigger(told), TaskTrigger(told_too, delay=3), TaskTrigger(told)]
    away = TaskScheduler(MemoryKV())
    hooks = create_task_trigger_hooks(on_create=triggers, scheduler=away)
    async with client(engine, hooks) as given:
        await tell_first(given)
        statements.clear()
        assert (await given.post("", json=FULL)).status_code == 201
        assert len(of_tables(statements)) == 1
    async with engine.connect() as connection:
        rows = (await connection.execute(select(outbox_table).order_by(outbox_table.c.sequence))).all()
    names = [('"name":"told of anything"' in row.payload) for row in rows]
    assert names == [False, True, False] * 2
    assert len({row.id for row in rows}) == 6


async def test_who_relays_them_has_them_as_they_were_written(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    async with client(engine) as given:
        await tell_first(given)
        shown = (await given.post("", json=FULL)).json()
    (entry,) = await inputs(engine, scheduler)
    assert entry == {"event": "create", "resource": "things", "data": shown, "userId": None}
    assert shown == FULL
    assert await count(engine, outbox_table) == 0


async def test_what_the_database_makes_of_a_row_is_told(
    engine: AsyncEngine, scheduler: TaskScheduler, statements: list[str]
) -> None:
    await before_insert(engine, "NEW.name = upper(NEW.name);")
    async with client(engine) as given:
        await tell_first(given)
        statements.clear()
        assert (await given.post("", json={**FULL, "name": "quiet"})).json()["name"] == "QUIET"
    assert len(of_tables(statements)) == 1
    (entry,) = await inputs(engine, scheduler)
    assert entry["data"]["name"] == "QUIET"


async def test_a_row_that_a_trigger_of_the_database_drops_has_no_task_and_stops_nothing(
    engine: AsyncEngine, scheduler: TaskScheduler, statements: list[str]
) -> None:
    await before_insert(engine, "IF NEW.name = 'dropped' THEN RETURN NULL; END IF;")
    async with client(engine) as given:
        await tell_first(given)
        assert (await given.post("", json={"id": 1, "name": "dropped"})).status_code == 404
        statements.clear()
        assert (await given.post("", json={"id": 2, "name": "kept"})).status_code == 201
    assert len(of_tables(statements)) == 1
    assert [entry["data"]["name"] for entry in await inputs(engine, scheduler)] == ["kept"]


@pytest.mark.parametrize(
    "odd",
    [{"size": 1e-06}, {"day": "9999-12-31"}],
    ids=["an exponent", "infinity, as the driver sends it"],
)
async def test_what_the_database_writes_otherwise_is_undone_and_written_by_itself(
    engine: AsyncEngine,
    scheduler: TaskScheduler,
    statements: list[str],
    caplog: pytest.LogCaptureFixture,
    odd: dict[str, Any],
) -> None:
    caplog.set_level(logging.INFO, "concave.resource")
    async with client(engine) as given:
        await tell_first(given)
        statements.clear()
        for id_ in (1, 2):
            answer = await given.post("", json={"id": id_, "name": str(id_), **odd})
            assert answer.status_code == 201, answer.text
    # Tried once, and never again.
    assert [outbox_table.name in each for each in of_tables(statements)] == [True, False, False]
    assert [odd.items() <= entry["data"].items() for entry in await inputs(engine, scheduler)] == [True, True]
    assert (await count(engine, things), await count(engine, outbox_table)) == (3, 0)
    assert "things and its tasks are inserted by statements of their own" in caplog.text


async def test_a_table_that_takes_no_such_statement_gets_others(
    engine: AsyncEngine,
    scheduler: TaskScheduler,
    statements: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "concave.resource")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE log (name text)"))
        await connection.execute(
            text("CREATE RULE logged AS ON INSERT TO things DO ALSO INSERT INTO log VALUES (NEW.name)")
        )
    async with client(engine) as given:
        await tell_first(given)
        statements.clear()
        for id_ in (1, 2):
            assert (await given.post("", json={"id": id_, "name": f"secret {id_}"})).status_code == 201
    assert [outbox_table.name in each for each in of_tables(statements)] == [True, False, False]
    assert "it was refused" in caplog.text
    assert "secret" not in caplog.text
    assert [entry["data"]["id"] for entry in await inputs(engine, scheduler)] == [1, 2]
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM log"))).scalar_one() == 3


async def test_a_default_that_looks_at_its_statement_sees_the_one_it_knows(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    async with client(engine, table=derived_here) as given:
        for label in "abc":
            answer = await given.post("", json={"label": label})
            assert (answer.status_code, answer.json()["shouted"]) == (201, label.upper())
    assert [entry["data"]["shouted"] for entry in await inputs(engine, scheduler)] == ["B", "C"]
    assert await count(engine, derived_here) == 3


async def test_what_is_wrong_with_a_row_is_told_as_ever_and_stops_nothing(
    engine: AsyncEngine, scheduler: TaskScheduler, statements: list[str]
) -> None:
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(told_little)])
    async with client(engine, hooks) as given:
        await tell_first(given)
        assert (await given.post("", json={"id": 1000, "name": "other"})).status_code == 409
        assert (await given.post("", json={"id": 1, "name": "first"})).status_code == 409
        assert (await given.post("", json={"id": 1, "name": "nobody"})).status_code == 422
        assert (await given.post("", json={"id": 1, "name": "a", "note": "\\" * 300})).status_code == 413
        await Outbox.of(async_sessionmaker(engine)).drain()
        assert (await count(engine, things), await count(engine, outbox_table)) == (1, 0)
        statements.clear()
        assert (await given.post("", json={"id": 1, "name": "a"})).status_code == 201
    assert len(of_tables(statements)) == 1
    assert len(await inputs(engine, scheduler)) == 1


@pytest.mark.parametrize(
    "change", ["ratio TYPE numeric(10,2)", "note TYPE bytea USING NULL", "day TYPE timestamptz USING NULL"]
)
async def test_a_column_that_is_another_than_it_is_said_to_be_is_told_as_it_comes(
    engine: AsyncEngine, scheduler: TaskScheduler, change: str
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(f"ALTER TABLE things ALTER COLUMN {change}"))
        name = change.partition(" ")[0]
        default = {"ratio": "2", "note": "'\\xff'", "day": "'infinity'"}[name]
        await connection.execute(text(f"ALTER TABLE things ALTER COLUMN {name} SET DEFAULT {default}"))
    shown: list[Any] = []
    async with client(engine) as given:
        await tell_first(given)
        for id_ in (1, 2):
            answer = await given.post("", json={"id": id_, "name": str(id_)})
            assert answer.status_code == 201, answer.text
            shown.append(answer.json()[name])
    assert [entry["data"][name] for entry in await inputs(engine, scheduler)] == shown


async def test_an_input_that_is_too_large_without_its_row_is_413(
    engine: AsyncEngine, scheduler: TaskScheduler
) -> None:
    user = {"id": 1}
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(told_little)])
    async with client(engine, hooks, user=lambda _: user) as given:
        await tell_first(given)
        user["id"] = 10**800
        assert (await given.post("", json={"id": 1, "name": "a"})).status_code == 413
    assert await count(engine, things) == 1


async def test_a_row_whose_tasks_cannot_be_written_is_not_written(
    engine: AsyncEngine, scheduler: TaskScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(engine) as given:
        await tell_first(given)
        await Outbox.of(async_sessionmaker(engine)).drain()
        async with engine.begin() as connection:
            await connection.run_sync(outbox_table.drop)
        assert (await given.post("", json=FULL)).status_code == 500
    assert await count(engine, things) == 1
    assert "create_outbox_tables" in caplog.text


async def test_whoever_may_insert_tasks_need_not_have_the_right_to_look_at_them(
    engine: AsyncEngine, scheduler: TaskScheduler, statements: list[str]
) -> None:
    roles: list[str] = []

    def begin(connection: Any) -> None:
        if roles:
            connection.execute(text(f"SET LOCAL ROLE {roles[0]}"))

    event.listen(engine.sync_engine, "begin", begin)
    async with role_of(engine, "SELECT, INSERT ON things", "INSERT ON concave_outbox") as role:
        async with client(engine) as given:
            await tell_first(given)
            await Outbox.of(async_sessionmaker(engine)).drain()
            statements.clear()
            roles.append(role)
            assert (await given.post("", json=FULL)).status_code == 201
            roles.clear()
        assert len(of_tables(statements)) == 1
    assert len(await inputs(engine, scheduler)) == 1


async def test_strings_in_which_backslashes_escape_change_nothing(
    engine: AsyncEngine, scheduler: TaskScheduler, statements: list[str]
) -> None:
    event.listen(
        engine.sync_engine,
        "begin",
        lambda given: given.execute(text("SET LOCAL standard_conforming_strings = off")),
    )
    async with client(engine) as given:
        await tell_first(given)
        statements.clear()
        assert (await given.post("", json=FULL)).status_code == 201
    assert len(of_tables(statements)) == 1
    (entry,) = await inputs(engine, scheduler)
    assert entry["data"] == FULL


@pytest.mark.parametrize(
    "setting", ["datestyle = 'German'", "timezone = 'Asia/Tokyo'", "extra_float_digits = 0"]
)
async def test_how_a_session_writes_values_changes_nothing(
    engine: AsyncEngine, scheduler: TaskScheduler, setting: str
) -> None:
    event.listen(engine.sync_engine, "begin", lambda given: given.execute(text(f"SET LOCAL {setting}")))
    async with client(engine) as given:
        await tell_first(given)
        assert (await given.post("", json={**FULL, "ratio": 0.1 + 0.2})).status_code == 201
    (entry,) = await inputs(engine, scheduler)
    assert entry["data"] == {**FULL, "ratio": 0.1 + 0.2}


@pytest.mark.parametrize("hooks", [WAITED_FOR, ResourceHooks(on_after_create=lambda *_: None)])
async def test_who_waits_for_hooks_inserts_as_ever(
    engine: AsyncEngine, scheduler: TaskScheduler, statements: list[str], hooks: ResourceHooks
) -> None:
    async with client(engine, hooks) as given:
        for id_ in (1, 2):
            assert (await given.post("", json={"id": id_, "name": str(id_)})).status_code == 201
    assert not any("concave_row" in each for each in statements)


@pytest.mark.parametrize(
    "task, alike", [(told, True), (told_too, True), (numbered, False), (once, False), (calm, False)]
)
def test_only_tasks_that_nobody_looks_into_are_written_before_their_row_is_known(
    task: Any, alike: bool
) -> None:
    hooks = create_task_trigger_hooks(on_create=[TaskTrigger(told), TaskTrigger(task)])
    assert isinstance(hooks.on_after_create, PlainTriggers)
    assert (hooks.on_after_create.forms is not None) is alike


class Shouting(TypeDecorator[str]):
    impl = String
    cache_ok = True


@pytest.mark.parametrize(
    "kind, does",
    [
        (Integer(), True),
        (Numeric(10, 2), True),
        (Numeric(10, 2, asdecimal=False), False),
        (Float(53), True),
        (Float(24), False),
        (Float(asdecimal=True), False),
        (Uuid(native_uuid=False), False),
        (Enum("a", "b", name="letters"), False),
        (Shouting(), False),
        (LargeBinary(), False),
        (String().with_variant(Shouting(), "postgresql"), False),
    ],
    ids=repr,
)
async def test_only_types_that_both_write_alike_are_written_by_the_database(
    engine: AsyncEngine, scheduler: TaskScheduler, statements: list[str], kind: TypeEngine[Any], does: bool
) -> None:
    own = MetaData()
    table = Table("own", own, Column("id", Integer, primary_key=True), Column("value", kind))
    async with engine.begin() as connection:
        await connection.run_sync(own.create_all)
    async with client(engine, table=table) as given:
        for _ in range(2):
            assert (await given.post("", json={})).status_code == 201
            assert (await given.post("", json={"value": None})).status_code == 201
    assert any("concave_row" in each for each in statements) is does
    assert len(await inputs(engine, scheduler)) == 3


async def test_there_are_not_as_many_statements_kept_as_clients_can_ask_for() -> None:
    many = Table("many", MetaData(), *(Column(f"c{at}", Integer) for at in range(200)))
    no_fields: Any = SimpleNamespace(fields=(), shows_all=True)
    inserts = InsertWithTasks(many, no_fields)
    where = make_url("postgresql+asyncpg://").get_dialect()(), False
    for at in range(200):
        inserts._statement(where, frozenset({f"c{at}"}), 1)
    assert inserts._statement.cache_info().currsize <= 64


async def test_a_statement_is_compiled_once_for_each_place_where_its_tables_are(
    engine: AsyncEngine, scheduler: TaskScheduler, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache doesn't look at what it is asked for, so that it must be another one where another form is wanted."""
    compiled: list[str] = []
    inited = PGCompiler.__init__

    def note(self: Any, *args: Any, **options: Any) -> None:
        inited(self, *args, **options)
        compiled.append(str(self))

    monkeypatch.setattr(PGCompiler, "__init__", note)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA tenant"))
        for name in (things.name, outbox_table.name):
            await connection.execute(text(f"CREATE TABLE tenant.{name} (LIKE {name} INCLUDING ALL)"))
    elsewhere = engine.execution_options(schema_translate_map={None: "tenant"})
    sessions = async_sessionmaker(engine)
    resource = use_resource(things, session=sessions, hooks=TOLD, fields=ALL_FIELDS)
    async with client_of(resource) as given:
        await tell_first(given)
        for at, bind in enumerate([engine, elsewhere, engine, elsewhere]):
            sessions.configure(bind=bind)
            assert (await given.post("", json={"id": at, "name": str(at)})).status_code == 201
    assert all("concave_row" in each for each in of_tables(statements)[-4:])
    assert len([each for each in compiled if "concave_row" in each]) == 2
    for bind, expected in ((engine, [0, 2, 1000]), (elsewhere, [1, 3])):
        async with bind.connect() as connection:
            found = await connection.execute(select(things.c.id).order_by(things.c.id))
            assert list(found.scalars()) == expected


@pytest.mark.parametrize("of", ["engine", "connection"])
async def test_who_makes_another_statement_of_it_has_that_one_executed(
    engine: AsyncEngine, scheduler: TaskScheduler, statements: list[str], of: str
) -> None:
    requests = iter("abcdefgh")

    def mark(conn: Any, clauseelement: Any, multiparams: Any, params: Any, execution_options: Any) -> Any:
        if isinstance(clauseelement, Select):
            clauseelement = clauseelement.suffix_with(text(f"/* request {next(requests)} */"))
        return clauseelement, multiparams, params

    def listen(target: Any) -> None:
        event.listen(target, "before_execute", mark, retval=True)

    if of == "engine":
        listen(engine.sync_engine)
    else:
        event.listen(engine.sync_engine, "engine_connect", listen)
    async with client(engine) as given:
        await tell_first(given)
        statements.clear()
        for at in range(2):
            assert (await given.post("", json={"id": at, "name": str(at)})).status_code == 201
    marks = [each.rpartition("/* ")[2] for each in of_tables(statements)]
    assert len(set(marks)) == 2
    assert all(mark.startswith("request ") for mark in marks)


async def test_decimals_are_told_with_all_of_their_digits(
    engine: AsyncEngine, scheduler: TaskScheduler, statements: list[str]
) -> None:
    async with client(engine) as given:
        await tell_first(given)
        statements.clear()
        for at, price in enumerate(["0", "-0.05", "9999999999.99"]):
            assert (await given.post("", json={"id": at, "name": str(at), "price": price})).status_code == 201
    assert len(of_tables(statements)) == 3
    told_of = [Decimal(entry["data"]["price"]) for entry in await inputs(engine, scheduler)]
    async with engine.connect() as connection:
        prices = await connection.execute(
            select(things.c.price).where(things.c.id < 10).order_by(things.c.id)
        )
        assert told_of == list(prices.scalars())
        assert (await connection.execute(select(func.max(things.c.small)))).scalar_one() == 7

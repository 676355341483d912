"""What type checkers infer of a session that is awaited and of one that isn't: read by mypy and pyright, never run."""

from typing import assert_type

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from concave import ResourceHooks, TaskDefinition
from concave_sqlalchemy import create_outbox_tables, enqueue_in, track_session, use_resource


class Base(DeclarativeBase): ...


async def both_kinds(
    task: TaskDefinition[str, None],
    session: Session,
    async_session: AsyncSession,
    engine: Engine,
    async_engine: AsyncEngine,
) -> None:
    assert_type(enqueue_in(session, task, "x", delay=5, key="k"), str)
    assert_type(await enqueue_in(async_session, task, "x", priority=90), str)
    enqueue_in(async_session, task, "x")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    enqueue_in(session, task, "x", nope=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await create_outbox_tables(async_engine)
    create_outbox_tables(engine)
    for sessions in (sessionmaker(engine), async_sessionmaker(async_engine)):
        use_resource(Base, session=sessions)
        track_session(sessions, {Base: ResourceHooks()})
    track_session(engine, {Base: ResourceHooks()})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

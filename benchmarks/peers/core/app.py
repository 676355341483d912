"""Endpoints that one would write by hand: Starlette, SQLAlchemy Core, Pydantic. The same checks and the same transaction as ours.

Statements are built once, rows go straight to JSON. What a page has beyond that (filters, orders, select, a signed cursor) isn't there.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json
from sqlalchemy import bindparam, insert, select
from sqlalchemy.exc import IntegrityError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.peers.drive import main
from benchmarks.peers.users import engine_of, users

engine = engine_of()
MAX_BODY = 1024 * 1024
SELECT_ONE = select(users).where(users.c.id == bindparam("key"))
SELECT_PAGE = (
    select(users).where(users.c.id > bindparam("after")).order_by(users.c.id).limit(bindparam("many"))
)
INSERT = insert(users).returning(*users.c)
NAMES = tuple(str(column.name) for column in users.c)
IS_SQLITE = engine.dialect.name == "sqlite"


class UserCreate(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    email: Annotated[str, Field(max_length=200)]
    name: Annotated[str, Field(max_length=100)]
    role: Annotated[str, Field(max_length=20)] = "user"
    active: bool = True
    age: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    score: Annotated[float, Field(allow_inf_nan=False)] | None = None


def shown(row: Sequence[Any]) -> dict[str, Any]:
    # Not by SQLAlchemy's own names, which are a subclass of `str` that takes Pydantic ten times as long to write.
    return dict(zip(NAMES, row, strict=True))


def answer(value: object, status: int = 200) -> Response:
    return Response(to_json(value), status_code=status, media_type="application/json")


async def read(request: Request) -> Response:
    async with engine.begin() as connection:
        row = (await connection.execute(SELECT_ONE, {"key": request.path_params["id"]})).one_or_none()
    return answer({"detail": "there is no such row"}, 404) if row is None else answer(shown(row))


async def read_page(request: Request) -> Response:
    try:
        limit = int(request.query_params.get("limit", "20"))
        after = int(request.query_params.get("cursor", "0"))
    except ValueError:
        return answer({"detail": "limit and cursor are numbers"}, 400)
    if not 1 <= limit <= 100:
        return answer({"detail": "limit is 1 to 100"}, 400)
    async with engine.begin() as connection:
        found = (await connection.execute(SELECT_PAGE, {"after": after, "many": limit + 1})).all()
    items = [shown(row) for row in found[:limit]]
    has_more = len(found) > limit
    return answer(
        {"items": items, "nextCursor": str(items[-1]["id"]) if has_more else None, "hasMore": has_more}
    )


lock = asyncio.Lock()


async def create(request: Request) -> Response:
    if not request.headers.get("content-type", "").startswith("application/json"):
        return answer({"detail": "the body must be application/json"}, 415)
    body = await request.body()
    if len(body) > MAX_BODY:
        return answer({"detail": "the body is too large"}, 413)
    try:
        user = UserCreate.model_validate_json(body)
    except ValidationError as error:
        return answer(error.errors(include_url=False, include_context=False, include_input=False), 422)
    try:
        async with AsyncExitStack() as stack:
            if IS_SQLITE:  # which has one writer at a time: those that poll for the file are slower
                await stack.enter_async_context(lock)
            connection = await stack.enter_async_context(engine.begin())
            row = (await connection.execute(INSERT, user.model_dump(exclude_unset=True))).one()
    except IntegrityError:
        return answer({"detail": "the row conflicts with another one"}, 409)
    return answer(shown(row), 201)


app = Starlette(
    routes=[
        Route("/users", read_page, methods=["GET"]),
        Route("/users", create, methods=["POST"]),
        Route("/users/{id:int}", read, methods=["GET"]),
    ]
)

if __name__ == "__main__":
    main(app, page_query="limit=20")

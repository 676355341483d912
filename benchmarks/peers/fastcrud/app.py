"""FastCRUD's router on FastAPI, as its documentation shows it, with a schema to select by."""

import datetime as dt
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import FastAPI
from fastcrud import crud_router
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase

from benchmarks.peers.drive import main
from benchmarks.peers.users import engine_of, metadata, users

sessions = async_sessionmaker(engine_of(), expire_on_commit=False)


class Base(DeclarativeBase):
    metadata = metadata


class User(Base):
    __table__ = users


class UserCreate(BaseModel):
    email: Annotated[str, Field(max_length=200)]
    name: Annotated[str, Field(max_length=100)]
    role: Annotated[str, Field(max_length=20)] = "user"
    active: bool = True
    age: int | None = None
    score: float | None = None


class UserRead(UserCreate):
    id: int
    created_at: dt.datetime


async def session() -> AsyncGenerator[AsyncSession]:
    async with sessions() as opened:
        yield opened


app = FastAPI()
app.include_router(
    crud_router(
        session=session,
        model=User,
        create_schema=UserCreate,
        update_schema=UserCreate,
        select_schema=UserRead,
        path="/users",
        included_methods=["create", "read", "read_multi"],
    )
)

if __name__ == "__main__":
    main(app, page_query="page=1&itemsPerPage=20", post_status=200)

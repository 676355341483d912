"""What type checkers make of scopes: read by mypy and pyright, never run."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.requests import Request

from concave_sqlalchemy import ALLOW, DENY, Fields, Resource, Scopes, use_resource


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    public: Mapped[bool]
    version: Mapped[int]


@dataclass
class User:
    name: str
    is_admin: bool = False


async def user_of(request: Request) -> User:
    return User(request.headers["x-user"])


async def teams_of(user: User) -> list[str]:
    return [user.name]


async def by_team(user: User) -> ColumnElement[bool]:
    return Note.owner.in_(await teams_of(user))


def resource(session: async_sessionmaker[AsyncSession]) -> Resource:
    return use_resource(
        Note,
        session=session,
        user=user_of,
        scopes=Scopes(
            read=lambda user: ALLOW if user.is_admin else Note.public | (Note.owner == user.name),
            create=by_team,
            update=lambda user: Note.id.in_(select(Note.id)) if user.is_admin else DENY,
            delete=DENY,
        ),
        fields=Fields(writable={"owner", "public"}),
        version="version",
        require_if_match=True,
    )

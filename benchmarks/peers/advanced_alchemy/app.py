"""Advanced Alchemy's service on Litestar, with msgspec structs in and out, and a page without a count."""

import datetime as dt
from typing import Annotated

import msgspec
from advanced_alchemy.extensions.litestar import (
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    providers,
    repository,
    service,
)
from advanced_alchemy.filters import LimitOffset
from litestar import Controller, Litestar, get, post
from litestar.params import Parameter
from sqlalchemy.orm import DeclarativeBase

from benchmarks.peers.drive import main
from benchmarks.peers.users import engine_of, metadata, users


class Base(DeclarativeBase):
    metadata = metadata


class User(Base):
    __table__ = users


class UserCreate(msgspec.Struct):
    email: Annotated[str, msgspec.Meta(max_length=200)]
    name: Annotated[str, msgspec.Meta(max_length=100)]
    role: Annotated[str, msgspec.Meta(max_length=20)] = "user"
    active: bool = True
    age: int | None = None
    score: float | None = None


class UserRead(msgspec.Struct):
    id: int
    email: str
    name: str
    role: str
    active: bool
    age: int | None
    score: float | None
    created_at: dt.datetime


class UserService(service.SQLAlchemyAsyncRepositoryService[User]):
    class Repo(repository.SQLAlchemyAsyncRepository[User]):
        model_type = User

    repository_type = Repo


class UserController(Controller):
    path = "/users"
    dependencies = providers.create_service_dependencies(UserService, "user_service")

    @get()
    async def read_page(
        self,
        user_service: UserService,
        limit: Annotated[int, Parameter(ge=1, le=100)] = 20,
        offset: Annotated[int, Parameter(ge=0)] = 0,
    ) -> list[UserRead]:
        found = await user_service.list(LimitOffset(limit, offset))
        return [user_service.to_schema(user, schema_type=UserRead) for user in found]

    @get("/{user_id:int}")
    async def read(self, user_service: UserService, user_id: int) -> UserRead:
        return user_service.to_schema(await user_service.get(user_id), schema_type=UserRead)

    @post()
    async def create(self, user_service: UserService, data: UserCreate) -> UserRead:
        return user_service.to_schema(await user_service.create(data), schema_type=UserRead)


alchemy = SQLAlchemyPlugin(
    SQLAlchemyAsyncConfig(engine_instance=engine_of(), before_send_handler="autocommit", create_all=False)
)
app = Litestar([UserController], plugins=[alchemy], openapi_config=None)

if __name__ == "__main__":
    main(app, page_query="limit=20")

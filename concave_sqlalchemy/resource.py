"""`use_resource`: a table becomes a REST resource, an ASGI app to mount in Starlette or FastAPI."""

from __future__ import annotations

import datetime as dt
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Literal

from pydantic_core import to_json
from sqlalchemy import Table
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from concave.clock import seconds
from concave.errors import ConfigurationError
from concave.hooks import ResourceHooks
from concave_sqlalchemy import idempotency
from concave_sqlalchemy.aggregates import PARAMETERS as AGGREGATE_PARAMETERS
from concave_sqlalchemy.body import Incoming, read_object
from concave_sqlalchemy.etags import Conditions, Tags
from concave_sqlalchemy.fields import FieldName, ResourceField, fields_of, resource_of, table_of
from concave_sqlalchemy.filters import FilterOperator
from concave_sqlalchemy.idempotency import Records
from concave_sqlalchemy.json_values import Numbers
from concave_sqlalchemy.keys import check_has_paths, key_of, path_id
from concave_sqlalchemy.mount import ResourceRoute, route_path
from concave_sqlalchemy.openapi.subject import Subject
from concave_sqlalchemy.outbox import Outbox
from concave_sqlalchemy.pagination.cursors import Cursors
from concave_sqlalchemy.pagination.request import flag, only, read_page_request
from concave_sqlalchemy.policy import Allowed, Fields, version_of
from concave_sqlalchemy.problems import Problem, problem_response
from concave_sqlalchemy.reading import Reading
from concave_sqlalchemy.refusals import names_in
from concave_sqlalchemy.responses import allow, conditional
from concave_sqlalchemy.schema import RowSchema
from concave_sqlalchemy.scopes import OPEN, Access, Action, Scopes, Where
from concave_sqlalchemy.transactions import Sessions
from concave_sqlalchemy.writing.batches import Batches
from concave_sqlalchemy.writing.call import Answer, Call
from concave_sqlalchemy.writing.insert_with_tasks import InsertWithTasks
from concave_sqlalchemy.writing.perform import Performer
from concave_sqlalchemy.writing.rows import Rows
from concave_sqlalchemy.writing.upserts import PARAMETER, Upserts
from concave_sqlalchemy.writing.verbs import Manner, Verbs
from concave_sqlalchemy.writing.writing import Writing

__all__ = ["Resource", "use_resource"]

log = logging.getLogger("concave.resource")

MAX_BODY = 1024 * 1024


class Resource:
    """A table over HTTP. Made by `use_resource`; mount it with `mount`, or anywhere an ASGI app goes."""

    def __init__(
        self,
        writing: Writing,
        reading: Reading,
        schema: RowSchema,
        outbox: Outbox,
        subject: Subject,
        *,
        batches: Batches,
        upserts: Upserts,
        name: str,
        user: Callable[[Request], Any] | None,
        scopes: Scopes | None,
        default_limit: int,
        max_limit: int,
        max_body: int,
    ) -> None:
        self._writing = writing
        self._batches = batches
        self._upserts = upserts
        self._reading = reading
        self._schema = schema
        self._name = name
        self._subject = subject
        self._user = user
        self._scopes = scopes
        self._default_limit = default_limit
        self._max_limit = max_limit
        self._max_body = max_body
        # Others know the outbox weakly: it is relayed as long as one of its resources lives.
        self._outbox = outbox

    def mount(self, path: str) -> ResourceRoute:
        """A route that serves this resource at `path` and `path/`, and its rows below."""
        return ResourceRoute(path, self)

    def openapi(
        self, path: str | None = None, *, title: str | None = None, version: str = "1.0.0"
    ) -> dict[str, Any]:
        """The OpenAPI 3.1 document of this resource, as it is at `path`: by default ``/`` and the table's name.

        For an app with all of its resources see `openapi_route`, and `extend_openapi` for FastAPI.
        """
        from concave_sqlalchemy.openapi.document import document

        table = self._subject.table
        return document(title or table, version, [self.described(f"/{table}" if path is None else path)])

    def described(self, path: str) -> dict[str, Any]:
        """The ``paths`` and ``components`` of this resource in an app's document."""
        from concave_sqlalchemy.openapi.document import described

        return described(self._subject, path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            raise ConfigurationError(f"a resource answers http, not {scope['type']}")
        request = Request(scope, Incoming(scope, receive, self._max_body))
        response: Answer | Response
        try:
            response = await self._answer(request, route_path(scope))
        except Problem as problem:
            response = problem_response(problem)
        except HTTPException as error:
            response = problem_response(Problem(error.status_code, str(error.detail), headers=error.headers))
        except ClientDisconnect:
            return
        except Exception:  # nothing internal leaves; the log has it, and the transaction is rolled back
            log.exception("%s %s failed", request.method, request.url.path)
            response = problem_response(Problem(500, "something went wrong here"))
        await response(scope, receive, send)

    async def _answer(self, request: Request, path: str) -> Answer:
        user = None if self._user is None else await _user_of(self._user, request)
        match path:
            case "" | "/":
                return await self._collection(request, user)
            case "/count":
                allow(request, "GET")
                query = _query(request, {"filter"})
                where = (await self._access(user, "read"))["read"]
                count = await self._reading.count(query.get("filter", ""), where=where)
                return Answer(200, to_json({"count": count}))
            case "/batch":
                return await self._batch(request, user)
            case "/aggregate":
                allow(request, "GET")
                query = _query(request, AGGREGATE_PARAMETERS)
                where = (await self._access(user, "read"))["read"]
                return Answer(200, await self._reading.aggregate(query, where=where))
            case _:
                return await self._item(request, user, path_id(request.scope))

    async def _collection(self, request: Request, user: Any) -> Answer:
        allow(request, "GET", "POST")
        if request.method == "POST":
            unique = self._unique(request)
            body = await read_object(request)
            if unique:
                call = await self._call(request, user, "create", "update")
                return await self._upserts.one(call, body, unique)
            call = await self._call(request, user, "create")
            return await self._writing.create(call, body)
        wanted = read_page_request(
            request.query_params, default_limit=self._default_limit, max_limit=self._max_limit
        )
        access = await self._access(user, "read")
        return Answer(200, await self._reading.page(wanted, where=access["read"]))

    async def _batch(self, request: Request, user: Any) -> Answer:
        allow(request, "POST", "PATCH", "DELETE")
        if request.method == "POST":
            unique = self._unique(request)
            body = await read_object(request)
            call = await self._call(request, user, *(("create", "update") if unique else ("create",)))
            return await self._batches.create(call, body, unique=unique)
        where = self._named(_query(request, {"all", "filter"}))
        if request.method == "DELETE":
            return await self._batches.delete(await self._call(request, user, "delete"), where)
        body = await read_object(request, is_patch=True)
        return await self._batches.update(await self._call(request, user, "update"), where, body)

    def _unique(self, request: Request) -> tuple[ResourceField, ...]:
        """The fields that an upsert goes by; none where it is not one."""
        text = _query(request, {PARAMETER}).get(PARAMETER)
        return () if text is None else self._upserts.read(text)

    def _named(self, query: Mapping[str, str]) -> Where:
        """The rows of a batch. That it is about all of them must be said: a filter is easily lost on its way."""
        where = self._reading.where(query.get("filter", ""))
        if where is None and not flag("all", query.get("all")):
            raise Problem(
                400,
                "a batch is about the rows of a filter, or about all of them with all=true",
                errors=[{"field": "filter", "message": "is needed without all=true"}],
            )
        return where

    async def _item(self, request: Request, user: Any, text: str) -> Answer:
        allow(request, "GET", "PATCH", "PUT", "DELETE")
        is_read = request.method in {"GET", "HEAD"}
        query = _query(request, {"select"} if is_read else ())
        key = self._schema.key.read(text)
        if is_read:
            conditions = Conditions.of(request.headers)
            access = await self._access(user, "read")
            row, tag = await self._reading.get(key, chosen=query.get("select"), where=access["read"])
            return conditional(conditions, row, tag)
        if request.method == "DELETE":
            call = await self._call(request, user, "delete")
            return await self._writing.delete(call, key)
        body = await read_object(request, is_patch=request.method == "PATCH")
        call = await self._call(request, user, "update")
        manner: Manner = "replace" if request.method == "PUT" else "merge"
        return await self._writing.update(call, key, body, manner)

    async def _call(self, request: Request, user: Any, *actions: Action) -> Call:
        conditions = Conditions.of(request.headers)
        key = await idempotency.key_of(request, resource=self._name, user=user)
        access = OPEN if self._scopes is None else await self._scopes.of(user, "read", *actions)
        return Call(request, user, access, conditions, key)

    async def _access(self, user: Any, *actions: Action) -> Access:
        return OPEN if self._scopes is None else await self._scopes.of(user, *actions)


def use_resource(
    table: Any,
    *,
    session: Sessions,
    id: FieldName | None = None,
    hooks: ResourceHooks | None = None,
    user: Callable[[Request], Any | Awaitable[Any]] | None = None,
    scopes: Scopes | None = None,
    default_limit: int = 20,
    max_limit: int = 100,
    max_body: int = MAX_BODY,
    max_batch: int = 100,
    fields: Fields = Fields(),  # noqa: B008  (immutable)
    version: FieldName | Literal[False] | None = None,
    require_if_match: bool = False,
    idempotency_ttl: float | dt.timedelta = 24 * 3600,
    operators: Mapping[str, FilterOperator] | None = None,
    secret: str | bytes | None = None,
    numeric: Numbers = "string",
) -> Resource:
    """A REST resource of a mapped class or a `Table`. Options name its fields as ``"email"`` or as ``User.email``.

    `session`: an ``async_sessionmaker`` on SQLite (aiosqlite) or PostgreSQL (asyncpg), or a ``sessionmaker`` with their
    synchronous drivers: then what blocks runs in threads, and so do hooks that are plain functions, with the ``Session`` as
    ``ctx.session``. `id`: the field that tells rows apart;
    the primary key by default, which may be of several columns (``/a,b``; hooks see it as a tuple). `hooks`: see `ResourceHooks` and `create_task_trigger_hooks`. `user`: from a request, sync or
    async, who asks; hooks see it as ``ctx.user``, and it may raise `Problem` or Starlette's ``HTTPException`` to refuse. `scopes`: which rows
    that user may read, create, update and delete; see `Scopes`. Without them a resource is as open as the app around it, and
    FastAPI's ``dependencies=`` are for its own routes.
    `default_limit`, `max_limit`: rows of a page. `max_body`: bytes. `max_batch`: rows of one batch. `fields`: see `Fields`. `version`: the
    column that counts a row's changes, which then is the row's ETag: by default the mapper's ``version_id_col``, so that the unit of
    work's ``StaleDataError`` is about this resource's writes too. Without one, or with False, the ETag is a hash of what clients may
    read of the row.
    `require_if_match`: a row is changed or deleted only by who says which state of it is meant; 428 otherwise. `idempotency_ttl`: seconds for which the answer to a request with an ``Idempotency-Key`` is given again. `operators`: of filters, beside those that
    there are; see `FilterOperator`. `secret`: what cursors are signed with, for all processes of the app the same; without it the
    environment's CONCAVE_SECRET, and without that a random one: a cursor from another process, or from before a restart, is then
    refused with 400. `numeric`: how Numeric columns are shown: ``"string"``, with every digit, or ``"number"``, which JavaScript
    and most other readers round to 15 to 17 digits. Bodies may have either.

    Each request is one transaction, committed before the response is sent; hooks run inside it, and what they enqueue commits
    with it. Rows are dicts by field name: the mapped attribute's, or the column's key. Raises `ConfigurationError` for a table
    that can't be a resource.
    """
    found, mapper = table_of(table)
    every = fields_of(found, mapper)
    key = key_of(found, every, id)
    check_has_paths(found, key)
    counted = version_of(mapper) if version is None else version or None
    allowed = Allowed.of(every, key, fields, version=counted)
    if numeric not in {"string", "number"}:
        raise ConfigurationError(f'numeric is "string" or "number", not {numeric!r}')
    schema = RowSchema.of(found.name, every, key, allowed, numeric=numeric)
    if not 1 <= default_limit <= max_limit:
        raise ConfigurationError(
            f"default_limit must be 1 to max_limit, not {default_limit} with {max_limit}"
        )
    if max_batch < 1:
        raise ConfigurationError(f"max_batch must be at least 1, not {max_batch}")
    outbox = Outbox.of(session)
    outbox.transactions.check_holds(table)
    hooks = hooks or ResourceHooks()
    outbox.serve(hooks.schedulers)
    writing = _writing(
        found,
        schema,
        hooks,
        outbox,
        version=allowed.version,
        require_if_match=require_if_match,
        records=Records(seconds(idempotency_ttl, "idempotency_ttl", minimum=1.0)),
    )
    upserts = Upserts.of(writing, found, schema.fields)
    return Resource(
        writing,
        Reading(
            found,
            schema,
            allowed=allowed,
            transactions=outbox.transactions,
            cursors=Cursors.of(found.name, secret),
            operators=operators or {},
        ),
        schema,
        outbox,
        Subject(
            found.name,
            schema,
            allowed,
            default_limit,
            max_limit,
            max_batch,
            upserts.offered(allowed.writable),
            may_be_refused=user is not None or scopes is not None,
            completes_create=hooks.on_before_create is not None,
            completes_update=hooks.on_before_update is not None,
        ),
        batches=Batches(writing, upserts, max_batch),
        upserts=upserts,
        name=found.fullname,
        user=user,
        scopes=scopes,
        default_limit=default_limit,
        max_limit=max_limit,
        max_body=max_body,
    )


def _writing(
    table: Table,
    schema: RowSchema,
    hooks: ResourceHooks,
    outbox: Outbox,
    *,
    version: ResourceField | None,
    require_if_match: bool,
    records: Records,
) -> Writing:
    rows, tags = Rows(table, schema, version), Tags(schema, version)
    hooked = hooks.uses_session and hooks != ResourceHooks()
    told = [field for field in schema.fields if field.name not in schema.hidden]
    performer = Performer(
        resource_of(table),
        outbox,
        hooked=hooked,
        records=records,
        names=names_in(table, told),
        shown=schema.for_tasks,
        inserts=InsertWithTasks(table, schema),
    )
    return Writing(performer, rows, Verbs(rows, tags, schema, hooks), tags, require_if_match)


async def _user_of(told_by: Callable[[Request], Any], request: Request) -> Any:
    user = told_by(request)
    return await user if inspect.isawaitable(user) else user


def _query(request: Request, known: Collection[str]) -> Mapping[str, str]:
    return only(request.query_params, known) if request.scope.get("query_string") else {}

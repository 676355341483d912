"""Where an app shows what its resources are: a route of its own, or FastAPI's schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from concave_sqlalchemy.resource import Resource

__all__ = ["extend_openapi", "openapi_route"]


def openapi_route(*, title: str = "API", version: str = "1.0.0", path: str = "/openapi.json") -> Route:
    """A route of a Starlette app that answers with the OpenAPI 3.1 document of all resources that are mounted in the app."""

    async def show(request: Request) -> Response:
        from concave_sqlalchemy.openapi.document import document

        parts = [resource.described(at) for at, resource in _resources(request.app.routes)]
        return Response(to_json(document(title, version, parts)), media_type="application/json")

    return Route(path, show, methods=["GET"], include_in_schema=False)


def extend_openapi(app: Any) -> None:
    """Have a FastAPI app's own OpenAPI schema, and so its ``/docs``, tell of all resources that are mounted in the app too.

    Resources may be mounted before or after this; the schema is made at its first request.
    """
    of_the_app = app.openapi

    def openapi() -> Any:
        from concave_sqlalchemy.openapi.document import merged

        is_made = app.openapi_schema is not None
        schema = of_the_app()
        if not is_made:
            for at, resource in _resources(app.routes):
                merged(schema, resource.described(at))
        return schema

    app.openapi = openapi


def _resources(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, Resource]]:
    """The resources among routes and the routes below them, each with its path."""
    for route in routes:
        path = prefix + str(getattr(route, "path", ""))
        if isinstance(resource := getattr(route, "app", None), Resource):
            yield path, resource
        elif (contexts := getattr(route, "effective_route_contexts", None)) is not None:
            # FastAPI keeps a router that was included whole, with its routes' own paths aside.
            yield from _resources(
                (each.starlette_route for each in contexts() if each.starlette_route), prefix
            )
        elif below := getattr(route, "routes", None):
            yield from _resources(below, path)

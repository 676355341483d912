"""A route that answers its path with and without a slash at the end; a plain `Mount` redirects the bare path."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import ASGIApp, Receive, Scope, Send

from concave.errors import ConfigurationError

__all__ = ["ResourceRoute", "route_path"]


class ResourceRoute(BaseRoute):
    """What `Resource.mount` returns: for ``Starlette(routes=[…])`` and ``app.router.routes.append(…)`` in FastAPI."""

    def __init__(self, path: str, app: ASGIApp) -> None:
        if not path.startswith("/") or "{" in path:
            raise ConfigurationError(
                f"a resource is mounted at a fixed path that starts with a slash, not {path!r}"
            )
        self.path = path.rstrip("/")
        self.app = app
        self.name = self.path.rpartition("/")[2]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a request is for this path or below it."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path = route_path(scope)
        if path != self.path and not path.startswith(self.path + "/"):
            return Match.NONE, {}
        root = scope.get("root_path", "")
        return Match.FULL, {"root_path": root + self.path, "endpoint": self.app}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request over."""
        await self.app(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """The path by this route's name, which is the last part of its path."""
        if name != self.name or path_params:
            raise NoMatchFound(name, path_params)
        return URLPath(self.path)


def route_path(scope: Scope) -> str:
    """What is left of a request's path below where the app is mounted."""
    path, root = scope["path"], scope.get("root_path", "")
    if root and (path == root or path.startswith(root + "/")):
        return str(path[len(root) :])
    return str(path)

"""A route that answers its path with and without a slash at the end; a plain `Mount` redirects the bare path."""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import URLPath
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Scope

from concave.errors import ConfigurationError

__all__ = ["ResourceRoute", "route_path"]


class ResourceRoute(Mount):
    """What `Resource.mount` returns: for ``Starlette(routes=[…])`` and ``app.router.routes.append(…)`` in FastAPI.

    A `Mount`, because FastAPI's ``include_router`` carries over only the kinds of route that it knows.
    """

    def __init__(self, path: str, app: ASGIApp) -> None:
        if not path.startswith("/"):
            raise ConfigurationError(
                f"a resource is mounted at a path that starts with a slash, not {path!r}"
            )
        super().__init__(path, app=app, name=path.rstrip("/").rpartition("/")[2])
        # A row's id may have a line feed in it, which a dot doesn't match by itself.
        self.path_regex = re.compile(self.path_regex.pattern, re.DOTALL)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a request is for this path or below it."""
        if scope["type"] != "http":
            return Match.NONE, {}
        if route_path(scope) != self.path:  # told without a regular expression that fails first
            match, child = super().matches(scope)
            if match is not Match.NONE:
                return match, child
        return super().matches({**scope, "path": scope["path"] + "/"})

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """The path by this route's name, which is the last part of its path; with ``path=`` of what is below it."""
        bare = "path" not in path_params
        found = super().url_path_for(name, **{"path": "", **path_params})
        return URLPath(str(found).rstrip("/")) if bare else found


def route_path(scope: Scope) -> str:
    """What is left of a request's path below where the app is mounted."""
    path, root = scope["path"], scope.get("root_path", "")
    if root and (path == root or path.startswith(root + "/")):
        return str(path[len(root) :])
    return str(path)

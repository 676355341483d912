"""JSON Merge Patch (RFC 7396)."""

from __future__ import annotations

from typing import Any, Final, cast

from concave_sqlalchemy.problems import Problem

__all__ = ["MEDIA_TYPES", "merged"]

MEDIA_TYPES: Final = ("application/merge-patch+json", "application/json")

MAX_DEPTH: Final = 100


def merged(value: Any, patch: Any, *, depth: int = 0) -> Any:
    """`value` after a patch: objects are merged, null takes a member away, and anything else takes the place of what was.

    Nothing is changed in place. Raises `Problem` 422 for a patch more than 100 deep.
    """
    if not isinstance(patch, dict):
        return patch
    if depth == MAX_DEPTH:
        raise Problem(422, f"the patch is more than {MAX_DEPTH} deep")
    found = dict(cast("dict[str, Any]", value)) if isinstance(value, dict) else {}
    for name, member in cast("dict[str, Any]", patch).items():
        if member is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), member, depth=depth + 1)
    return found

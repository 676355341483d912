"""Lua files become scripts: one file a verb, on top of the libraries that its first line names."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from concave.store.records import MAX_FAILURES, Retention

__all__ = ["Script", "load_script"]

DIRECTIVE = "--! use "
CONSTANTS = f"local MAX_FAILURES, KEPT = {MAX_FAILURES}, {{{', '.join(map(str, Retention()))}}}"
"""What both languages must agree on."""


class Script(NamedTuple):
    """A verb's source, as the server gets it, and the digest by which the server remembers it."""

    name: str
    source: str
    sha: str


@cache
def load_script(name: str) -> Script:
    """The script of a verb: ``lua/<name>.lua`` behind the ``lua/lib`` files of its ``--! use`` line, in that order, `base` first."""
    folder = files("concave.store.redis") / "lua"
    verb = (folder / f"{name}.lua").read_text(encoding="utf-8")
    used = verb.partition("\n")[0].removeprefix(DIRECTIVE).split()
    base, *libraries = [(folder / "lib" / f"{library}.lua").read_text(encoding="utf-8") for library in used]
    # What nearly all functions use is outside of the one that holds them: else each function that is made, at each call, looks for
    # it among all the others.
    source = "\n".join([CONSTANTS, base, "return (function()", *libraries, verb, "end)()"])
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

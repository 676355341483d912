"""LIKE patterns in each database's words. SQLite's LIKE ignores case, so there it is GLOB, which doesn't."""

from __future__ import annotations

import re

__all__ = ["ascii_lower", "contains", "ends_with", "for_database", "from_like", "starts_with"]

ANY, ONE = "%", "_"

Pattern = tuple[str | None, ...]
"""Texts to be matched letter by letter; ``None`` stands for any number of characters, ``""`` for exactly one."""

PIECE = re.compile(r"\\(.)|([%_])|([^\\%_]+)", re.DOTALL)
ASCII_LOWER = {letter: letter + 32 for letter in range(ord("A"), ord("Z") + 1)}


def ascii_lower(text: str) -> str:
    """`text` with A to Z in lower case and nothing else changed: what SQLite's lower() does, and PostgreSQL's in "C"."""
    return text.translate(ASCII_LOWER)


def from_like(text: str) -> Pattern:
    """A client's pattern: ``%`` any characters, ``_`` one, a backslash before either of them or itself.

    Raises ``ValueError`` where a backslash has nothing after it.
    """
    pieces: list[str | None] = []
    at = 0
    while at < len(text):
        found = PIECE.match(text, at)
        if found is None:
            raise ValueError("the pattern ends with a backslash")
        escaped, wild, plain = found.groups()
        pieces.append({ANY: None, ONE: ""}[wild] if wild else escaped or plain)
        at = found.end()
    return tuple(pieces)


def contains(text: str) -> Pattern:
    """Whatever has `text` in it."""
    return (None, *_plain(text), None)


def starts_with(text: str) -> Pattern:
    """Whatever begins with `text`."""
    return (*_plain(text), None)


def ends_with(text: str) -> Pattern:
    """Whatever ends with `text`."""
    return (None, *_plain(text))


def for_database(pattern: Pattern, dialect: str) -> str:
    """The operand of GLOB on SQLite, elsewhere that of LIKE with a backslash to escape."""
    words = ("*", "?", _glob) if dialect == "sqlite" else (ANY, ONE, _like)
    many, one, escape = words
    return "".join(many if piece is None else one if piece == "" else escape(piece) for piece in pattern)


def _plain(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _glob(text: str) -> str:
    return re.sub(r"[*?\[]", r"[\g<0>]", text)


def _like(text: str) -> str:
    return re.sub(r"[\\%_]", r"\\\g<0>", text)

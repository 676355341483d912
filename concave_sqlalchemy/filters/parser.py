"""RSQL as text → what it says (see `syntax`).

::

    or         = and { ( "," | "||" | "or" ) and }
    and        = term { ( ";" | "&&" | "and" ) term }
    term       = "(" or ")" | field operator ( value | list )
    list       = "(" [ value { "," value } ] ")" | "[" … "]"
    value      = word | '"' … '"' | "'" … "'"        in quotes, a backslash stands before a quote or a backslash
    operator   = "==" | "!=" | ">" | ">=" | "<" | "<=" | "%=" | "!%=" | "=" name "="

AND binds closer than OR. A word is a number, ``true``, ``false``, ``null`` or a text without spaces and special characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NoReturn

from concave_sqlalchemy.filters.syntax import And, Comparison, Node, Or, Value, filter_problem

__all__ = ["MAX_COMPARISONS", "MAX_DEPTH", "MAX_LENGTH", "OPERATOR", "parse"]

MAX_LENGTH: Final = 4096
MAX_DEPTH: Final = 10
MAX_COMPARISONS: Final = 100

SPACE = re.compile(r"\s*")
WORD = re.compile(r"""[^\s"'()\[\];,=!<>&|]+""")
FIELD = re.compile(r"""[^\s"'()\[\];,=!<>&|%]+""")
OPERATOR = re.compile(r"==|!=|>=|<=|>|<|!?%=|=[A-Za-z][A-Za-z0-9_-]*=")
AND = re.compile(r";|&&|and(?![^\s(])", re.IGNORECASE)
OR = re.compile(r",|\|\||or(?![^\s(])", re.IGNORECASE)
STRINGS = {'"': re.compile(r'[^"\\]*'), "'": re.compile(r"[^'\\]*")}
LISTS = {"(": ")", "[": "]"}


def parse(text: str) -> Node | None:
    """What a filter says; None where it is empty.

    Raises `Problem` 400 with the position of what can't be read, or of what is too much: 4,096 characters, parentheses 10 deep,
    100 comparisons.
    """
    if len(text) > MAX_LENGTH:
        raise filter_problem(f"it is longer than {MAX_LENGTH} characters", MAX_LENGTH)
    if (nul := text.find("\0")) != -1:
        raise filter_problem("it holds the character NUL", nul)
    parser = _Parser(text)
    if parser.at_end():
        return None
    node = parser.alternatives(depth=0)
    if not parser.at_end():
        parser.fail("AND, OR or the end is expected")
    return node


class _Parser:
    """Reads from left to right. Its only recursion is a parenthesis, and those are counted."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._comparisons = 0

    def at_end(self) -> bool:
        return self._peek() == ""

    def fail(self, message: str) -> NoReturn:
        raise filter_problem(message, self._at)

    def alternatives(self, depth: int) -> Node:
        parts = self._joined(lambda: self._conjunction(depth), OR)
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _conjunction(self, depth: int) -> Node:
        parts = self._joined(lambda: self._term(depth), AND)
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _joined(self, part: Callable[[], Node], joint: re.Pattern[str]) -> list[Node]:
        parts = [part()]
        while self._take(joint) is not None:
            parts.append(part())
        return parts

    def _term(self, depth: int) -> Node:
        if self._peek() != "(":
            return self._comparison()
        if depth == MAX_DEPTH:
            self.fail(f"parentheses are more than {MAX_DEPTH} deep")
        self._at += 1
        inner = self.alternatives(depth + 1)
        self._close(")")
        return inner

    def _comparison(self) -> Comparison:
        self._peek()
        position = self._at
        if self._comparisons == MAX_COMPARISONS:
            self.fail(f"there are more than {MAX_COMPARISONS} comparisons")
        self._comparisons += 1
        if (field := self._take(FIELD)) is None:
            self.fail("a field's name or a parenthesis is expected")
        self._peek()
        operator_position = self._at
        if (operator := self._take(OPERATOR)) is None:
            self.fail("an operator is expected")
        closing = LISTS.get(self._peek())
        value_position = self._at
        values = (self._value(),) if closing is None else self._list(closing)
        return Comparison(
            field, operator, values, closing is not None, position, operator_position, value_position
        )

    def _list(self, closing: str) -> tuple[Value, ...]:
        self._at += 1
        values: list[Value] = []
        while self._peek() != closing:
            values.append(self._value())
            if self._peek() != ",":
                break
            self._at += 1
        self._close(closing)
        return tuple(values)

    def _value(self) -> Value:
        quote, position = self._peek(), self._at
        if quote in STRINGS:
            return Value(self._string(quote), position, quoted=True)
        if (word := self._take(WORD)) is None:
            self.fail("a value is expected")
        return Value(word, position)

    def _string(self, quote: str) -> str:
        begin = self._at
        self._at += 1
        pieces: list[str] = []
        while True:
            if (plain := STRINGS[quote].match(self._text, self._at)) is not None:
                pieces.append(plain[0])
                self._at = plain.end()
            escaped = self._text[self._at : self._at + 2]
            if escaped.startswith(quote):
                self._at += 1
                return "".join(pieces)
            if escaped in {'\\"', "\\'", "\\\\"}:
                pieces.append(escaped[1])
                self._at += 2
            elif len(escaped) == 2:
                self.fail("a backslash stands before a quote or another backslash")
            else:
                raise filter_problem("a text is not closed", begin)

    def _close(self, closing: str) -> None:
        if self._peek() != closing:
            self.fail(f"{closing!r} is expected")
        self._at += 1

    def _peek(self) -> str:
        """The next character that is no space; empty at the end."""
        if (space := SPACE.match(self._text, self._at)) is not None:
            self._at = space.end()
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        self._peek()
        found = pattern.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found[0]

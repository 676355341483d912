"""ETags of rows, and the conditions that requests put on them (RFC 9110, section 13)."""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.datastructures import Headers

from concave_sqlalchemy.fields import ResourceField
from concave_sqlalchemy.problems import Problem, in_header
from concave_sqlalchemy.schema import RowSchema

__all__ = ["Conditions", "Tags"]

TAG = re.compile(r'\s*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')
ANY = "*"
CONDITIONAL = frozenset({b"if-match", b"if-none-match"})


@dataclass(frozen=True, slots=True, eq=False)
class Tags:
    """How a table's rows are tagged: by their version column, or by a hash of what clients see of them.

    A hash of more would tell clients, who can try values, what they may not read.
    """

    schema: RowSchema
    version: ResourceField | None

    def of(self, row: Mapping[str, Any], shown: bytes | None = None) -> str:
        """The tag of a whole row; `shown` is its JSON, if that is made already."""
        if self.version is not None:
            return self.of_version(row[self.version.name])
        return self.of_shown(self.schema.to_json(row) if shown is None else shown)

    @staticmethod
    def of_version(version: int) -> str:
        """The tag of a row with this version."""
        return f'"{version}"'

    @staticmethod
    def of_shown(shown: bytes) -> str:
        """The tag of a row that clients see like this."""
        return f'"{urlsafe_b64encode(hashlib.sha256(shown).digest()[:16]).decode().rstrip("=")}"'


class Conditions(NamedTuple):
    """What a request wants the row to be, or not to be. None is a header that isn't there."""

    if_match: tuple[str, ...] | None = None
    if_none_match: tuple[str, ...] | None = None

    @classmethod
    def of(cls, headers: Headers) -> Conditions:
        """The conditions of a request. Raises `Problem` 400 for what isn't a list of ETags."""
        if CONDITIONAL.isdisjoint([name for name, _ in headers.raw]):  # one look in place of two
            return UNCONDITIONAL
        return cls(*(_tags(name, headers.getlist(name)) for name in ("if-match", "if-none-match")))

    @property
    def is_certain(self) -> bool:
        """Whether the request is about one state of the row, and no other."""
        return self.if_match is not None and self.if_match != (ANY,)

    def check(self, tag: str) -> None:
        """Raises `Problem` 412 where a row that is to be written isn't as it should be."""
        # Strong comparison: a weak tag, W/"…", is never equal.
        if self.if_match not in {None, (ANY,)} and tag not in (self.if_match or ()):
            raise changed()
        if self.is_known(tag):
            raise in_header(412, "if-none-match", "the row is there, or is what it must not be")

    def is_known(self, tag: str) -> bool:
        """Whether If-None-Match has it: to read it again tells the client nothing new."""
        known = self.if_none_match
        return known is not None and (known == (ANY,) or tag in {each.removeprefix("W/") for each in known})


UNCONDITIONAL = Conditions()


def changed() -> Problem:
    """412 for a row that isn't any more what a client thinks it is."""
    return in_header(412, "if-match", "the row has changed: read it again, and decide anew")


def _tags(name: str, given: list[str]) -> tuple[str, ...] | None:
    if not given:
        return None
    text = ",".join(given).strip()
    if text == ANY:
        return (ANY,)
    found: list[str] = []
    at = 0
    while at < len(text):
        tag = TAG.match(text, at)
        if tag is None:
            break
        found.append(tag[1])
        at = tag.end()
    if at < len(text) or not found:
        raise in_header(400, name, 'must be * or ETags in quotes, as in "abc"')
    return tuple(found)

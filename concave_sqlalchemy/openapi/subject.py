"""What is described: apart from how, which is imported when a description is asked for."""

from __future__ import annotations

from typing import NamedTuple

from concave_sqlalchemy.policy import Allowed
from concave_sqlalchemy.schema import RowSchema

__all__ = ["Subject"]


class Subject(NamedTuple):
    """What is described: a resource as its clients see it."""

    table: str
    schema: RowSchema
    allowed: Allowed
    default_limit: int
    max_limit: int
    max_batch: int
    unique: tuple[str, ...]
    """What `on_conflict` can be: fields that clients may set and no two rows have in common, with commas between them."""
    may_be_refused: bool
    """Whether a request's user decides what is answered."""
    completes_create: bool
    """Whether a before-hook may supply what a new row's body leaves out."""
    completes_update: bool

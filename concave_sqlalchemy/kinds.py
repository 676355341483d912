"""Which classes a mapped table's rows can be of. The mapper tells them by one column; a row of no class can't be loaded by the ORM."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema
from sqlalchemy import Column
from sqlalchemy.orm import Mapper

__all__ = ["Kinds", "tells_kinds"]


def tells_kinds(column: Column[Any], mapper: Mapper[Any]) -> bool:
    """Whether this column tells of each row which class it is of."""
    return mapper.polymorphic_on is column


@dataclass(frozen=True, slots=True, eq=False)
class Kinds:
    """For `Annotated`: one of a mapper's identities. They are looked up each time, since a subclass may be defined after a resource."""

    mapper: Mapper[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's way to ask how values are checked."""
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Pydantic's way to ask what they look like."""
        described = handler(schema)
        identities = list(self.mapper.polymorphic_map)
        is_plain = all(type(each) in {str, int} for each in identities)
        return {**described, "enum": identities} if is_plain else described

    def _known(self, value: Any) -> Any:
        identities = self.mapper.polymorphic_map
        if value not in identities:
            known = (each.value if isinstance(each, enum.Enum) else each for each in identities)
            raise ValueError(f"must be one of {', '.join(map(repr, known))}")
        return value

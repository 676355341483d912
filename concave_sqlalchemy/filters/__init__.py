"""Filters in RSQL: text → what it says (`parser`) → SQLAlchemy (`translate`)."""

from concave_sqlalchemy.filters.operators import FilterOperator
from concave_sqlalchemy.filters.translate import Filters

__all__ = ["FilterOperator", "Filters"]

"""Tables as REST resources whose writes trigger tasks, on SQLAlchemy."""

from concave_sqlalchemy.enqueue import enqueue_in
from concave_sqlalchemy.filters import FilterOperator
from concave_sqlalchemy.openapi.apps import extend_openapi, openapi_route
from concave_sqlalchemy.policy import Fields
from concave_sqlalchemy.problems import Problem
from concave_sqlalchemy.resource import Resource, use_resource
from concave_sqlalchemy.scopes import ALLOW, DENY, Scopes
from concave_sqlalchemy.tables import create_outbox_tables, metadata
from concave_sqlalchemy.tracking import track_session

__all__ = [
    "ALLOW",
    "DENY",
    "Fields",
    "FilterOperator",
    "Problem",
    "Resource",
    "Scopes",
    "create_outbox_tables",
    "enqueue_in",
    "extend_openapi",
    "metadata",
    "openapi_route",
    "track_session",
    "use_resource",
]

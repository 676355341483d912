"""What an application writes through the ORM's unit of work, told to the hooks of a resource."""

from concave_sqlalchemy.tracking.track import track_session

__all__ = ["track_session"]

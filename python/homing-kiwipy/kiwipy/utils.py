"""A list of listeners."""

from homing.kiwipy._events import EventHelper

__all__ = ("EventHelper",)

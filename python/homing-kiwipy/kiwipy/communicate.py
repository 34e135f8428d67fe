"""``connect``."""

from homing.kiwipy import DEFAULT_COMM_URI, connect

__all__ = ("connect",)

"""The filter of broadcasts."""

from homing.kiwipy import BroadcastFilter

__all__ = ("BroadcastFilter",)

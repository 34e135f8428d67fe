"""Futures."""

from homing.kiwipy import CancelledError, Future, as_completed, capture_exceptions, chain, copy_future, wait

__all__ = ("Future", "chain", "copy_future", "CancelledError", "capture_exceptions", "wait", "as_completed")

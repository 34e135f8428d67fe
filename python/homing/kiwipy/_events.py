"""A list of listeners, by kiwipy's name."""

from __future__ import annotations

from typing import Any

__all__ = ("EventHelper",)


class EventHelper:
    """Calls a method of each of its listeners. One that raises is logged, and stops no other."""

    def __init__(self, listener_type: type) -> None:
        self._type = listener_type
        self._listeners: set[Any] = set()

    @property
    def listeners(self) -> set[Any]:
        """All of them."""
        return self._listeners

    def add_listener(self, listener: Any) -> None:
        """Add one, which has to be of the type."""
        if not isinstance(listener, self._type):
            raise TypeError(f"listener must be a {self._type.__name__}, not {type(listener).__name__}")
        self._listeners.add(listener)

    def remove_listener(self, listener: Any) -> None:
        """Remove one, if it is there."""
        self._listeners.discard(listener)

    def remove_all_listeners(self) -> None:
        """Remove all."""
        self._listeners.clear()

    def fire_event(self, event_function: Any, *args: Any, **kwargs: Any) -> None:
        """Call the method of this function's name of each."""
        if event_function is None:
            raise ValueError("event_function is None; it names the method that is called")
        for listener in list(self._listeners):
            try:
                getattr(listener, event_function.__name__)(*args, **kwargs)
            except Exception:
                import logging

                logging.getLogger("homing").exception("a listener failed")

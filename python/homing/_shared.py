"""What the communicators of loops and of threads share: options, filters, and the end of the interpreter."""

from __future__ import annotations

import atexit
import os
import re
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypedDict, Union

from homing import _native
from homing._errors import InvalidArgument

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: A pattern of kiwipy's (``state_changed.*``), a compiled expression, or a value to be equal to.
Pattern = Union[str, "re.Pattern[str]"]


class ConnectOptions(TypedDict, total=False):
    """The options of ``connect``. Times are in seconds."""

    prefix: str
    message_exchange: str
    task_exchange: str
    task_queue: str
    task_prefetch: int
    task_priorities: int
    call_timeout: float
    task_timeout: float
    connect_timeout: float
    operation_timeout: float
    close_timeout: float
    heartbeat: float
    queue_expires: float
    message_ttl: float
    task_ttl: float
    task_attempts: tuple[int, float]
    in_flight: tuple[int, int]
    connection_name: str
    reconnect: bool
    testing: bool
    codec: str
    encoder: Callable[[Any], bytes]
    decoder: Callable[[bytes], Any]


_OPTIONS: dict[str, Any] = dict.fromkeys(ConnectOptions.__annotations__)
_OPTIONS.update(reconnect=True, testing=False)


def native_options(given: dict[str, Any]) -> dict[str, Any]:
    """All options, those that were not given with their defaults."""
    for name in given:
        if name not in _OPTIONS:
            raise TypeError(f"connect() got an unexpected option {name!r}; there are {', '.join(sorted(_OPTIONS))}")
    return {**_OPTIONS, **given}


def wrong(name: str, expected: str, given: Any) -> TypeError:
    """The exception for an argument of a wrong type, in the words of the native half."""
    cls = type(given)
    shown = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return TypeError(f"{name} must be {expected}, not {shown}")


def check_text(name: str, given: Any) -> None:
    """That an argument is a string."""
    if not isinstance(given, str):
        raise wrong(name, "a str", given)


def check_number(name: str, given: Any) -> None:
    """That an argument is a number."""
    if not (hasattr(given, "__float__") or hasattr(given, "__index__")):
        raise wrong(name, "a number", given)


def check_callable(given: Any, name: str = "subscriber") -> None:
    """That an argument can be called."""
    if not callable(given):
        raise wrong(name, "callable", given)


def check_core(given: Any, maker: str) -> None:
    """That a communicator is made of what has connected."""
    if not isinstance(given, _native.Core):
        raise TypeError(f"a communicator is made by {maker}, not by its class")


def _expression(name: str, pattern: re.Pattern[str]) -> str:
    """A compiled expression as text, with its flags."""
    if not isinstance(pattern.pattern, str):
        raise wrong(f"the expression of {name}", "a str", pattern.pattern)
    letters = "".join(
        letter
        for letter, flag in (("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL), ("x", re.VERBOSE))
        if pattern.flags & flag
    )
    return f"(?{letters}){pattern.pattern}" if letters else pattern.pattern


def _each(given: Any) -> Iterable[Any]:
    if given is None:
        return ()
    return given if isinstance(given, (list, tuple, set, frozenset)) else (given,)


def native_filter(subject: Any, sender: Any) -> _native.Filter:
    """A filter that passes the subjects and the senders that any of these match."""
    made = _native.Filter()
    if isinstance(subject, Iterator):
        subject = list(subject)
    for one in _each(subject):
        if isinstance(one, re.Pattern):
            made.subject_regex(_expression("subject", one))
        elif isinstance(one, str):
            made.subject(one)
        else:
            raise wrong("subject", "a str, a compiled expression, or several of them", one)
    for one in _each(sender):
        if isinstance(one, re.Pattern):
            made.sender_regex(_expression("sender", one))
        elif isinstance(one, str):
            made.sender(one)
        else:
            made.sender_is(one)
    return made


class WrongProtocol(TypeError, AttributeError):
    """What Python raises where an object has no such protocol: the one or the other, by its version."""


class NoProtocol:
    """In the place of a special method that a class has not: says what to do instead. For ``hasattr`` it is not there."""

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def __get__(self, instance: object, owner: type[object] | None = None) -> NoReturn:
        raise WrongProtocol(self._instead)


class Uncopied:
    """What stands for a connection: a copy would close the original's."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"a {type(self).__name__} can neither be pickled nor copied; connect another one where one is needed")


class Connected(Uncopied):
    """What a communicator of either kind shows of its connection."""

    _core: _native.Core

    @property
    def state(self) -> str:
        """``connecting``, ``connected``, ``blocked``, ``lost``, ``backing_off`` or ``closed``."""
        return self._core.state

    @property
    def is_closed(self) -> bool:
        """True when it is closed, or its connection is lost for good."""
        return self._core.is_closed

    @property
    def server_properties(self) -> dict[str, str]:
        """The broker's properties: ``product``, ``version`` and so on."""
        return self._core.server_properties


def instant(at: Any) -> float | None:
    """A time of the clock in seconds since 1970; of a datetime too."""
    if at is None:
        return None
    timestamp: Any = getattr(at, "timestamp", None)
    if timestamp is not None:
        at = timestamp()
    elif not (hasattr(at, "__float__") or hasattr(at, "__index__")):
        raise wrong("at", "a datetime, or a number of seconds since 1970", at)
    try:
        seconds = float(at)
    except OverflowError:
        raise InvalidArgument("at is a time that this machine does not know") from None
    # What was long ago is now.
    return 0.0 if seconds < 0.0 else seconds


class Ends(Protocol):
    """Something that has to be closed before the interpreter ends."""

    def _close_at_exit(self) -> None: ...


_open: weakref.WeakSet[Any] = weakref.WeakSet()

# Those that the process had when it was forked from another, which has them still.
_inherited: weakref.WeakSet[Any] = weakref.WeakSet()


def closes_at_exit(communicator: Ends) -> None:
    """Has it closed before the interpreter ends, unless it is gone by then."""
    _open.add(communicator)


def _forked() -> None:
    _native.forked()
    _inherited.update(_open)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_native.forks, after_in_parent=_native.has_forked, after_in_child=_forked)


@atexit.register
def _end() -> None:
    for communicator in list(_inherited):
        # Nothing of it is this process's to close, and nobody is to be warned that it was not.
        communicator._closed = True
    # Threads that wait for something of ours have to be out before the interpreter goes.
    _native.begin_end()
    for communicator in list(_open):
        try:
            communicator._close_at_exit()
        except Exception:
            # The next one is to be closed all the same.
            import sys
            import traceback

            traceback.print_exc(file=sys.stderr)
    _native.end_waiters(1.0)

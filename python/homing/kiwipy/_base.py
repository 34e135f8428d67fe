"""kiwipy's exceptions, futures, filters and interface."""

from __future__ import annotations

import abc
import contextlib
import functools
import importlib
import importlib.util
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, TimeoutError, as_completed, wait
from typing import TYPE_CHECKING, Any

import homing
from homing._shared import check_callable, wrong

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = (
    "BroadcastFilter",
    "CancelledError",
    "Communicator",
    "CommunicatorClosed",
    "CommunicatorHelper",
    "DeliveryFailed",
    "DuplicateSubscriberIdentifier",
    "Future",
    "InvalidStateError",
    "LocalCommunicator",
    "QueueEmpty",
    "RemoteException",
    "TaskRejected",
    "TimeoutError",
    "UnroutableError",
    "as_completed",
    "capture_exceptions",
    "chain",
    "copy_future",
    "wait",
)


if TYPE_CHECKING:

    class _theirs:
        """kiwipy's exceptions: a type checker cannot know whether kiwipy is installed."""

        class RemoteException(Exception): ...

        class DeliveryFailed(Exception): ...

        class UnroutableError(DeliveryFailed): ...

        class TaskRejected(Exception): ...

        class QueueEmpty(Exception): ...

        class DuplicateSubscriberIdentifier(Exception): ...

        class CommunicatorClosed(Exception): ...

        class InvalidStateError(Exception): ...

else:

    class _Theirs:
        """kiwipy's own exceptions where kiwipy is installed, so that an ``except`` of either catches ours."""

        def __init__(self) -> None:
            spec = importlib.util.find_spec("kiwipy")
            places = spec.submodule_search_locations if spec is not None else None
            self._found = None
            # The module of that name may be the one that takes all from here.
            if places and not any(os.path.exists(os.path.join(place, "_homing.py")) for place in places):
                import kiwipy.exceptions

                self._found = kiwipy.exceptions

        def __getattr__(self, name: str) -> type[Exception]:
            return getattr(self._found, name, Exception)

    _theirs = _Theirs()


class RemoteException(homing.RemoteException, _theirs.RemoteException):
    """An exception occurred at the other end."""


class DeliveryFailed(homing.DeliveryFailed, _theirs.DeliveryFailed):
    """The broker did not take a message over."""


class UnroutableError(DeliveryFailed, homing.UnroutableError, _theirs.UnroutableError):
    """There is no subscriber of that name."""


class TaskRejected(homing.TaskRejected, _theirs.TaskRejected):
    """A subscriber raises it for a task that is not for it."""


class QueueEmpty(homing.QueueEmpty, _theirs.QueueEmpty):
    """There was no task to take."""


class DuplicateSubscriberIdentifier(homing.DuplicateSubscriberIdentifier, _theirs.DuplicateSubscriberIdentifier):
    """The identifier is taken."""


class CommunicatorClosed(homing.CommunicatorClosed, _theirs.CommunicatorClosed):
    """The communicator is closed."""


class InvalidStateError(homing.InvalidStateError, _theirs.InvalidStateError):
    """The object is not in a state to do this."""


class _TimedOut(homing.TimeoutError, TimeoutError):
    """No outcome came in time. (Until Python 3.10 these two are not the same.)"""


_OURS: dict[type[BaseException], type[homing.Error]] = {
    homing.RemoteException: RemoteException,
    homing.DeliveryFailed: DeliveryFailed,
    homing.UnroutableError: UnroutableError,
    homing.TaskRejected: TaskRejected,
    homing.QueueEmpty: QueueEmpty,
    homing.DuplicateSubscriberIdentifier: DuplicateSubscriberIdentifier,
    homing.CommunicatorClosed: CommunicatorClosed,
    homing.InvalidStateError: InvalidStateError,
    homing.TimeoutError: _TimedOut,
}


@functools.cache
def _lost(theirs: Any) -> Any:
    class ConnectionLost(homing.ConnectionLost, theirs):  # type: ignore[misc]
        """The connection was lost while this was under way."""

        def __reduce__(self) -> Any:
            # Its class is made when it is needed, in the process that reads it, too.
            return _lost_again, self.args, self.__dict__

    return ConnectionLost


def _lost_again(*args: Any) -> BaseException:
    with contextlib.suppress(ImportError):
        importlib.import_module("aio_pika.exceptions")
    made = _kind(homing.ConnectionLost()) or homing.ConnectionLost
    lost: BaseException = made(*args)
    return lost


def _kind(error: BaseException) -> Any:
    """The type that kiwipy's callers catch for it, if there is one."""
    if type(error) is homing.ConnectionLost:
        # What kiwipy lets through from aio_pika, and plumpy catches: where somebody has imported it.
        theirs = getattr(sys.modules.get("aio_pika.exceptions"), "ConnectionClosed", None)
        return _lost(theirs) if theirs is not None else None
    return _OURS.get(type(error))


def translated(error: BaseException) -> BaseException:
    """An exception of homing as the one that kiwipy has for it."""
    if isinstance(error, homing.EncodeError) and error.__cause__ is not None:
        # What the encoder raised: kiwipy's callers get that.
        return error.__cause__
    made = _kind(error)
    if made is None:
        return error
    # kiwipy's text is the text of the other end alone.
    text = error.text if isinstance(error, homing.RemoteException) else str(error)
    theirs: BaseException = made(text)
    theirs.__dict__.update(error.__dict__)
    return theirs.with_traceback(error.__traceback__)


class _Translating:
    """One for all: it has no state. A generator would take longer than all else that Python does for a call."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if not isinstance(error, homing.Error):
            return
        theirs = translated(error)
        if theirs is not error:
            raise theirs from (None if theirs is error.__cause__ else error.__cause__)


_TRANSLATING = _Translating()


def translating() -> _Translating:
    """Raises exceptions of homing as those that kiwipy has for them."""
    return _TRANSLATING


def _check_future(name: str, given: Any) -> None:
    if not hasattr(given, "add_done_callback"):
        raise wrong(name, "a future", given)


def _check_key(name: str, given: Any) -> None:
    try:
        hash(given)
    except TypeError:
        raise wrong(name, "hashable", given) from None


def copy_future(source: Any, target: Any) -> None:
    """Copy the outcome of a future to another, unless that has ended."""
    _check_future("source", source)
    _check_future("target", target)
    if target.done():
        return
    if source.cancelled():
        target.cancel()
        return
    with capture_exceptions(target):
        target.set_result(source.result())


def chain(source: Any, target: Any) -> None:
    """When the source has ended, so does the target, with its outcome."""
    _check_future("source", source)
    _check_future("target", target)
    source.add_done_callback(lambda ended: copy_future(ended, target))


@contextlib.contextmanager
def capture_exceptions(future: Any, ignore: Any = ()) -> Iterator[None]:
    """Give the future the exception that leaves the block, except for these types, which are raised."""
    _check_future("future", future)
    for one in ignore if isinstance(ignore, tuple) else (ignore,):
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise wrong("ignore", "a type of exceptions, or a tuple of them", one)
    try:
        yield
    except Exception as error:
        if isinstance(error, ignore):
            raise
        future.set_exception(error)


class BroadcastFilter:
    """A subscriber that is called for some broadcasts only.

    A string matches with ``*`` for any characters, from the start; a compiled expression from the start, too; anything else
    has to be equal. Of several on one field one has to match. A broadcast without the field passes.
    """

    def __init__(self, subscriber: Callable[..., Any], subject: Any = None, sender: Any = None) -> None:
        check_callable(subscriber)
        self._subscriber = subscriber
        self._subject_filters: list[Callable[[Any], Any]] = []
        self._sender_filters: list[Callable[[Any], Any]] = []
        if subject is not None:
            self.add_subject_filter(subject)
        if sender is not None:
            self.add_sender_filter(sender)

    @property
    def __name__(self) -> str:
        return "BroadcastFilter"

    def __call__(
        self, communicator: Any, body: Any, sender: Any = None, subject: Any = None, correlation_id: Any = None
    ) -> Any:
        if self.is_filtered(sender, subject):
            return None
        return self._subscriber(communicator, body, sender, subject, correlation_id)

    def is_filtered(self, sender: Any, subject: Any) -> bool:
        """True for a broadcast that does not pass."""
        return any(
            value is not None and checks and not any(check(value) for check in checks)
            for value, checks in ((subject, self._subject_filters), (sender, self._sender_filters))
        )

    def add_subject_filter(self, subject_filter: Any) -> None:
        """Let subjects pass that this one matches, too."""
        self._subject_filters.append(_check(subject_filter))

    def add_sender_filter(self, sender_filter: Any) -> None:
        """Let senders pass that this one matches, too."""
        self._sender_filters.append(_check(sender_filter))


def _check(wanted: Any) -> Callable[[Any], Any]:
    if isinstance(wanted, str):
        expression = re.compile(wanted.replace(".", "[.]").replace("*", ".*"))
        return lambda value: isinstance(value, str) and expression.match(value)
    if isinstance(wanted, re.Pattern):
        return lambda value: isinstance(value, str) and wanted.match(value)
    return lambda value: value == wanted


class Communicator:
    """What a communicator of kiwipy's can do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.close()

    @abc.abstractmethod
    def is_closed(self) -> bool:
        """True when it is closed."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close, and allow no further operation."""

    @abc.abstractmethod
    def add_rpc_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        """Add a subscriber to calls, ``subscriber(communicator, message)``. Returns its identifier."""

    @abc.abstractmethod
    def remove_rpc_subscriber(self, identifier: Any) -> None:
        """Remove a subscriber to calls. ``ValueError`` when there is none of that name."""

    @abc.abstractmethod
    def add_task_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        """Add a subscriber to the default queue, ``subscriber(communicator, task)``. Returns its identifier."""

    @abc.abstractmethod
    def remove_task_subscriber(self, identifier: Any) -> None:
        """Remove a subscriber to the default queue. ``ValueError`` when there is none of that name."""

    @abc.abstractmethod
    def add_broadcast_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        """Add a subscriber, ``subscriber(communicator, body, sender, subject, correlation_id)``. Returns its identifier."""

    @abc.abstractmethod
    def remove_broadcast_subscriber(self, identifier: Any) -> None:
        """Remove a subscriber to broadcasts. ``ValueError`` when there is none of that name."""

    @abc.abstractmethod
    def task_send(self, task: Any, no_reply: bool = False) -> Any:
        """Send a task. Returns a future of its outcome, or None with ``no_reply``."""

    @abc.abstractmethod
    def rpc_send(self, recipient_id: Any, msg: Any) -> Any:
        """Call a subscriber. Returns a future of its answer."""

    @abc.abstractmethod
    def broadcast_send(self, body: Any, sender: Any = None, subject: Any = None, correlation_id: Any = None) -> bool:
        """Send a broadcast."""


class CommunicatorHelper(Communicator):
    """Keeps subscribers, and calls them, for a communicator that has its own way to send."""

    def __init__(self) -> None:
        self._rpc_subscribers: dict[Any, Callable[..., Any]] = {}
        self._task_subscribers: dict[Any, Callable[..., Any]] = {}
        self._broadcast_subscribers: dict[Any, Callable[..., Any]] = {}
        self._closed = False

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        for subscribers in (self._rpc_subscribers, self._task_subscribers, self._broadcast_subscribers):
            subscribers.clear()

    def _ensure_open(self) -> None:
        if self.is_closed():
            raise CommunicatorClosed("the communicator is closed")

    def _add(self, subscribers: dict[Any, Any], subscriber: Any, identifier: Any) -> Any:
        self._ensure_open()
        check_callable(subscriber)
        identifier = identifier or uuid.uuid4().hex
        _check_key("identifier", identifier)
        if identifier in subscribers:
            raise DuplicateSubscriberIdentifier(f"there is a subscriber {identifier!r}")
        subscribers[identifier] = subscriber
        return identifier

    def _remove(self, subscribers: dict[Any, Any], identifier: Any) -> None:
        self._ensure_open()
        _check_key("identifier", identifier)
        if identifier not in subscribers:
            raise ValueError(f"there is no subscriber {identifier!r}")
        del subscribers[identifier]

    def add_rpc_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        return self._add(self._rpc_subscribers, subscriber, identifier)

    def remove_rpc_subscriber(self, identifier: Any) -> None:
        self._remove(self._rpc_subscribers, identifier)

    def add_task_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        return self._add(self._task_subscribers, subscriber, identifier)

    def remove_task_subscriber(self, identifier: Any) -> None:
        self._remove(self._task_subscribers, identifier)

    def add_broadcast_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        return self._add(self._broadcast_subscribers, subscriber, identifier)

    def remove_broadcast_subscriber(self, identifier: Any) -> None:
        self._remove(self._broadcast_subscribers, identifier)

    def fire_task(self, msg: Any, no_reply: bool = False) -> Any:
        """Offer a task to the subscribers, until one does not reject it. A future of its outcome."""
        self._ensure_open()
        future: Any = Future()
        for subscriber in list(self._task_subscribers.values()):
            try:
                future.set_result(subscriber(self, msg))
                break
            except TaskRejected:
                continue
            except Exception as error:
                future.set_exception(_remote(error))
                break
        return None if no_reply else future

    def fire_rpc(self, recipient_id: Any, msg: Any) -> Any:
        """Call a subscriber. A future of its answer."""
        self._ensure_open()
        _check_key("recipient_id", recipient_id)
        subscriber = self._rpc_subscribers.get(recipient_id)
        if subscriber is None:
            raise UnroutableError(f"there is no subscriber {recipient_id!r}")
        future: Any = Future()
        try:
            future.set_result(subscriber(self, msg))
        except Exception as error:
            future.set_exception(_remote(error))
        return future

    def fire_broadcast(self, body: Any, sender: Any = None, subject: Any = None, correlation_id: Any = None) -> bool:
        """Call every subscriber to broadcasts."""
        self._ensure_open()
        for subscriber in list(self._broadcast_subscribers.values()):
            subscriber(self, body=body, sender=sender, subject=subject, correlation_id=correlation_id)
        return True


def _remote(error: Exception) -> RemoteException:
    made = RemoteException(str(error))
    made.text, made.type_name = str(error), type(error).__qualname__
    made.__cause__ = error
    return made


class LocalCommunicator(CommunicatorHelper):
    """A communicator whose subscribers are all its own."""

    def task_send(self, task: Any, no_reply: bool = False) -> Any:
        return self.fire_task(task, no_reply)

    def rpc_send(self, recipient_id: Any, msg: Any) -> Any:
        return self.fire_rpc(recipient_id, msg)

    def broadcast_send(self, body: Any, sender: Any = None, subject: Any = None, correlation_id: Any = None) -> bool:
        return self.fire_broadcast(body, sender, subject, correlation_id)


for _name in __all__:
    _object = globals()[_name]
    if getattr(_object, "__module__", "") == __name__:
        _object.__module__ = "homing.kiwipy"

"""The exceptions of the package, and what exceptions of subscribers mean."""

from __future__ import annotations

import builtins
from typing import Any

__all__ = (
    "Abandoned",
    "AccessRefused",
    "Cancelled",
    "CommunicatorClosed",
    "ConnectionFailed",
    "ConnectionLost",
    "DecodeError",
    "DeliveryFailed",
    "DuplicateSubscriberIdentifier",
    "DuplicateTask",
    "EncodeError",
    "Error",
    "Full",
    "HomeEnded",
    "InternalError",
    "InvalidArgument",
    "InvalidStateError",
    "Lagged",
    "NotFound",
    "PermissionDenied",
    "PreconditionFailed",
    "QueueEmpty",
    "RemoteException",
    "ResourceLocked",
    "StorageError",
    "TaskRejected",
    "TimeoutError",
    "TryAgain",
    "Unreadable",
    "UnroutableError",
    "WouldDeadlock",
    "WrongHome",
)


class Error(Exception):
    """Every exception of homing is one. Its text names what was tried, on what, why it failed and what to do."""


class RemoteException(Error):
    """The subscriber at the other end answered with an exception.

    Attributes
    ----------
    text : str
        The text of the other end's exception.
    type_name : str or None
        The type of the other end's exception, if the other end sends it. kiwipy does not.
    chain : list of str
        The texts of the exceptions that it was raised from.
    data : object
        What the other end sent along.
    """

    text: str = ""
    type_name: str | None = None
    chain: list[str]
    data: Any = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.chain = []


class DeliveryFailed(Error):
    """The broker did not take a message over."""


class UnroutableError(DeliveryFailed):
    """There is no subscriber of that name."""


class TaskRejected(Error):
    """Raised in a task subscriber: the task is not for it, and the next one gets it."""


class TryAgain(Error):
    """Raised in a task subscriber: something temporary is in the way, and the task comes again after a pause."""


class Unreadable(Error):
    """Raised in a task subscriber: it cannot read this task, today or later. The task goes to the quarantine queue."""


class QueueEmpty(Error):
    """There was no task to take."""


class DuplicateSubscriberIdentifier(Error):
    """The identifier is taken on this communicator."""


class DuplicateTask(Error):
    """A task with this key was sent within its time, by this program or another one."""


class CommunicatorClosed(Error):
    """The communicator is closed."""


class InvalidStateError(Error):
    """The object is not in a state to do this, such as a task that was settled before."""


class TimeoutError(Error, builtins.TimeoutError):
    """The deadline passed."""


class Cancelled(Error):
    """The work was cancelled at the other end. A call that is cancelled here raises ``asyncio.CancelledError``."""


class Abandoned(Error):
    """The other side gave up without an outcome."""


class ConnectionFailed(Error, ConnectionError):
    """No connection could be made."""


class ConnectionLost(Error, ConnectionError):
    """The connection was lost while this was under way."""


class AccessRefused(ConnectionFailed):
    """The broker refused the credentials or the virtual host."""


class PermissionDenied(Error, PermissionError):
    """The broker refused what was asked of it: a permission on an exchange or a queue is missing."""


class PreconditionFailed(Error):
    """An exchange or a queue exists with other arguments than ours."""


class NotFound(Error):
    """An exchange or a queue does not exist."""


class ResourceLocked(Error):
    """Another connection has a queue for itself alone."""


class DecodeError(Error, ValueError):
    """What came in cannot be read, or has the wrong shape."""


class EncodeError(Error, TypeError, ValueError):
    """An object cannot be sent. The text names its type and its place in the body."""


class InvalidArgument(Error, ValueError):
    """An argument cannot be used: an identifier, a URL, an option."""


class WrongHome(Error):
    """A call was awaited on another loop than the one that it began on."""


class HomeEnded(Error):
    """The loop or the thread that something belongs to has ended."""


class WouldDeadlock(Error):
    """Waiting here would block the only thread that could end the wait."""


class Full(Error):
    """A limit on what may be in flight is reached."""


class StorageError(Error, OSError):
    """A store cannot be read or written."""


class InternalError(Error):
    """A fault of homing itself."""


class Lagged(Error):
    """A receiver did not keep up with the broadcasts, and the oldest were lost.

    Attributes
    ----------
    missed : int
        How many were lost.
    """

    missed: int

    def __init__(self, missed: int) -> None:
        super().__init__(f"the receiver did not keep up and lost {missed} broadcasts")
        self.missed = missed

    def __reduce__(self) -> Any:
        # Of its argument: those of the exception are its text.
        return type(self), (self.missed,), self.__dict__


for _name in __all__:
    globals()[_name].__module__ = "homing"

_KINDS: dict[str, type[Error]] = {
    "RemoteException": RemoteException,
    "DeliveryFailed": DeliveryFailed,
    "Unroutable": UnroutableError,
    "TaskRejected": TaskRejected,
    "QueueEmpty": QueueEmpty,
    "DuplicateSubscriberIdentifier": DuplicateSubscriberIdentifier,
    "DuplicateTask": DuplicateTask,
    "CommunicatorClosed": CommunicatorClosed,
    "InvalidState": InvalidStateError,
    "TimedOut": TimeoutError,
    "Cancelled": Cancelled,
    "Abandoned": Abandoned,
    "Connection": ConnectionFailed,
    "ConnectionLost": ConnectionLost,
    "AccessRefused": AccessRefused,
    "PermissionDenied": PermissionDenied,
    "PreconditionFailed": PreconditionFailed,
    "NotFound": NotFound,
    "ResourceLocked": ResourceLocked,
    "Decode": DecodeError,
    "Encode": EncodeError,
    "InvalidArgument": InvalidArgument,
    "WrongHome": WrongHome,
    "HomeEnded": HomeEnded,
    "WouldDeadlock": WouldDeadlock,
    "Full": Full,
    "Storage": StorageError,
    "Internal": InternalError,
}


def from_native(kind: str, text: str, remote: str | None, details: tuple[str | None, list[str], Any] | None) -> Error:
    """The exception of an error of the native half."""
    error = _KINDS.get(kind, Error)(text)
    if isinstance(error, RemoteException):
        error.text = remote if remote is not None else text
        if details is not None:
            error.type_name, error.chain, error.data = details
    return error


def to_failure(error: BaseException) -> tuple[str, str, str]:
    """What an exception of a subscriber means for its message: a kind, a text, and the name of its type."""
    import asyncio
    import concurrent.futures

    cls = type(error)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    try:
        text = str(error)
    except Exception:
        text = ""
    # kiwipy's subscribers answer with the text alone, and one without a text says nothing.
    text = text or cls.__name__
    if isinstance(error, (asyncio.CancelledError, concurrent.futures.CancelledError, Cancelled)):
        return "cancelled", text, name
    if isinstance(error, TaskRejected) or _is_of_kiwipy(cls, "TaskRejected"):
        return "rejected", text, name
    if isinstance(error, TryAgain):
        return "try_again", text, name
    if isinstance(error, Unreadable):
        return "unreadable", text, name
    import logging

    logging.getLogger("homing").warning("a subscriber failed: %s: %s", name, text, exc_info=error)
    return "exception", text, name


def _is_of_kiwipy(cls: type, name: str) -> bool:
    return any(base.__name__ == name and base.__module__.startswith("kiwipy") for base in cls.__mro__)

"""The same words for threads: each call waits, for a stated time, and lets other threads run meanwhile.

::

    from homing import blocking

    with blocking.connect("memory:") as c:
        c.add_rpc_subscriber("double", lambda request: 2 * request.body)
        print(c.rpc_send("double", 21, timeout=5))

Subscribers run on one thread of the communicator's own, ``homing-subscribers``, one at a time. A subscriber that waits by this
module lets the others go on meanwhile.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from homing import _native
from homing._errors import CommunicatorClosed, Lagged, QueueEmpty
from homing._shared import (
    ConnectOptions,
    Connected,
    NoProtocol,
    Pattern,
    check_callable,
    check_core,
    check_text,
    closes_at_exit,
    instant,
    native_filter,
    native_options,
)

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from homing._values import CloseReport, Event

__all__ = ("Broadcasts", "Communicator", "Events", "TaskQueue", "connect")

#: How long, in seconds, a close waits for a subscriber that still runs.
_LAST_SUBSCRIBER = 10.0


def connect(url: str, **options: Unpack[ConnectOptions]) -> Communicator:
    """Connect to a broker. The options are those of :func:`homing.connect`.

    Returns
    -------
    Communicator
        To be closed, or entered with ``with``, which closes at the end.
    """
    return Communicator(_native.connect(url, native_options(dict(options))).wait())


class _Subscribers:
    """The thread that runs subscribers, from the first of them on."""

    def __init__(self, core: _native.Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._server: _native.Server | None = None
        self._place: _native.Place | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    def place(self) -> _native.Place:
        # Guards: a child of a fork, in which nobody opens a lock that another thread of the parent held.
        self.check()
        with self._lock:
            if self._ended:
                raise CommunicatorClosed("the communicator is closed; connect a new one")
            if self._place is not None:
                return self._place
            if self._server is None:
                server = _native.Server()
                # A daemon, for a program may end without a close; the end of the interpreter stops it and waits for it.
                thread = threading.Thread(target=server.run, name="homing-subscribers", daemon=True)
                thread.start()
                self._server, self._thread = server, thread
            server = self._server
        # Waits until the thread runs, and so without the lock.
        self._place = server.place()
        return self._place

    def check(self) -> None:
        """That this is not a child of a fork."""
        self._core.check()

    def is_here(self) -> bool:
        """True on the thread of the subscribers."""
        return self._thread is threading.current_thread()

    def end(self, seconds: float) -> None:
        if self._core.is_inherited:
            return
        with self._lock:
            self._ended = True
            server, thread = self._server, self._thread
        if server is not None and thread is not None:
            server.stop()
            if thread is not threading.current_thread():
                thread.join(seconds)


_ENTER = "homing.blocking.connect is for threads: enter it with `with`; in a program with a loop, use `async with homing.connect(…)`"


class Communicator(Connected):
    """One connection to a broker, for the threads of this process. Made by :func:`connect`.

    Each call waits and has a deadline; Ctrl-C ends the wait. See :class:`homing.Communicator` for what they do.
    """

    __aenter__ = NoProtocol(_ENTER)
    __aexit__ = NoProtocol(_ENTER)

    def __init__(self, core: _native.Core) -> None:
        check_core(core, "homing.blocking.connect")
        self._core = core
        self._closed = False
        self._subscribers = _Subscribers(core)
        closes_at_exit(self)

    def rpc_send(
        self, recipient: Any, body: Any = None, *, timeout: float | None = None, idempotent: bool = False
    ) -> Any:
        """Call a subscriber and wait for its answer."""
        return self._core.rpc(recipient, body, timeout, idempotent).wait()

    def add_rpc_subscriber(self, identifier: Any, subscriber: Callable[[_native.RpcRequest], Any]) -> str:
        """Add a subscriber to calls. It may return a future, which answers later, and must not be a coroutine function."""
        _check(subscriber)
        return str(self._core.add_rpc(self._subscribers.place(), identifier, subscriber, None).wait())

    def remove_rpc_subscriber(self, identifier: Any) -> None:
        """Remove a subscriber to calls."""
        self._core.remove_rpc(identifier).wait()

    def task_queue(self, name: str | None = None) -> TaskQueue:
        """A task queue by its name; without one, the communicator's own."""
        if name is not None:
            check_text("name", name)
        return TaskQueue(self._core, self._subscribers, name)

    def task_send(
        self,
        task: Any = None,
        *,
        no_reply: bool = False,
        timeout: float | None = None,
        delay: float | None = None,
        at: Any = None,
        priority: int | None = None,
        unique: str | None = None,
        unique_for: float = 600.0,
    ) -> Any:
        """Send a task to the default queue and wait for its outcome."""
        return self.task_queue().task_send(
            task,
            no_reply=no_reply,
            timeout=timeout,
            delay=delay,
            at=at,
            priority=priority,
            unique=unique,
            unique_for=unique_for,
        )

    def add_task_subscriber(
        self,
        subscriber: Callable[[_native.TaskRequest], Any],
        identifier: str | None = None,
        *,
        prefetch: int | None = None,
    ) -> str:
        """Add a subscriber to the default queue."""
        return self.task_queue().add_task_subscriber(subscriber, identifier, prefetch=prefetch)

    def remove_task_subscriber(self, identifier: str) -> None:
        """Remove a subscriber of the default queue."""
        self.task_queue().remove_task_subscriber(identifier)

    def broadcast_send(
        self, body: Any = None, *, sender: Any = None, subject: Any = None, correlation_id: Any = None
    ) -> None:
        """Send a broadcast to all subscribers. Returns when the broker has it."""
        self._core.broadcast(body, sender, subject, correlation_id).wait()

    def add_broadcast_subscriber(
        self,
        subscriber: Callable[[_native.Broadcast], Any],
        identifier: str | None = None,
        *,
        subject: Pattern | Iterable[Pattern] | None = None,
        sender: Any = None,
    ) -> str:
        """Add a subscriber to the broadcasts that pass."""
        _check(subscriber)
        made = native_filter(subject, sender)
        return str(self._core.add_broadcast(self._subscribers.place(), made, subscriber, None, identifier).wait())

    def remove_broadcast_subscriber(self, identifier: str) -> None:
        """Remove a subscriber to broadcasts."""
        self._core.remove_broadcast(identifier).wait()

    def broadcasts(self, *, subject: Pattern | Iterable[Pattern] | None = None, sender: Any = None) -> Broadcasts:
        """The broadcasts that pass from now on, for ``for``, until the communicator is closed."""
        return Broadcasts(self._core.broadcasts(native_filter(subject, sender)).wait())

    def events(self) -> Events:
        """What happens to the connection and to subscribers from now on, for ``for``, until the communicator is closed."""
        return Events(self._core.events())

    def close(self, *, drain: float | None = None) -> CloseReport:
        """Close. New work is refused, callers that still wait get :class:`homing.CommunicatorClosed`.

        It may be called in a subscriber; the thread of the subscribers then ends when that one returns.
        """
        self._closed = True
        report: CloseReport = self._core.close(drain).wait()
        self._subscribers.end(_LAST_SUBSCRIBER)
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._core.is_inherited:
            self.close()

    def _close_at_exit(self) -> None:
        self._closed = True
        if not self._core.is_closed:
            self._core.close_at_exit().wait()
        self._subscribers.end(1.0)

    def __del__(self) -> None:
        if not hasattr(self, "_subscribers"):
            return
        if not self._closed and not self._core.is_closed:
            # It closes when the core goes, which is next; nobody waits for that.
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=1)
        self._subscribers.end(0.0)

    def __repr__(self) -> str:
        return f"<homing.blocking.Communicator {self._core!r} {self._core.state}>"


def _check(subscriber: Any) -> None:
    check_callable(subscriber)
    import inspect

    if inspect.iscoroutinefunction(subscriber):
        raise TypeError(
            "subscriber is a coroutine function, and no event loop runs on the thread of the subscribers; "
            "use homing.connect in a program with a loop"
        )


class TaskQueue:
    """One task queue of a communicator."""

    def __init__(self, core: _native.Core, subscribers: _Subscribers, name: str | None) -> None:
        self._core = core
        self._subscribers = subscribers
        self._name = name

    def task_send(
        self,
        task: Any = None,
        *,
        no_reply: bool = False,
        timeout: float | None = None,
        delay: float | None = None,
        at: Any = None,
        priority: int | None = None,
        unique: str | None = None,
        unique_for: float = 600.0,
    ) -> Any:
        """Send a task and wait for its outcome; see :meth:`homing.TaskQueue.task_send`."""
        return self._core.task(self._name, task, no_reply, timeout, delay, instant(at), priority, unique, unique_for).wait()

    def add_task_subscriber(
        self,
        subscriber: Callable[[_native.TaskRequest], Any],
        identifier: str | None = None,
        *,
        prefetch: int | None = None,
    ) -> str:
        """Add a subscriber; see :meth:`homing.TaskQueue.add_task_subscriber`."""
        _check(subscriber)
        place = self._subscribers.place()
        return str(self._core.add_task(place, self._name, subscriber, None, identifier, prefetch).wait())

    def remove_task_subscriber(self, identifier: str) -> None:
        """Remove a subscriber."""
        self._core.remove_task(self._name, identifier).wait()

    def next_task(self, timeout: float | None = None) -> _native.IncomingTask:
        """Take a task out of the queue, and wait so many seconds for one.

        Raises
        ------
        homing.QueueEmpty
            There was none.
        """
        task: _native.IncomingTask = self._core.next_task(self._name, timeout).wait()
        return task

    def __iter__(self) -> Iterator[_native.IncomingTask]:
        """The tasks that are in the queue, until it is empty. Each goes back unless it is finished or fails."""
        while True:
            try:
                task = self.next_task()
            except QueueEmpty:
                return
            yield task

    def __repr__(self) -> str:
        return f"<homing.blocking.TaskQueue {self._name!r}>"


class Broadcasts:
    """Broadcasts one after the other. Made by :meth:`Communicator.broadcasts`."""

    def __init__(self, stream: _native.BroadcastStream) -> None:
        self._stream: _native.BroadcastStream | None = stream

    def close(self) -> None:
        """End the subscription, and the iterations that wait for the next one, on other threads too."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _native.Broadcast:
        stream = self._stream
        if stream is None:
            raise StopIteration
        try:
            broadcast: _native.Broadcast | Lagged = stream.next().wait()
        except StopAsyncIteration:
            raise StopIteration from None
        if isinstance(broadcast, Lagged):
            raise broadcast
        return broadcast


class Events:
    """Events one after the other, until the communicator is closed. Made by :meth:`Communicator.events`."""

    def __init__(self, stream: _native.EventStream) -> None:
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            event: Event = self._stream.next().wait()
        except StopAsyncIteration:
            raise StopIteration from None
        return event

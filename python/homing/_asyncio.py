"""The communicator of an asyncio program."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from homing import _native
from homing._errors import InvalidStateError, Lagged
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
    import asyncio

    from typing_extensions import Self, Unpack

    from homing._values import CloseReport, Event

__all__ = ("Broadcasts", "Communicator", "Events", "TaskQueue", "connect")


async def _run(call: _native.Call) -> Any:
    future = call.start()
    try:
        return await future
    except BaseException:
        # Cancelled, or closed as a coroutine: what it has asked for is free at once. After an outcome this does nothing.
        call.abort()
        raise


def _context() -> Any:
    import contextvars

    return contextvars.copy_context()


_ENTER = "homing.connect is for asyncio: enter it with `async with`; in a program without a loop, with homing.blocking.connect(…)"


class _Connecting:
    """A connection to be made: awaited, or entered with ``async with``."""

    __slots__ = ("_communicator", "_options", "_url")

    __enter__ = NoProtocol(_ENTER)
    __exit__ = NoProtocol(_ENTER)

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._url = url
        self._options = options
        self._communicator: Communicator | None = None

    async def _connect(self) -> Communicator:
        return Communicator(await _run(_native.connect(self._url, self._options)))

    def __await__(self) -> Generator[Any, None, Communicator]:
        return self._connect().__await__()

    async def __aenter__(self) -> Communicator:
        self._communicator = await self._connect()
        return self._communicator

    async def __aexit__(self, *exception: object) -> None:
        if self._communicator is not None:
            await self._communicator.__aexit__(None, None, None)

    # For type checkers there is no such thing.
    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name.startswith("_") or not hasattr(Communicator, name):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            raise AttributeError(
                f"there is no {name!r} before it is connected: await it, as in `c = await homing.connect(…)`, or enter it with "
                "`async with homing.connect(…) as c`; a program without a loop takes homing.blocking.connect(…)",
                name=name,
                obj=self,
            )


def connect(url: str, **options: Unpack[ConnectOptions]) -> _Connecting:
    """Connect to a broker.

    To be awaited, or entered with ``async with``, which closes at the end::

        async with homing.connect("amqp://127.0.0.1") as c:
            ...

    Parameters
    ----------
    url : str
        ``amqp://user:password@host/vhost``, ``amqps://…``, ``local:`` (a broker that one of the programs on this machine
        runs for all), ``memory:`` (inside this communicator) or ``memory:NAME`` (for all of this process). Several, with
        commas between them, are tried in turn.
    prefix : str
        AiiDA's names: the exchanges ``PREFIX.messages`` and ``PREFIX.tasks``, the queue ``PREFIX.process.queue``.
    message_exchange, task_exchange, task_queue : str
        Names, by default kiwipy's.
    task_prefetch : int
        How many tasks of one queue this communicator may hold at once. Default 256; 0 is no limit.
    task_priorities : int
        Declares task queues with so many priorities above 0. Default none.
    call_timeout, task_timeout : float
        How long a call or a task waits for its outcome, in seconds. Default 60 s and 7 days.
    connect_timeout, operation_timeout, close_timeout : float
        How long connecting, one request to the broker, and closing may take. Default 10, 30 and 10 s.
    heartbeat : float
        In seconds; 0 is none. Default the URL's, else the broker's.
    queue_expires, message_ttl, task_ttl : float
        How long queues live unused, and messages and tasks wait in them. Default 60 s, 66 s and 7 days.
    task_attempts : tuple of int and float
        How many attempts a task has whose subscriber raises ``TryAgain``, and the first pause between them. Default 5 and 1 s.
    in_flight : tuple of int and int
        How many messages, and of how many bytes, may wait for the broker's confirmation. Default 4096 and 256 MiB.
    connection_name : str
        In the broker's lists. Default ``homing <process id>``.
    reconnect : bool
        Whether a lost connection is made again. Default True.
    testing : bool
        kiwipy's testing mode: what is declared vanishes when unused.
    codec : str
        ``"yaml"``, as kiwipy, or ``"json"``.
    encoder, decoder : callable
        Instead of the codec: the one makes bytes of a body, the other a body of bytes. They get what kiwipy's get, which is the
        whole body: of a call its argument, of a task ``(task, no_reply)``, of a broadcast and of a reply a dict. They run on the
        loop that sends or receives. With an encoder bodies may be objects of any type.

    Raises
    ------
    InvalidArgument
        For a URL or an option that cannot be used.
    ConnectionFailed
        When no broker answers there; ``AccessRefused`` when it refuses the credentials.
    """
    return _Connecting(url, native_options(dict(options)))


class Communicator(Connected):
    """One connection to a broker, for the loops of this process. Made by :func:`connect`.

    Subscribers run on the loop that adds them; they may be functions or coroutine functions.
    """

    # In case that what it is made of is refused.
    _closed = True

    __enter__ = NoProtocol(_ENTER)
    __exit__ = NoProtocol(_ENTER)

    def __init__(self, core: _native.Core) -> None:
        check_core(core, "homing.connect")
        self._core = core
        self._closed = False
        closes_at_exit(self)

    # Calls

    async def rpc_send(
        self, recipient: Any, body: Any = None, *, timeout: float | None = None, idempotent: bool = False
    ) -> Any:
        """Call a subscriber and wait for its answer.

        Parameters
        ----------
        recipient : str or int or uuid.UUID
            The subscriber's identifier.
        body : object
            None, bool, int, float, str, bytes, date, datetime, UUID, and lists, tuples, sets and dicts of these.
        timeout : float, optional
            In seconds, and again after each sign that the answer will come later. Default the communicator's
            ``call_timeout``, 60 s. ``math.inf`` waits for ever.
        idempotent : bool
            The call may run twice without harm. It is sent again when a connection is lost before the broker has confirmed it.

        Raises
        ------
        RemoteException
            The subscriber raised an exception.
        UnroutableError
            There is no such subscriber.
        TimeoutError
            No answer came in time.
        ConnectionLost
            It is not known whether the call has arrived.
        EncodeError
            The body cannot be sent.
        """
        return await _run(self._core.rpc(recipient, body, timeout, idempotent))

    async def add_rpc_subscriber(self, identifier: Any, subscriber: Callable[[_native.RpcRequest], Any]) -> str:
        """Add a subscriber to calls.

        Parameters
        ----------
        identifier : str or int or uuid.UUID
            Under which it is called.
        subscriber : callable
            Gets an :class:`RpcRequest`. What it returns is the answer; so is what a coroutine function returns. A future,
            of this loop, of another or of ``concurrent.futures``, answers later; its caller learns that at once.

        Returns
        -------
        str
            The identifier.

        Raises
        ------
        DuplicateSubscriberIdentifier
            The identifier is taken on this communicator.
        """
        check_callable(subscriber)
        return str(await _run(self._core.add_rpc(_native.here(), identifier, subscriber, _context())))

    async def remove_rpc_subscriber(self, identifier: Any) -> None:
        """Remove a subscriber to calls. Calls that it works on go on to their end."""
        await _run(self._core.remove_rpc(identifier))

    # Tasks

    def task_queue(self, name: str | None = None) -> TaskQueue:
        """A task queue by its name; without one, the communicator's own."""
        if name is not None:
            check_text("name", name)
        return TaskQueue(self._core, name)

    async def task_send(
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
        """Send a task to the default queue and wait for its outcome; see :meth:`TaskQueue.task_send`."""
        return await self.task_queue().task_send(
            task,
            no_reply=no_reply,
            timeout=timeout,
            delay=delay,
            at=at,
            priority=priority,
            unique=unique,
            unique_for=unique_for,
        )

    async def add_task_subscriber(
        self,
        subscriber: Callable[[_native.TaskRequest], Any],
        identifier: str | None = None,
        *,
        prefetch: int | None = None,
    ) -> str:
        """Add a subscriber to the default queue; see :meth:`TaskQueue.add_task_subscriber`."""
        return await self.task_queue().add_task_subscriber(subscriber, identifier, prefetch=prefetch)

    async def remove_task_subscriber(self, identifier: str) -> None:
        """Remove a subscriber of the default queue. Tasks that it works on go on to their end."""
        await self.task_queue().remove_task_subscriber(identifier)

    # Broadcasts

    async def broadcast_send(
        self, body: Any = None, *, sender: Any = None, subject: Any = None, correlation_id: Any = None
    ) -> None:
        """Send a broadcast to all subscribers. Returns when the broker has it."""
        await _run(self._core.broadcast(body, sender, subject, correlation_id))

    async def add_broadcast_subscriber(
        self,
        subscriber: Callable[[_native.Broadcast], Any],
        identifier: str | None = None,
        *,
        subject: Pattern | Iterable[Pattern] | None = None,
        sender: Any = None,
    ) -> str:
        """Add a subscriber to broadcasts.

        Parameters
        ----------
        subscriber : callable
            Gets a :class:`Broadcast`. What it returns goes nowhere; an exception is logged.
        identifier : str, optional
            By default one that nobody else has.
        subject : str or re.Pattern, or several of them
            Only broadcasts whose subject one of them matches: in a string ``*`` stands for any characters.
        sender : object, or several of them
            The same for the sender. Anything but a string or a compiled expression has to be equal.

        Returns
        -------
        str
            The identifier, by which it is removed.
        """
        check_callable(subscriber)
        made = native_filter(subject, sender)
        return str(await _run(self._core.add_broadcast(_native.here(), made, subscriber, _context(), identifier)))

    async def remove_broadcast_subscriber(self, identifier: str) -> None:
        """Remove a subscriber to broadcasts."""
        await _run(self._core.remove_broadcast(identifier))

    def broadcasts(self, *, subject: Pattern | Iterable[Pattern] | None = None, sender: Any = None) -> Broadcasts:
        """The broadcasts that pass, one after the other::

            async with c.broadcasts(subject="state_changed.*") as changes:
                async for change in changes:
                    ...

        Those that come from the moment it is entered, or first asked for one. Who does not keep up loses the oldest, and gets
        :class:`Lagged` raised once for them; the next ones are there.
        """
        return Broadcasts(self._core, native_filter(subject, sender))

    # The connection

    def events(self) -> Events:
        """What happens to the connection and to subscribers from now on, for ``async for``."""
        return Events(self._core.events())

    async def close(self, *, drain: float | None = None) -> CloseReport:
        """Close. New work is refused, callers that still wait get :class:`CommunicatorClosed`.

        Parameters
        ----------
        drain : float, optional
            So many seconds may subscribers that run take to end; nothing new comes in meanwhile.

        Returns
        -------
        CloseReport
            What was ended. Each close returns the same.
        """
        self._closed = True
        report: CloseReport = await _run(self._core.close(drain))
        return report

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._core.is_inherited:
            await self.close()

    def _close_at_exit(self) -> None:
        if not self._core.is_closed:
            self._closed = True
            self._core.close_at_exit().wait()

    def __del__(self) -> None:
        if not self._closed and not self._core.is_closed:
            # It closes when the core goes, which is next; nobody waits for that.
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        return f"<homing.Communicator {self._core!r} {self._core.state}>"


class TaskQueue:
    """One task queue of a communicator."""

    def __init__(self, core: _native.Core, name: str | None) -> None:
        self._core = core
        self._name = name

    async def task_send(
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
        """Send a task and wait for its outcome.

        Parameters
        ----------
        task : object
            What the subscriber gets.
        no_reply : bool
            Return when the task is in its queue. Nobody learns its outcome.
        timeout : float, optional
            In seconds. Default the communicator's ``task_timeout``, 7 days; ``math.inf`` waits for ever.
        delay : float, optional
            Hold the task back for so many seconds, at the broker.
        at : datetime.datetime or float, optional
            Hold the task back until this time; a number counts seconds since 1970.
        priority : int, optional
            How urgent, from 0 up, in a queue that has priorities.
        unique : str, optional
            Send it only if no other task with this key was sent to the same queue within ``unique_for`` seconds, by any
            program. Best effort, not *exactly once*: a sender that dies in between keeps the key in use until its time is over.
        unique_for : float
            In seconds, at most 45 days. All senders of a key have to give the same. Default 10 minutes.

        Raises
        ------
        DuplicateTask
            A task with this key was sent before.
        RemoteException
            The subscriber raised an exception.
        TimeoutError
            No outcome came in time.
        """
        call = self._core.task(self._name, task, no_reply, timeout, delay, instant(at), priority, unique, unique_for)
        return await _run(call)

    async def add_task_subscriber(
        self,
        subscriber: Callable[[_native.TaskRequest], Any],
        identifier: str | None = None,
        *,
        prefetch: int | None = None,
    ) -> str:
        """Add a subscriber.

        Parameters
        ----------
        subscriber : callable
            Gets a :class:`TaskRequest`. What it returns is the outcome. :class:`TaskRejected` hands the task to the next
            subscriber, :class:`TryAgain` has it come again, :class:`Unreadable` puts it aside; any other exception is the
            outcome.
        identifier : str, optional
            By default one that nobody else has.
        prefetch : int, optional
            How many tasks it may hold at once. Default the communicator's.

        Returns
        -------
        str
            The identifier, by which it is removed.
        """
        check_callable(subscriber)
        call = self._core.add_task(
            _native.here(), self._name, subscriber, _context(), identifier, prefetch
        )
        return str(await _run(call))

    async def remove_task_subscriber(self, identifier: str) -> None:
        """Remove a subscriber. Tasks that it works on go on to their end."""
        await _run(self._core.remove_task(self._name, identifier))

    async def next_task(self, timeout: float | None = None) -> _native.IncomingTask:
        """Take a task out of the queue.

        Parameters
        ----------
        timeout : float, optional
            Wait so many seconds for one. Without it, one that is there is taken, or none.

        Raises
        ------
        QueueEmpty
            There was none.
        """
        task: _native.IncomingTask = await _run(self._core.next_task(self._name, timeout))
        return task

    async def __aiter__(self) -> AsyncIterator[_native.IncomingTask]:
        """The tasks of the queue as they come. Each goes back unless it is finished or fails."""
        while True:
            yield await self.next_task(float("inf"))

    def __repr__(self) -> str:
        return f"<homing.TaskQueue {self._name!r}>"


class Broadcasts:
    """Broadcasts one after the other. Made by :meth:`Communicator.broadcasts`."""

    def __init__(self, core: _native.Core, passes: _native.Filter) -> None:
        self._core: _native.Core | None = core
        self._filter = passes
        self._stream: _native.BroadcastStream | None = None
        self._opening: asyncio.Lock | None = None

    async def _open(self) -> _native.BroadcastStream:
        if self._stream is not None:
            return self._stream
        import asyncio

        if self._opening is None:
            self._opening = asyncio.Lock()
        # Guards: two that ask for the first broadcast at the same time, each of which would subscribe.
        async with self._opening:
            stream: _native.BroadcastStream | None = self._stream
            if stream is None:
                if self._core is None:
                    raise StopAsyncIteration
                opened: _native.BroadcastStream = await _run(self._core.broadcasts(self._filter))
                stream = self._stream = opened
                if self._core is None:
                    stream.close()
            return stream

    async def aclose(self) -> None:
        """End the subscription, and the iterations that wait for the next one."""
        self._core = None
        if self._stream is not None:
            self._stream.close()

    async def __aenter__(self) -> Self:
        if self._core is None:
            raise InvalidStateError("this stream of broadcasts was closed; make another one")
        await self._open()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _native.Broadcast:
        stream = await self._open()
        broadcast: _native.Broadcast | Lagged = await _run(stream.next())
        if isinstance(broadcast, Lagged):
            raise broadcast
        return broadcast


class Events:
    """Events one after the other, until the communicator is closed. Made by :meth:`Communicator.events`."""

    def __init__(self, stream: _native.EventStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event: Event = await _run(self._stream.next())
        return event


for _class in (Communicator, TaskQueue, Broadcasts, Events, connect):
    _class.__module__ = "homing"

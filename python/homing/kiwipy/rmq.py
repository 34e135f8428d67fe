"""The communicator for threads, by kiwipy's names."""

from __future__ import annotations

import contextlib
import inspect
import math
import threading
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import homing
from homing import _native
from homing._shared import Uncopied, check_callable, check_text, closes_at_exit, native_filter
from homing.blocking import _Subscribers
from homing.kiwipy._base import (
    BroadcastFilter,
    Communicator,
    CommunicatorClosed,
    Future,
    QueueEmpty,
    translated,
    translating,
)
from homing.kiwipy._common import (
    MESSAGE_EXCHANGE,
    TASK_EXCHANGE,
    TASK_FETCH_TIMEOUT,
    TASK_QUEUE,
    TakenTask,
    called_back,
    core,
    named,
    put_back,
    referred,
    url_of,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from homing.kiwipy._loop import RmqCommunicator, RmqIncomingTask, RmqTaskQueue, async_connect

__all__ = (
    "RmqCommunicator",
    "RmqIncomingTask",
    "RmqTaskQueue",
    "RmqThreadCommunicator",
    "RmqThreadIncomingTask",
    "RmqThreadTaskQueue",
    "async_connect",
    "connect",
)


def __getattr__(name: str) -> Any:
    # Those of loops are imported when they are needed: programs of threads need no asyncio.
    if name in ("RmqCommunicator", "RmqIncomingTask", "RmqTaskQueue", "async_connect"):
        from homing.kiwipy import _loop

        return getattr(_loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Reply(Future):  # type: ignore[type-arg]
    """A future of a reply. A subscriber may wait for it: the thread of the subscribers goes on meanwhile."""

    def __init__(self, subscribers: _Subscribers) -> None:
        super().__init__()
        self._subscribers = subscribers

    def _wait_here(self, timeout: float | None) -> float | None:
        # Guards: a child of a fork, in which nobody completes it. What is there can be read.
        if self._state != "FINISHED":
            self._subscribers.check()
        if self.done() or not self._subscribers.is_here():
            return timeout
        _native.wait_future(self, math.inf if timeout is None else max(0.0, timeout))
        return 0.0

    def result(self, timeout: float | None = None) -> Any:
        return super().result(self._wait_here(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return super().exception(self._wait_here(timeout))


class _Coroutines:
    """The loop that runs subscribers that are coroutine functions, on a thread of its own, from the first of them on."""

    def __init__(self, core: _native.Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self.loop: Any = None
        self._place: _native.Place | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    def place(self) -> _native.Place:
        # Guards: a child of a fork, which has neither the thread nor who opens the lock.
        self._core.check()
        with self._lock:
            if self._ended:
                raise CommunicatorClosed("the communicator is closed")
            if self._place is None:
                import asyncio

                self.loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, name="homing-coroutines", daemon=True)
                self._thread.start()

                async def here() -> _native.Place:
                    return _native.here()

                self._place = asyncio.run_coroutine_threadsafe(here(), self.loop).result()
            return self._place

    def _run(self) -> None:
        import asyncio

        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=1.0))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def end(self, seconds: float) -> None:
        if self._core.is_inherited:
            return
        with self._lock:
            self._ended = True
            loop, thread = self.loop, self._thread
        if loop is not None and thread is not None:
            # Guards: a loop that somebody has closed, or that a `SystemExit` of a subscriber has ended.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join(seconds)


def is_coroutine_function(subscriber: Any) -> bool:
    """True for what returns a coroutine when it is called: a coroutine function, one with some arguments bound, an object whose
    ``__call__`` is one, or a filter around one."""
    if isinstance(subscriber, BroadcastFilter):
        return is_coroutine_function(subscriber._subscriber)
    if inspect.iscoroutinefunction(subscriber):
        return True
    return not inspect.isclass(subscriber) and inspect.iscoroutinefunction(getattr(subscriber, "__call__", None))


class _Stages:
    """Gives the stages of a reply to a future. A sign that the answer will come is a future that it resolves to."""

    __slots__ = ("_future",)

    def __init__(self, future: _Reply) -> None:
        self._future = future

    def __call__(self, stage: str, value: Any) -> None:
        future = self._future
        if stage == "pending":
            self._future = _Reply(future._subscribers)
            if not future.done():
                future.set_result(self._future)
        elif not future.done():
            if stage == "result":
                future.set_result(value)
            elif isinstance(value, homing.Cancelled):
                future.cancel()
                future.set_running_or_notify_cancel()
            else:
                future.set_exception(translated(value))


class RmqThreadCommunicator(Uncopied, Communicator):
    """A communicator whose calls return futures of ``concurrent.futures``.

    Subscribers run on one thread of its own; those that are coroutine functions run on a loop of its own. Sending returns when the broker has the message, and raises
    :class:`~homing.kiwipy.UnroutableError` when there is no subscriber of that name.

    Parameters
    ----------
    connection_params : str or dict
        A URL, or ``{"url": …}``, or a dict of ``host``, ``port``, ``login``, ``password``, ``virtualhost``, ``ssl``.
    message_exchange, task_exchange, task_queue : str
        Names.
    queue_expires : int
        How long queues live unused, in milliseconds.
    task_prefetch_count : int
        How many tasks of one queue it may hold at once; 0 is no limit.
    testing_mode : bool
        What is declared vanishes when unused.
    connection_factory, task_prefetch_size, async_task_timeout
        Without effect.
    encoder, decoder : callable
        The one makes bytes of a body, the other a body of bytes; they get the whole body, as kiwipy's do. Default: bodies are
        written and read as kiwipy's own do, in Rust. They run on the thread that sends or takes a task, and on that of the
        subscribers for what comes in.
    """

    @classmethod
    def connect(cls, connection_params: Any = None, connection_factory: Any = None, **options: Any) -> Self:
        """Connect. The options are those of the class."""
        return cls(connection_params, connection_factory, **options)

    def __init__(
        self,
        connection_params: Any = None,
        connection_factory: Any = None,
        message_exchange: str = MESSAGE_EXCHANGE,
        queue_expires: int = 60_000,
        task_exchange: str = TASK_EXCHANGE,
        task_queue: str = TASK_QUEUE,
        task_prefetch_size: int = 0,
        task_prefetch_count: int = 0,
        encoder: Any = None,
        decoder: Any = None,
        testing_mode: bool = False,
        async_task_timeout: float | None = None,
    ) -> None:
        connecting = core(
            url_of(connection_params),
            message_exchange=message_exchange,
            task_exchange=task_exchange,
            task_queue=task_queue,
            task_prefetch_count=task_prefetch_count,
            queue_expires=queue_expires,
            testing_mode=testing_mode,
            encoder=encoder,
            decoder=decoder,
        )
        with translating():
            self._core: _native.Core = connecting.wait()
        self._closed = False
        self._subscribers = _Subscribers(self._core)
        self._coroutines = _Coroutines(self._core)
        self._close_callbacks: list[Callable[[], Callable[..., Any] | None]] = []
        closes_at_exit(self)

    def _ensure_open(self) -> None:
        if self._closed:
            raise CommunicatorClosed("the communicator is closed")

    def _place(self, subscriber: Any) -> _native.Place:
        """Where a subscriber runs: a coroutine function on a loop, everything else on the thread of the subscribers."""
        with translating():
            if is_coroutine_function(subscriber):
                return self._coroutines.place()
            return self._subscribers.place()

    # Its end

    def is_closed(self) -> bool:
        return self._closed

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if not self._core.is_inherited:
            self.close()

    def close(self) -> None:
        if self._closed:
            return
        with translating():
            self._core.check()
        self._closed = True
        with translating():
            self._core.close(None).wait()
        called_back(self, self._close_callbacks)
        self._end(10.0)

    def _end(self, seconds: float) -> None:
        self._coroutines.end(seconds)
        self._subscribers.end(seconds)

    def add_close_callback(self, callback: Callable[..., Any], weak: bool = False) -> None:
        """Have ``callback(sender, exception)`` called when it has closed, before :meth:`close` returns."""
        self._ensure_open()
        check_callable(callback, "callback")
        self._close_callbacks.append(referred(callback, weak))

    def _close_at_exit(self) -> None:
        self._closed = True
        if not self._core.is_closed:
            self._core.close_at_exit().wait()
        self._end(1.0)

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        if not self._core.is_closed:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=1)
        self._end(0.0)

    def loop(self) -> Any:
        """The loop that runs subscribers that are coroutine functions."""
        self._ensure_open()
        self._coroutines.place()
        return self._coroutines.loop

    @property
    def _loop(self) -> Any:
        # plumpy's tests turn its debug mode on by this name.
        return self.loop()

    @property
    def server_properties(self) -> dict[str, str]:
        """The broker's properties: ``product``, ``version`` and so on."""
        return self._core.server_properties

    @property
    def connected(self) -> bool:
        """True while there is a connection."""
        return self._core.state in ("connected", "blocked")

    def __repr__(self) -> str:
        return f"<homing.kiwipy.RmqThreadCommunicator {self._core!r} {self._core.state}>"

    # Calls

    def rpc_send(self, recipient_id: Any, msg: Any) -> Any:
        self._ensure_open()
        future = _Reply(self._subscribers)
        with translating():
            _native.deliver_rpc(self._core, self._subscribers.place(), named(recipient_id), msg, _Stages(future)).wait()
        return future

    def add_rpc_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        self._ensure_open()
        check_callable(subscriber)
        identifier = identifier or uuid.uuid4().hex
        with translating():
            self._core.add_rpc(
                self._place(subscriber), named(identifier), lambda request: subscriber(self, request.body), None
            ).wait()
        return identifier

    def remove_rpc_subscriber(self, identifier: Any) -> None:
        self._ensure_open()
        with translating():
            self._core.remove_rpc(named(identifier)).wait()

    # Tasks

    def task_send(self, task: Any, no_reply: bool = False) -> Any:
        self._ensure_open()
        return self._task_send(None, task, no_reply)

    def _task_send(self, queue: str | None, task: Any, no_reply: bool) -> Any:
        with translating():
            if no_reply:
                self._core.task(queue, task, True, None, None, None, None, None, 0.0).wait()
                return None
            future = _Reply(self._subscribers)
            _native.deliver_task(self._core, self._subscribers.place(), queue, task, _Stages(future)).wait()
        return future

    def add_task_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        self._ensure_open()
        return self._add_task_subscriber(None, subscriber, identifier)

    def _add_task_subscriber(self, queue: str | None, subscriber: Callable[..., Any], identifier: Any) -> Any:
        check_callable(subscriber)
        identifier = identifier or uuid.uuid4().hex
        with translating():
            self._core.add_task(
                self._place(subscriber), queue, lambda task: subscriber(self, task.body), None, named(identifier), None
            ).wait()
        return identifier

    def remove_task_subscriber(self, identifier: Any) -> None:
        self._ensure_open()
        with translating():
            self._core.remove_task(None, named(identifier)).wait()

    def task_queue(self, queue_name: str, prefetch_size: int = 0, prefetch_count: int = 0) -> RmqThreadTaskQueue:
        """A task queue by its name."""
        check_text("queue_name", queue_name)
        self._ensure_open()
        return RmqThreadTaskQueue(self, queue_name)

    # Broadcasts

    def broadcast_send(self, body: Any, sender: Any = None, subject: Any = None, correlation_id: Any = None) -> bool:
        self._ensure_open()
        with translating():
            self._core.broadcast(body, sender, subject, correlation_id).wait()
        return True

    def add_broadcast_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        self._ensure_open()
        check_callable(subscriber)
        identifier = identifier or uuid.uuid4().hex

        def called(broadcast: _native.Broadcast) -> Any:
            returned = subscriber(self, broadcast.body, broadcast.sender, broadcast.subject, broadcast.correlation_id)
            # Of a function it goes nowhere, as in kiwipy.
            return returned if inspect.iscoroutine(returned) else None

        with translating():
            self._core.add_broadcast(
                self._place(subscriber), native_filter(None, None), called, None, named(identifier)
            ).wait()
        return identifier

    def remove_broadcast_subscriber(self, identifier: Any) -> None:
        self._ensure_open()
        with translating():
            self._core.remove_broadcast(named(identifier)).wait()


class RmqThreadIncomingTask(TakenTask):
    """A task that was taken from its queue."""

    @staticmethod
    def _is_future(result: Any) -> bool:
        return isinstance(result, Future)

    def process(self) -> Any:
        """A future for the outcome: when it ends, the task does. One that goes without an outcome puts the task back."""
        self._begin()
        outcome = Future()  # type: Any
        weakref.finalize(outcome, put_back, self._task)
        # The callback must not hold the future, whose end puts the task back.
        outcome.add_done_callback(self._end)
        return outcome

    def requeue(self) -> None:
        """Put the task back into its queue."""
        self._requeue()

    @contextlib.contextmanager
    def processing(self) -> Iterator[Any]:
        """The future for the outcome. It gets the exception that leaves the block; without an outcome the task goes back."""
        outcome = self.process()
        try:
            yield outcome
        except Exception as error:
            if not outcome.done():
                outcome.set_exception(error)
            raise
        finally:
            if not outcome.done():
                self.requeue()


class RmqThreadTaskQueue:
    """A task queue of a communicator."""

    def __init__(self, communicator: RmqThreadCommunicator, name: str) -> None:
        self._communicator = communicator
        self._name = name

    def __iter__(self) -> Iterator[RmqThreadIncomingTask]:
        """All tasks that are in the queue. Those that are not worked on go back at the end."""
        held: list[RmqThreadIncomingTask] = []
        try:
            while True:
                try:
                    task = self._take(None)
                except QueueEmpty:
                    return
                held.append(task)
                yield task
        finally:
            for task in held:
                if task.state == "pending":
                    task.requeue()

    def _take(self, timeout: float | None) -> RmqThreadIncomingTask:
        self._communicator._ensure_open()
        with translating():
            return RmqThreadIncomingTask(self._communicator._core.next_task(self._name, timeout).wait())

    def task_send(self, task: Any, no_reply: bool = False) -> Any:
        """Send a task to this queue."""
        self._communicator._ensure_open()
        return self._communicator._task_send(self._name, task, no_reply)

    def add_task_subscriber(self, subscriber: Callable[..., Any]) -> Any:
        """Add a subscriber. Returns its identifier."""
        self._communicator._ensure_open()
        return self._communicator._add_task_subscriber(self._name, subscriber, None)

    def remove_task_subscriber(self, identifier: Any) -> None:
        """Remove a subscriber by its identifier."""
        self._communicator._ensure_open()
        with translating():
            self._communicator._core.remove_task(self._name, named(identifier)).wait()

    @contextlib.contextmanager
    def next_task(self, timeout: float | None = TASK_FETCH_TIMEOUT, fail: bool = True) -> Iterator[Any]:
        """Take a task out, and wait so many seconds for one; None waits for ever.

        One that is not worked on in the block goes back. Without a task it raises
        :class:`~homing.kiwipy.QueueEmpty`, or yields None with ``fail=False``.
        """
        try:
            task = self._take(math.inf if timeout is None else timeout)
        except QueueEmpty:
            if fail:
                raise
            yield None
            return
        try:
            yield task
        finally:
            if task.state == "pending":
                task.requeue()


def connect(connection_params: Any = None, connection_factory: Any = None, **options: Any) -> RmqThreadCommunicator:
    """Connect; see :class:`RmqThreadCommunicator`."""
    return RmqThreadCommunicator(connection_params, connection_factory, **options)


for _class in (RmqThreadCommunicator, RmqThreadIncomingTask, RmqThreadTaskQueue):
    _class.__module__ = "homing.kiwipy.rmq"

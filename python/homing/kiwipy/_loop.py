"""The communicator for asyncio, by kiwipy's names: what it awaits are futures of the loop that awaits them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import uuid
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import homing
from homing import _native
from homing._asyncio import _run
from homing._shared import Uncopied, check_callable, check_text, closes_at_exit, native_filter
from homing.kiwipy._base import QueueEmpty, translated, translating
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

__all__ = ("RmqCommunicator", "RmqIncomingTask", "RmqTaskQueue", "async_connect")


class _Stages:
    """Gives the stages of a reply to a future of this loop. A sign that the answer will come is a future that it resolves to."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future

    def __call__(self, stage: str, value: Any) -> None:
        future = self._future
        if stage == "pending":
            self._future = future.get_loop().create_future()
            if not future.done():
                future.set_result(self._future)
        elif not future.done():
            if stage == "result":
                future.set_result(value)
            elif isinstance(value, homing.Cancelled):
                future.cancel()
            else:
                future.set_exception(translated(value))


async def _sent(send: Callable[[_native.Place, Any], _native.Call]) -> asyncio.Future[Any]:
    future = asyncio.get_running_loop().create_future()
    with translating():
        await _run(send(_native.here(), _Stages(future)))
    return future


class RmqCommunicator(Uncopied):
    """A communicator whose calls are awaited; what they return are futures of the loop, as in kiwipy.

    Subscribers run on the loop that adds them, and may be coroutine functions.

    Parameters
    ----------
    connection : object
        Its ``url`` is where the broker is; a connection of ``aio_pika`` has one, and stays unused. A URL or a dict of
        parameters will do.
    message_exchange, task_exchange, task_queue, queue_expires, task_prefetch_count, encoder, decoder, testing_mode
        As those of :class:`RmqThreadCommunicator`.
    """

    def __init__(
        self,
        connection: Any,
        message_exchange: str = MESSAGE_EXCHANGE,
        queue_expires: int = 60_000,
        task_exchange: str = TASK_EXCHANGE,
        task_queue: str = TASK_QUEUE,
        task_prefetch_size: int = 0,
        task_prefetch_count: int = 0,
        encoder: Any = None,
        decoder: Any = None,
        testing_mode: bool = False,
    ) -> None:
        self._url = url_of(connection, "connection")
        self._options = {
            "message_exchange": message_exchange,
            "task_exchange": task_exchange,
            "task_queue": task_queue,
            "task_prefetch_count": task_prefetch_count,
            "queue_expires": queue_expires,
            "testing_mode": testing_mode,
            "encoder": encoder,
            "decoder": decoder,
        }
        # What is wrong with one is said here, where it was given.
        core(self._url, **self._options)
        self._open: _native.Core | None = None
        self._close_callbacks: list[Callable[[], Callable[..., Any] | None]] = []

    async def connect(self) -> None:
        """Connect, unless it is connected."""
        if not self.connected():
            with translating():
                self._open = await _run(core(self._url, **self._options))
            closes_at_exit(self)

    async def disconnect(self) -> None:
        """Disconnect, unless it is disconnected."""
        if self._open is None:
            return
        with translating():
            self._open.check()
        closing, self._open = self._open, None
        with translating():
            await _run(closing.close(None))
        called_back(self, self._close_callbacks)

    def connected(self) -> bool:
        """True from :meth:`connect` to :meth:`disconnect`."""
        return self._open is not None and not self._open.is_closed

    def _close_at_exit(self) -> None:
        if self._open is not None and not self._open.is_closed:
            self._open.close_at_exit().wait()

    @property
    def _core(self) -> _native.Core:
        if self._open is None:
            raise RuntimeError("The communicator is not connected; call connect(), or use it in a context.")
        with translating():
            self._open.check()
        return self._open

    async def __aenter__(self) -> RmqCommunicator:
        await self.connect()
        return self

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self._open is None or not self._open.is_inherited:
            await self.disconnect()

    def __repr__(self) -> str:
        return f"<homing.kiwipy.RmqCommunicator {self._open!r}>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""
        return asyncio.get_running_loop()

    @property
    def server_properties(self) -> dict[str, str]:
        """The broker's properties: ``product``, ``version`` and so on."""
        return {} if self._open is None else self._open.server_properties

    def add_close_callback(self, callback: Callable[..., Any], weak: bool = False) -> None:
        """Have ``callback(sender, exception)`` called when it has disconnected."""
        check_callable(callback, "callback")
        self._close_callbacks.append(referred(callback, weak))

    # Calls

    async def rpc_send(self, recipient_id: Any, msg: Any) -> asyncio.Future[Any]:
        """Call a subscriber. A future of its answer, once the broker has the call."""
        core = self._core
        return await _sent(lambda place, stages: _native.deliver_rpc(core, place, named(recipient_id), msg, stages))

    async def add_rpc_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        """Add a subscriber to calls, ``subscriber(communicator, message)``. Returns its identifier."""
        core, identifier = self._core, identifier or uuid.uuid4().hex
        check_callable(subscriber)
        called = lambda request: subscriber(self, request.body)  # noqa: E731
        with translating():
            await _run(core.add_rpc(_native.here(), named(identifier), called, contextvars.copy_context()))
        return identifier

    async def remove_rpc_subscriber(self, identifier: Any) -> None:
        """Remove a subscriber to calls. ``ValueError`` when there is none of that name."""
        with translating():
            await _run(self._core.remove_rpc(named(identifier)))

    # Tasks

    async def get_default_task_queue(self) -> RmqTaskQueue:
        """The queue that :meth:`task_send` sends to."""
        return RmqTaskQueue._of(self, None)

    async def task_queue(self, queue_name: str, prefetch_size: int = 0, prefetch_count: int = 0) -> RmqTaskQueue:
        """A task queue by its name."""
        check_text("queue_name", queue_name)
        return RmqTaskQueue._of(self, queue_name)

    async def task_send(self, task: Any, no_reply: bool = False) -> asyncio.Future[Any] | None:
        """Send a task. A future of its outcome, or None with ``no_reply``."""
        return await (await self.get_default_task_queue()).task_send(task, no_reply)

    async def add_task_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        """Add a subscriber to the default queue, ``subscriber(communicator, task)``. Returns its identifier."""
        return await (await self.get_default_task_queue()).add_task_subscriber(subscriber, identifier)

    async def remove_task_subscriber(self, identifier: Any) -> None:
        """Remove a subscriber to the default queue. ``ValueError`` when there is none of that name."""
        await (await self.get_default_task_queue()).remove_task_subscriber(identifier)

    # Broadcasts

    async def broadcast_send(
        self, body: Any, sender: Any = None, subject: Any = None, correlation_id: Any = None
    ) -> bool:
        """Send a broadcast."""
        with translating():
            await _run(self._core.broadcast(body, sender, subject, correlation_id))
        return True

    async def add_broadcast_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        """Add a subscriber, ``subscriber(communicator, body, sender, subject, correlation_id)``. Returns its identifier."""
        core, identifier = self._core, identifier or uuid.uuid4().hex
        check_callable(subscriber)

        def called(broadcast: _native.Broadcast) -> Any:
            returned = subscriber(self, broadcast.body, broadcast.sender, broadcast.subject, broadcast.correlation_id)
            return returned if asyncio.iscoroutine(returned) else None

        context = contextvars.copy_context()
        with translating():
            await _run(
                core.add_broadcast(_native.here(), native_filter(None, None), called, context, named(identifier))
            )
        return identifier

    async def remove_broadcast_subscriber(self, identifier: Any) -> None:
        """Remove a subscriber to broadcasts. ``ValueError`` when there is none of that name."""
        with translating():
            await _run(self._core.remove_broadcast(named(identifier)))


class RmqIncomingTask(TakenTask):
    """A task that was taken from its queue."""

    @staticmethod
    def _is_future(result: Any) -> bool:
        return asyncio.isfuture(result)

    def process(self) -> asyncio.Future[Any]:
        """A future for the outcome: when it ends, the task does. One that goes without an outcome puts the task back."""
        outcome = self._future()
        weakref.finalize(outcome, put_back, self._task)
        # The callback must not hold the future, whose end puts the task back.
        outcome.add_done_callback(self._end)
        return outcome

    def _future(self) -> asyncio.Future[Any]:
        self._begin()
        return asyncio.get_running_loop().create_future()

    async def requeue(self) -> None:
        """Put the task back into its queue."""
        self._requeue()

    @contextlib.asynccontextmanager
    async def processing(self) -> AsyncIterator[asyncio.Future[Any]]:
        """The future for the outcome. It gets the exception that leaves the block; without an outcome the task goes back."""
        outcome = self._future()
        try:
            yield outcome
        except Exception as error:
            if not outcome.done():
                outcome.set_exception(error)
            raise
        finally:
            if outcome.done():
                self._end(outcome)
            elif self._state == "processing":
                self._requeue()


class RmqTaskQueue:
    """A task queue: of a communicator, or of its own connection with :meth:`connect` and :meth:`disconnect`."""

    def __init__(
        self,
        connection: Any,
        exchange_name: str = MESSAGE_EXCHANGE,
        queue_name: str = TASK_QUEUE,
        decoder: Any = None,
        encoder: Any = None,
        exchange_params: Any = None,
        prefetch_size: int = 0,
        prefetch_count: int = 0,
        testing_mode: bool = False,
    ) -> None:
        check_text("exchange_name", exchange_name)
        check_text("queue_name", queue_name)
        self._communicator = RmqCommunicator(
            connection,
            task_exchange=exchange_name,
            task_queue=queue_name,
            task_prefetch_count=prefetch_count,
            encoder=encoder,
            decoder=decoder,
            testing_mode=testing_mode,
        )
        self._name: str | None = None

    @classmethod
    def _of(cls, communicator: RmqCommunicator, name: str | None) -> RmqTaskQueue:
        queue = cls.__new__(cls)
        queue._communicator, queue._name = communicator, name
        return queue

    async def connect(self) -> None:
        """Connect, unless it is connected."""
        await self._communicator.connect()

    async def disconnect(self) -> None:
        """Disconnect, unless it is disconnected."""
        await self._communicator.disconnect()

    async def __aiter__(self) -> AsyncIterator[RmqIncomingTask]:
        """All tasks that are in the queue. Those that are not worked on go back at the end."""
        held: list[RmqIncomingTask] = []
        try:
            while True:
                try:
                    task = await self._take(None)
                except QueueEmpty:
                    return
                held.append(task)
                yield task
        finally:
            for task in held:
                if task.state == "pending":
                    await task.requeue()

    async def _take(self, timeout: float | None) -> RmqIncomingTask:
        with translating():
            return RmqIncomingTask(await _run(self._communicator._core.next_task(self._name, timeout)))

    async def task_send(self, task: Any, no_reply: bool = False) -> asyncio.Future[Any] | None:
        """Send a task to this queue."""
        core, name = self._communicator._core, self._name
        if no_reply:
            with translating():
                await _run(core.task(name, task, True, None, None, None, None, None, 0.0))
            return None
        return await _sent(lambda place, stages: _native.deliver_task(core, place, name, task, stages))

    async def add_task_subscriber(self, subscriber: Callable[..., Any], identifier: Any = None) -> Any:
        """Add a subscriber. Returns its identifier."""
        communicator, identifier = self._communicator, identifier or uuid.uuid4().hex
        check_callable(subscriber)
        called = lambda task: subscriber(communicator, task.body)  # noqa: E731
        place, context = _native.here(), contextvars.copy_context()
        with translating():
            await _run(communicator._core.add_task(place, self._name, called, context, named(identifier), None))
        return identifier

    async def remove_task_subscriber(self, identifier: Any) -> None:
        """Remove a subscriber by its identifier."""
        with translating():
            await _run(self._communicator._core.remove_task(self._name, named(identifier)))

    @contextlib.asynccontextmanager
    async def next_task(
        self, no_ack: bool = False, fail: bool = True, timeout: float | None = TASK_FETCH_TIMEOUT
    ) -> AsyncIterator[RmqIncomingTask | None]:
        """Take a task out, and wait so many seconds for one; None waits for ever.

        One that is not worked on in the block goes back. Without a task it raises
        :class:`~homing.kiwipy.QueueEmpty`, or yields None with ``fail=False``.
        """
        try:
            task = await self._take(math.inf if timeout is None else timeout)
        except QueueEmpty:
            if fail:
                raise
            yield None
            return
        try:
            yield task
        finally:
            if task.state == "pending":
                await task.requeue()


async def async_connect(
    connection_params: Any = None, connection_factory: Any = None, **options: Any
) -> RmqCommunicator:
    """Connect; see :class:`RmqCommunicator`."""
    communicator = RmqCommunicator(url_of(connection_params), **options)
    await communicator.connect()
    return communicator


for _class in (RmqCommunicator, RmqIncomingTask, RmqTaskQueue):
    _class.__module__ = "homing.kiwipy.rmq"

"""A use of each public function and class, as typed programs write them.

``tests/tools/python-types`` has mypy and pyright read it, and ``test_types.py`` runs it and demands that nothing public is missing.
"""

from __future__ import annotations

import asyncio
import datetime
import re
import uuid
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import homing
from homing import blocking, kiwipy
from homing.kiwipy import rmq

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value, kind):
        return value


def encoder(body: Any) -> bytes:
    return repr(body).encode()


def decoder(text: bytes) -> Any:
    import ast

    return ast.literal_eval(text.decode())


def double(request: homing.RpcRequest) -> int:
    assert_type(request.correlation_id, "str | None")
    assert_type(request.is_caller_gone, bool)
    return int(request.body) * 2


async def later(request: homing.RpcRequest) -> str:
    await asyncio.sleep(0)
    return str(request.body)


def work(task: homing.TaskRequest) -> Any:
    assert_type(task.no_reply, bool)
    assert_type(task.is_redelivered, bool)
    assert_type(task.is_ownership_lost, bool)
    assert_type(task.attempt, int)
    assert_type(task.message_id, "str | None")
    assert_type(task.correlation_id, "str | None")
    return task.body


def heard(broadcast: homing.Broadcast) -> None:
    assert_type(broadcast.body, Any)
    assert_type(broadcast.sender, Any)
    assert_type(broadcast.subject, Any)
    assert_type(broadcast.correlation_id, Any)


async def of_loops(url: str) -> None:
    """``homing``."""
    async with homing.connect(
        url,
        prefix="typed",
        task_prefetch=8,
        call_timeout=30.0,
        task_timeout=30,
        connect_timeout=5.0,
        heartbeat=10.0,
        task_attempts=(3, 0.5),
        in_flight=(100, 1 << 20),
        connection_name="typed",
        reconnect=True,
        testing=False,
        codec="yaml",
    ) as c:
        assert_type(c, homing.Communicator)
        assert_type(c.state, str)
        assert_type(c.is_closed, bool)
        assert_type(c.server_properties, "dict[str, str]")
        events = assert_type(c.events(), homing.Events)

        name = assert_type(await c.add_rpc_subscriber("double", double), str)
        await c.add_rpc_subscriber(uuid.uuid4(), later)
        assert_type(await c.rpc_send(name, 21, timeout=5, idempotent=True), Any)
        await c.remove_rpc_subscriber(name)

        worker = assert_type(await c.add_task_subscriber(work, prefetch=2), str)
        assert_type(await c.task_send([1, 2], timeout=5.0), Any)
        await c.task_send("x", no_reply=True, delay=0.0)
        await c.task_send("x", no_reply=True, unique="key", unique_for=60.0)
        await c.remove_task_subscriber(worker)

        queue = assert_type(c.task_queue("typed.more"), homing.TaskQueue)
        worker = assert_type(await queue.add_task_subscriber(work, "one"), str)
        await queue.task_send(3, at=datetime.datetime.now())
        await queue.remove_task_subscriber(worker)
        await queue.task_send(4, no_reply=True)
        with await queue.next_task(timeout=5) as task:
            assert_type(task, homing.IncomingTask)
            assert_type(task.body, Any)
            assert_type(task.no_reply, bool)
            assert_type(task.message_id, "str | None")
            task.finish({"done": True})
        for _ in range(2):
            await queue.task_send(4, no_reply=True)
        async for task in queue:
            assert_type(task, homing.IncomingTask)
            task.fail(ValueError("not today"))
            break
        (await queue.next_task(5.0)).requeue()

        hearer = await c.add_broadcast_subscriber(
            heard, subject=["state.*", re.compile("other")], sender=["x*", 4]
        )
        assert_type(hearer, str)
        async with c.broadcasts(subject="state.*", sender=4) as broadcasts:
            assert_type(broadcasts, homing.Broadcasts)
            await c.broadcast_send({"a": 1}, sender=4, subject="state.on", correlation_id=None)
            async for broadcast in broadcasts:
                assert_type(broadcast, homing.Broadcast)
                break
        await broadcasts.aclose()
        await c.remove_broadcast_subscriber(hearer)
        report = assert_type(await c.close(drain=0.1), homing.CloseReport)
        assert_type((report.requests_ended, report.error), "tuple[int, str | None]")
        async for event in events:
            assert_type(event, homing.Event)
            assert_type((event.name, event.fields), "tuple[str, dict[str, Any]]")
    awaited = await homing.connect(url, encoder=encoder, decoder=decoder)
    assert_type(awaited, homing.Communicator)
    await awaited.close()


def of_threads(url: str) -> None:
    """``homing.blocking``."""
    with blocking.connect(url, prefix="typed", close_timeout=5) as c:
        assert_type(c, blocking.Communicator)
        assert_type(c.state, str)
        assert_type(c.is_closed, bool)
        assert_type(c.server_properties, "dict[str, str]")
        events = assert_type(c.events(), blocking.Events)

        name = assert_type(c.add_rpc_subscriber("double", double), str)
        assert_type(c.rpc_send(name, 21, timeout=5, idempotent=True), Any)
        c.remove_rpc_subscriber(name)

        worker = assert_type(c.add_task_subscriber(work, prefetch=2), str)
        assert_type(c.task_send([1, 2], timeout=5.0), Any)
        c.remove_task_subscriber(worker)

        queue = assert_type(c.task_queue("typed.more"), blocking.TaskQueue)
        worker = assert_type(queue.add_task_subscriber(work, "one"), str)
        queue.task_send(3, priority=None, unique=None)
        queue.remove_task_subscriber(worker)
        queue.task_send(4, no_reply=True)
        with queue.next_task(timeout=5) as task:
            assert_type(task, homing.IncomingTask)
            task.finish()
        queue.task_send(4, no_reply=True)
        for task in queue:
            assert_type(task, homing.IncomingTask)
            task.fail("not today")

        hearer = assert_type(c.add_broadcast_subscriber(heard, sender="x*"), str)
        with c.broadcasts(subject="state.*") as broadcasts:
            assert_type(broadcasts, blocking.Broadcasts)
            c.broadcast_send(1, subject="state.on")
            for broadcast in broadcasts:
                assert_type(broadcast, homing.Broadcast)
                break
        broadcasts.close()
        c.remove_broadcast_subscriber(hearer)
        assert_type(c.close(drain=0.0), homing.CloseReport)
        for event in events:
            assert_type(event, homing.Event)


def exceptions() -> None:
    """What is raised, and what subscribers raise."""
    remote = homing.RemoteException("text")
    assert_type((remote.text, remote.type_name), "tuple[str, str | None]")
    assert_type((remote.chain, remote.data), "tuple[list[str], Any]")
    assert_type(homing.Lagged(3).missed, int)
    assert_type(homing.Tagged("!x", 1).value, Any)
    assert_type(homing.Tagged("!x", 1).tag, str)
    named: list[type[homing.Error]] = [
        homing.Abandoned, homing.AccessRefused, homing.Cancelled, homing.CommunicatorClosed, homing.ConnectionFailed,
        homing.ConnectionLost, homing.DecodeError, homing.DeliveryFailed, homing.DuplicateSubscriberIdentifier,
        homing.DuplicateTask,
        homing.EncodeError, homing.Full, homing.HomeEnded, homing.InternalError, homing.InvalidArgument,
        homing.InvalidStateError, homing.NotFound, homing.PermissionDenied, homing.PreconditionFailed, homing.QueueEmpty,
        homing.ResourceLocked, homing.StorageError, homing.TaskRejected, homing.TimeoutError, homing.TryAgain,
        homing.Unreadable, homing.UnroutableError, homing.WouldDeadlock, homing.WrongHome,
    ]  # fmt: skip
    timeouts: list[type[TimeoutError]] = [homing.TimeoutError]
    connections: list[type[ConnectionError]] = [homing.ConnectionFailed, homing.ConnectionLost, homing.AccessRefused]
    values: list[type[ValueError]] = [homing.DecodeError, homing.EncodeError, homing.InvalidArgument]
    assert named and timeouts and connections and values


def called(communicator: kiwipy.Communicator, message: Any) -> Any:
    assert not communicator.is_closed()
    return message


async def answered(communicator: rmq.RmqCommunicator, message: Any) -> Any:
    assert communicator.connected()
    return message


def passed(communicator: Any, body: Any, sender: Any, subject: Any, correlation_id: Any) -> None:
    pass


def closed(communicator: Any, error: BaseException | None) -> None:
    pass


def of_kiwipy(url: str) -> None:
    """``homing.kiwipy``."""
    with kiwipy.connect(url) as c:
        assert_type(c, rmq.RmqThreadCommunicator)
        c.add_close_callback(closed)
        assert_type(c.is_closed(), bool)
        assert_type(c.connected, bool)
        assert_type(c.server_properties, "dict[str, str]")
        assert c.loop() is not None
        name = c.add_rpc_subscriber(called, "typed")
        assert c.rpc_send(name, 3).result(timeout=5) == 3
        c.remove_rpc_subscriber(name)
        worker = c.add_task_subscriber(called)
        assert c.task_send([1]).result(timeout=5) == [1]
        c.remove_task_subscriber(worker)
        some = kiwipy.BroadcastFilter(passed, subject="state.*", sender=re.compile("x"))
        some.add_subject_filter("other.*")
        some.add_sender_filter(4)
        assert_type(some.is_filtered(4, "state.on"), bool)
        hearer = c.add_broadcast_subscriber(some)
        assert_type(c.broadcast_send(1, sender=4, subject="state.on"), bool)
        c.remove_broadcast_subscriber(hearer)

        queue = assert_type(c.task_queue("typed.kiwipy", prefetch_count=1), rmq.RmqThreadTaskQueue)
        worker = queue.add_task_subscriber(called)
        assert queue.task_send(5).result(timeout=5) == 5
        queue.remove_task_subscriber(worker)
        queue.task_send(6, no_reply=True)
        with queue.next_task(timeout=5) as task, task.processing() as outcome:
            outcome.set_result(None)
        queue.task_send(7, no_reply=True)
        for task in queue:
            assert_type(task, rmq.RmqThreadIncomingTask)
            assert_type((task.body, task.no_reply, task.state), "tuple[Any, bool, str]")
            task.process().set_result(None)
        queue.task_send(8, no_reply=True)
        for task in queue:
            task.requeue()
        c.close()
    other = rmq.RmqThreadCommunicator.connect({"url": url}, task_prefetch_count=3)
    assert_type(other, rmq.RmqThreadCommunicator)
    other.close()
    rmq.connect(url).close()

    local = kiwipy.LocalCommunicator()
    local.add_rpc_subscriber(called, "x")
    local.add_task_subscriber(called, "x")
    local.add_broadcast_subscriber(passed, "x")
    local.rpc_send("x", 1).result()
    local.task_send(1)
    local.broadcast_send(1)
    local.fire_rpc("x", 1)
    local.fire_task(1)
    local.fire_broadcast(1)
    local.remove_rpc_subscriber("x")
    local.remove_task_subscriber("x")
    local.remove_broadcast_subscriber("x")
    local.close()
    assert isinstance(local, kiwipy.CommunicatorHelper)

    source: kiwipy.Future[int] = kiwipy.Future()
    target: Future[int] = Future()
    kiwipy.chain(source, target)
    with kiwipy.capture_exceptions(source, ignore=(KeyError,)):
        source.set_result(1)
    kiwipy.copy_future(source, target)
    assert [done.result() for done in kiwipy.as_completed([source])] == [1]
    assert kiwipy.wait([source]).done == {source}
    ours: list[type[homing.Error]] = [
        kiwipy.CommunicatorClosed, kiwipy.DeliveryFailed, kiwipy.DuplicateSubscriberIdentifier, kiwipy.InvalidStateError,
        kiwipy.QueueEmpty, kiwipy.RemoteException, kiwipy.TaskRejected, kiwipy.UnroutableError,
    ]  # fmt: skip
    python: list[type[BaseException]] = [kiwipy.CancelledError, kiwipy.TimeoutError]
    assert_type(kiwipy.RemoteException("text").chain, "list[str]")
    assert ours and python


async def of_kiwipys_loops(url: str) -> None:
    """``homing.kiwipy.rmq`` for asyncio."""
    c = assert_type(await rmq.async_connect(url), rmq.RmqCommunicator)
    c.add_close_callback(closed)
    assert_type(c.connected(), bool)
    assert_type(c.loop, asyncio.AbstractEventLoop)
    assert_type(c.server_properties, "dict[str, str]")
    name = await c.add_rpc_subscriber(answered)
    assert await (await c.rpc_send(name, 1)) == 1
    await c.remove_rpc_subscriber(name)
    worker = await c.add_task_subscriber(answered)
    outcome = assert_type(await c.task_send(1), "asyncio.Future[Any] | None")
    assert outcome is not None and await outcome == 1
    await c.remove_task_subscriber(worker)
    hearer = await c.add_broadcast_subscriber(passed)
    assert_type(await c.broadcast_send(1), bool)
    await c.remove_broadcast_subscriber(hearer)
    assert_type(await c.get_default_task_queue(), rmq.RmqTaskQueue)
    queue = assert_type(await c.task_queue("typed.loops"), rmq.RmqTaskQueue)
    worker = await queue.add_task_subscriber(answered)
    await queue.remove_task_subscriber(worker)
    await queue.task_send(1, no_reply=True)
    async with queue.next_task(timeout=5) as task:
        assert_type(task, "rmq.RmqIncomingTask | None")
        assert task is not None
        async with task.processing() as result:
            result.set_result(None)
    await queue.task_send(1, no_reply=True)
    async for one in queue:
        assert_type((one.body, one.no_reply, one.state), "tuple[Any, bool, str]")
        await one.requeue()
        break
    async for one in queue:
        assert_type(one, rmq.RmqIncomingTask)
        assert_type(one.process(), "asyncio.Future[Any]").set_result(None)
    await c.disconnect()
    await c.connect()
    await c.disconnect()
    own = rmq.RmqTaskQueue(url, queue_name="typed.own")
    await own.connect()
    await own.disconnect()
    async with rmq.RmqCommunicator(url) as c:
        assert_type(c, rmq.RmqCommunicator)

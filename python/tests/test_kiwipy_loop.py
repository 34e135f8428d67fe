"""kiwipy's communicator for asyncio, on homing."""

from __future__ import annotations

import asyncio
import uuid

import pytest

import homing
from conftest import collect, run
from homing import kiwipy
from homing.kiwipy import rmq


def test_calls(options):
    async def main():
        async with await rmq.async_connect(**options) as c:
            assert c.connected() and c.loop is asyncio.get_running_loop()
            assert await c.add_rpc_subscriber(lambda who, message: [who is c, message], "echo") == "echo"
            future = await c.rpc_send("echo", 1)
            assert asyncio.isfuture(future) and await future == [True, 1]
            with pytest.raises(kiwipy.DuplicateSubscriberIdentifier):
                await c.add_rpc_subscriber(print, "echo")

            async def double(who, message):
                await asyncio.sleep(0.01)
                return 2 * message

            await c.add_rpc_subscriber(double, "double")
            assert await (await c.rpc_send("double", 21)) == 42
            asked = asyncio.get_running_loop().create_future()
            await c.add_rpc_subscriber(lambda who, message: asked, "later")
            later = await (await c.rpc_send("later", None))
            assert asyncio.isfuture(later) and not later.done()
            asked.set_result("done")
            assert await later == "done"

            def fails(who, message):
                raise ValueError("it failed")

            await c.add_rpc_subscriber(fails, "fails")
            with pytest.raises(kiwipy.RemoteException, match="it failed"):
                await (await c.rpc_send("fails", None))
            await c.remove_rpc_subscriber("echo")
            with pytest.raises(ValueError):
                await c.remove_rpc_subscriber("echo")
            with pytest.raises(kiwipy.UnroutableError):
                await c.rpc_send("echo", None)
            futures = [await c.rpc_send("double", n) for n in range(100)]
            assert await asyncio.gather(*futures) == [2 * n for n in range(100)]
        assert not c.connected()
        with pytest.raises(RuntimeError, match="not connected"):
            await c.rpc_send("double", 1)

    run(main())


def test_tasks_and_broadcasts(options):
    async def main():
        called = []
        c = await rmq.async_connect(**options)
        c.add_close_callback(lambda sender, error: called.append((sender, error)))
        identifier = await c.add_task_subscriber(lambda who, task: [task])
        assert await (await c.task_send("x")) == ["x"]
        assert await c.task_send("x", no_reply=True) is None
        await c.remove_task_subscriber(identifier)
        heard = asyncio.Queue()

        async def hear(who, *broadcast):
            await heard.put(broadcast)

        await c.add_broadcast_subscriber(kiwipy.BroadcastFilter(hear, subject="right"), "ear")
        await c.broadcast_send("a", subject="wrong")
        assert await c.broadcast_send("b", 4, "right", "mark") is True
        assert await heard.get() == ("b", 4, "right", "mark")
        await c.remove_broadcast_subscriber("ear")
        await c.disconnect()
        await c.disconnect()
        assert called == [(c, None)]

    run(main())


def test_tasks_by_hand(options):
    async def main():
        async with await rmq.async_connect(**options) as c:
            queue = await c.task_queue(f"queue-{uuid.uuid4().hex}")
            with pytest.raises(kiwipy.QueueEmpty):
                async with queue.next_task(timeout=0.05):
                    pass
            async with queue.next_task(timeout=0.05, fail=False) as task:
                assert task is None

            outcome = await queue.task_send("one")
            async with queue.next_task() as task:
                assert (task.body, task.no_reply, task.state) == ("one", False, "pending")
                async with task.processing() as processing:
                    processing.set_result("done")
                assert task.state == "finished"
                with pytest.raises(kiwipy.InvalidStateError):
                    await task.requeue()
            assert await outcome == "done"

            outcome = await queue.task_send("two")
            with pytest.raises(RuntimeError):
                async with queue.next_task() as task, task.processing():
                    raise RuntimeError("it failed")
            with pytest.raises(kiwipy.RemoteException, match="it failed"):
                await outcome

            outcome = await queue.task_send("three")
            async with queue.next_task():
                pass  # It goes back.
            async with queue.next_task() as task:
                future = task.process()
                with pytest.raises(kiwipy.InvalidStateError):
                    task.process()
            asyncio.get_running_loop().call_later(0.05, future.set_result, "later")
            assert await outcome == "later"

            await queue.task_send("four", no_reply=True)
            async with queue.next_task() as task:
                task.process()  # Nobody holds the future: the task goes back.
            del task
            collect()
            async with queue.next_task() as task:
                assert task.body == "four"
                task.process().set_result(None)
            async with queue.next_task(timeout=0.2, fail=False) as task:
                assert task is None

            for n in range(5):
                await queue.task_send(n, no_reply=True)
            bodies = []
            async for task in queue:
                bodies.append(task.body)
                if task.body < 3:
                    async with task.processing() as processing:
                        processing.set_result(None)
            assert bodies == list(range(5))
            assert sorted([task.body async for task in queue]) == [3, 4]

    run(main())


def test_a_queue_of_its_own_connection(broker):
    url, options = broker

    class Connection:
        """As one of aio_pika, which has the URL."""

        def __init__(self):
            self.url = url

    async def main():
        name = uuid.uuid4().hex
        queue = rmq.RmqTaskQueue(Connection(), exchange_name=f"e-{name}", queue_name=f"q-{name}", testing_mode=bool(options))
        await queue.connect()
        await queue.add_task_subscriber(lambda who, task: [task])
        assert await (await queue.task_send("x")) == ["x"]
        await queue.disconnect()
        with pytest.raises(TypeError, match="connection must be"):
            rmq.RmqCommunicator(object())

    run(main())


def test_asyncio_is_not_imported_for_threads():
    import subprocess
    import sys

    program = "import sys; from homing.kiwipy import rmq; assert 'asyncio' not in sys.modules; rmq.RmqCommunicator"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert homing.kiwipy.rmq.RmqCommunicator.__module__ == "homing.kiwipy.rmq"

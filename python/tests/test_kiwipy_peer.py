"""With kiwipy as it is, on one RabbitMQ: each calls the other, works on its tasks and gets its broadcasts."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid

import pytest

import homing
from conftest import run

URL = os.environ.get("HOMING_TEST_AMQP")
pytestmark = pytest.mark.skipif(not URL, reason="HOMING_TEST_AMQP is not set")


@pytest.fixture
def peer():
    kiwipy = pytest.importorskip("kiwipy")
    rmq = pytest.importorskip("kiwipy.rmq")
    prefix = f"py-{uuid.uuid4().hex}"
    names = {
        "message_exchange": f"{prefix}.messages",
        "task_exchange": f"{prefix}.tasks",
        "task_queue": f"{prefix}.process.queue",
    }
    communicator = rmq.RmqThreadCommunicator.connect(connection_params={"url": URL}, testing_mode=True, **names)
    yield kiwipy, communicator, {"prefix": prefix, "testing": True}
    communicator.close()


def test_kiwipy_and_homing_call_each_other(peer):
    kiwipy, theirs, options = peer
    body = {"a": [1, (2, "ä")], "n": 2**70, "b": b"\x00", "s": {1, 2}, "t": None, "f": 1e-7}

    async def main():
        async with homing.connect(URL, **options) as ours:
            theirs.add_rpc_subscriber(lambda _, message: message, "theirs")
            assert await ours.rpc_send("theirs", body, timeout=30) == body

            def broken(_, message):
                raise ValueError("theirs is broken")

            theirs.add_rpc_subscriber(broken, "broken")
            with pytest.raises(homing.RemoteException) as caught:
                await ours.rpc_send("broken", timeout=30)
            assert caught.value.text == "theirs is broken"

            async def echo(request):
                return request.body

            await ours.add_rpc_subscriber("ours", echo)
            assert await asyncio.to_thread(lambda: theirs.rpc_send("ours", body).result(30)) == body

            def fails(request):
                raise ValueError("ours is broken")

            await ours.add_rpc_subscriber("fails", fails)
            with pytest.raises(kiwipy.RemoteException, match="ours is broken"):
                await asyncio.to_thread(lambda: theirs.rpc_send("fails", None).result(30))

    run(main(), debug=False)


def test_kiwipy_and_homing_share_tasks_and_broadcasts(peer):
    _, theirs, options = peer

    async def main():
        async with homing.connect(URL, **options) as ours:
            identifier = theirs.add_task_subscriber(lambda _, task: ["theirs", task])
            assert await ours.task_send(("x", 1), timeout=30) == ["theirs", ("x", 1)]
            theirs.remove_task_subscriber(identifier)
            await ours.add_task_subscriber(lambda task: ["ours", task.body])
            assert await asyncio.to_thread(lambda: theirs.task_send("y").result(30)) == ["ours", "y"]

            got, done = [], threading.Event()

            def keep(_, body, sender, subject, correlation_id):
                got.append((body, sender, subject, correlation_id))
                done.set()

            theirs.add_broadcast_subscriber(keep)
            await ours.broadcast_send([1], sender=4, subject="s.x", correlation_id="c")
            await asyncio.to_thread(done.wait, 30)
            assert got == [([1], 4, "s.x", "c")]
            async with ours.broadcasts(subject="state_changed.*") as changes:
                await asyncio.to_thread(theirs.broadcast_send, None, 5, "state_changed.a.b", "d")
                change = await changes.__anext__()
                assert (change.body, change.sender, change.subject, change.correlation_id) == (
                    None,
                    5,
                    "state_changed.a.b",
                    "d",
                )

    run(main(), debug=False)

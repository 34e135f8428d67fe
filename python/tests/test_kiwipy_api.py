"""kiwipy's names and meanings, on homing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import threading
import time
import uuid

import pytest

import homing
from homing import kiwipy
from homing.kiwipy import rmq
from homing.kiwipy._base import translated
from homing.kiwipy._common import url_of, without_passwords

LIMIT = 30.0


@pytest.fixture
def communicator(options):
    communicator = rmq.RmqThreadCommunicator.connect(**options)
    yield communicator
    communicator.close()


def test_calls(communicator):
    seen = []

    def double(who, message):
        seen.append((who, threading.current_thread().name))
        return 2 * message

    assert communicator.add_rpc_subscriber(double, "double") == "double"
    assert communicator.rpc_send("double", 21).result(LIMIT) == 42
    assert seen == [(communicator, "homing-subscribers")]
    with pytest.raises(kiwipy.DuplicateSubscriberIdentifier):
        communicator.add_rpc_subscriber(double, "double")
    communicator.remove_rpc_subscriber("double")
    with pytest.raises(ValueError):
        communicator.remove_rpc_subscriber("double")
    with pytest.raises(kiwipy.UnroutableError):
        communicator.rpc_send("double", 21)
    assert communicator.add_rpc_subscriber(double) not in (None, "double")


def test_a_thousand_calls_in_flight(communicator):
    communicator.add_rpc_subscriber(lambda _, message: message, "echo")
    futures = [communicator.rpc_send("echo", n) for n in range(1000)]
    assert [future.result(LIMIT) for future in futures] == list(range(1000))


def test_a_future_resolves_to_a_future(communicator):
    asked = kiwipy.Future()
    communicator.add_rpc_subscriber(lambda _, message: asked, "later")
    first = communicator.rpc_send("later", None)
    second = first.result(LIMIT)
    assert isinstance(second, kiwipy.Future) and not second.done()
    threading.Timer(0.05, asked.set_result, ["done"]).start()
    assert second.result(LIMIT) == "done"


@pytest.mark.parametrize("later", [False, True])
def test_exceptions_and_cancels(communicator, later):
    def fails(_, message):
        if not later:
            raise ValueError("it failed")
        future = kiwipy.Future()
        threading.Timer(0.02, future.set_exception, [ValueError("it failed")]).start()
        return future

    def cancels(_, message):
        if not later:
            raise kiwipy.CancelledError
        future = kiwipy.Future()
        threading.Timer(0.02, future.cancel).start()
        return future

    communicator.add_rpc_subscriber(fails, "fails")
    communicator.add_rpc_subscriber(cancels, "cancels")

    def last(future):
        result = future.result(LIMIT)
        return result.result(LIMIT) if later else result

    with pytest.raises(kiwipy.RemoteException) as caught:
        last(communicator.rpc_send("fails", None))
    assert str(caught.value) == "it failed" and isinstance(caught.value, homing.RemoteException)
    with pytest.raises(kiwipy.CancelledError):
        last(communicator.rpc_send("cancels", None))


def test_kiwipys_own_except_catches_it(communicator):
    theirs = pytest.importorskip("kiwipy")
    with pytest.raises(theirs.UnroutableError):
        communicator.rpc_send("nobody", None)
    with pytest.raises(theirs.DeliveryFailed):
        communicator.rpc_send("nobody", None)

    def rejects(_, task):
        raise theirs.TaskRejected("not here")

    first = communicator.add_task_subscriber(rejects)
    communicator.add_task_subscriber(lambda _, task: ["second", task])
    assert communicator.task_send("x").result(LIMIT) == ["second", "x"]
    communicator.remove_task_subscriber(first)


def test_what_programs_of_kiwipys_catch_beside():
    exceptions = pytest.importorskip("aio_pika.exceptions")
    lost = translated(homing.ConnectionLost("it is gone"))
    assert isinstance(lost, exceptions.ConnectionClosed) and isinstance(lost, homing.ConnectionLost)
    assert str(lost) == "it is gone" and "it is gone" in repr(lost)
    late = translated(homing.TimeoutError("it is late"))
    assert isinstance(late, kiwipy.TimeoutError) and isinstance(late, homing.TimeoutError)


def test_tasks(communicator):
    identifier = communicator.add_task_subscriber(lambda _, task: [task])
    assert communicator.task_send("x").result(LIMIT) == ["x"]
    assert communicator.task_send("x", no_reply=True) is None
    communicator.remove_task_subscriber(identifier)


def test_tasks_by_hand(communicator):
    queue = communicator.task_queue(f"queue-{uuid.uuid4().hex}")
    with pytest.raises(kiwipy.QueueEmpty):
        with queue.next_task(timeout=0.05):
            pass
    with queue.next_task(timeout=0.05, fail=False) as task:
        assert task is None

    outcome = queue.task_send("one")
    with queue.next_task(LIMIT) as task:
        assert (task.body, task.no_reply, task.state) == ("one", False, "pending")
        with task.processing() as processing:
            assert task.state == "processing"
            processing.set_result("done")
        assert task.state == "finished"
    assert outcome.result(LIMIT) == "done"

    outcome = queue.task_send("two")
    with queue.next_task(LIMIT) as task:
        with pytest.raises(RuntimeError):
            with task.processing():
                raise RuntimeError("it failed")
    with pytest.raises(kiwipy.RemoteException, match="it failed"):
        outcome.result(LIMIT)

    outcome = queue.task_send("three")
    with queue.next_task(LIMIT):
        pass  # It goes back.
    with queue.next_task(LIMIT) as task:
        future = task.process()
        with pytest.raises(kiwipy.InvalidStateError):
            task.process()
        threading.Timer(0.05, future.set_result, ["later"]).start()
    assert outcome.result(LIMIT) == "later"

    queue.task_send("four", no_reply=True)
    with queue.next_task(LIMIT) as task:
        task.process()  # Nobody holds the future: the task goes back.
    del task
    with queue.next_task(LIMIT) as task:
        assert task.body == "four"
        task.process().set_result(None)

    for n in range(5):
        queue.task_send(n, no_reply=True)
    bodies = []
    for task in queue:
        bodies.append(task.body)
        if task.body < 3:
            task.process().set_result(None)
    assert bodies == list(range(5))
    assert sorted(task.body for task in queue) == [3, 4]


def test_broadcasts(communicator):
    got, done = [], threading.Event()

    def keep(who, body, sender, subject, correlation_id):
        got.append((who is communicator, body, sender, subject, correlation_id))
        if body == "end":
            done.set()

    filtered = []
    passes = kiwipy.BroadcastFilter(lambda *args: filtered.append(args[1]), subject="job.*")
    passes.add_sender_filter(4)
    communicator.add_broadcast_subscriber(keep)
    identifier = communicator.add_broadcast_subscriber(passes, "filtered")
    assert communicator.broadcast_send("a", sender=4, subject="job.x", correlation_id="c") is True
    communicator.broadcast_send("b", sender=5, subject="job.x")
    communicator.broadcast_send("end", subject="other")
    assert done.wait(LIMIT)
    assert got[0] == (True, "a", 4, "job.x", "c") and [one[1] for one in got] == ["a", "b", "end"]
    assert filtered == ["a"]
    communicator.remove_broadcast_subscriber(identifier)


def test_a_subscriber_calls_and_waits(communicator):
    communicator.add_rpc_subscriber(lambda _, message: message + 1, "inner")
    communicator.add_rpc_subscriber(lambda c, message: c.rpc_send("inner", message).result(LIMIT), "outer")
    assert communicator.rpc_send("outer", 1).result(LIMIT) == 2

    def impatient(c, message):
        future = c.rpc_send("never", None)
        try:
            return future.result(LIMIT).result(0.05)
        except concurrent.futures.TimeoutError:
            return "timed out"

    communicator.add_rpc_subscriber(lambda _, message: kiwipy.Future(), "never")
    communicator.add_rpc_subscriber(impatient, "impatient")
    assert communicator.rpc_send("impatient", 1).result(LIMIT) == "timed out"


def test_a_broadcast_subscriber_removes_itself(communicator):
    done = threading.Event()

    def once(c, body, sender, subject, correlation_id):
        c.remove_broadcast_subscriber("once")
        done.set()

    communicator.add_broadcast_subscriber(once, "once")
    communicator.broadcast_send(1)
    assert done.wait(LIMIT)
    with pytest.raises(ValueError):
        communicator.remove_broadcast_subscriber("once")


def test_coroutine_functions_run_on_a_loop_of_the_communicators(communicator):
    threads = set()

    async def double(who, message):
        threads.add(threading.current_thread().name)
        await asyncio.sleep(0.01)
        if message is None:
            raise ValueError("it failed")
        return 2 * message

    communicator.add_rpc_subscriber(double, "double")
    # A value, as in kiwipy, and not a future that it will come by.
    assert communicator.rpc_send("double", 21).result(LIMIT) == 42
    with pytest.raises(kiwipy.RemoteException, match="it failed"):
        communicator.rpc_send("double", None).result(LIMIT)
    # Many of them wait at once.
    futures = [communicator.rpc_send("double", n) for n in range(200)]
    assert [future.result(LIMIT) for future in futures] == [2 * n for n in range(200)]
    assert threads == {"homing-coroutines"}

    async def calls(who, message):
        future = who.rpc_send("double", message)
        return await asyncio.wrap_future(future)

    communicator.add_rpc_subscriber(functools.partial(calls), "calls")
    assert communicator.rpc_send("calls", 1).result(LIMIT) == 2

    class Echo:
        async def __call__(self, who, message):
            return ["echo", message]

    communicator.add_task_subscriber(Echo())
    assert communicator.task_send("x").result(LIMIT) == ["echo", "x"]

    heard = kiwipy.Future()

    async def hear(who, body, sender, subject, correlation_id):
        await asyncio.sleep(0)
        heard.set_result((body, subject))

    communicator.add_broadcast_subscriber(kiwipy.BroadcastFilter(hear, subject="right"))
    communicator.broadcast_send("a", subject="wrong")
    communicator.broadcast_send("b", subject="right")
    assert heard.result(LIMIT) == ("b", "right")
    assert communicator.loop().is_running()


def test_a_coroutine_that_waits_for_ever_holds_no_close_up(options):
    communicator = rmq.RmqThreadCommunicator.connect(**options)
    begun = threading.Event()
    ended = []

    async def never(who, message):
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(threading.current_thread().name)

    communicator.add_rpc_subscriber(never, "never")
    future = communicator.rpc_send("never", None)
    assert begun.wait(LIMIT)
    communicator.close()
    assert ended == ["homing-coroutines"]
    assert not any(thread.name.startswith("homing-") for thread in threading.enumerate())
    with pytest.raises((kiwipy.CommunicatorClosed, kiwipy.RemoteException, kiwipy.CancelledError)):
        future.result(LIMIT)
    with pytest.raises(kiwipy.CommunicatorClosed):
        communicator.loop()


def test_a_subscriber_that_blocks_holds_no_sender_up(options):
    with rmq.RmqThreadCommunicator.connect(**options) as communicator:
        begun, returns = threading.Event(), threading.Event()

        def busy(_, message):
            begun.set()
            assert returns.wait(LIMIT)
            return message

        communicator.add_rpc_subscriber(busy, "busy")
        under_way = [communicator.rpc_send("busy", 1)]
        assert begun.wait(LIMIT)
        under_way.append(communicator.rpc_send("busy", 2))
        assert communicator.task_send(3) is not None
        with pytest.raises(kiwipy.UnroutableError):
            communicator.rpc_send("nobody", 4)
        assert not any(future.done() for future in under_way)
        returns.set()
        assert [future.result(LIMIT) for future in under_way] == [1, 2]


def test_a_close_ends_what_is_under_way_while_the_thread_of_the_subscribers_is_busy(options):
    communicator = rmq.RmqThreadCommunicator.connect(**options)
    begun, returns = threading.Event(), threading.Event()

    def busy(_, message):
        begun.set()
        returns.wait(LIMIT)

    communicator.add_rpc_subscriber(busy, "busy")
    under_way = [communicator.rpc_send("busy", number) for number in range(100)]
    assert begun.wait(LIMIT)
    closing = threading.Thread(target=communicator.close)
    closing.start()
    # The outcomes and the request to end are there before the thread gets to either.
    while not communicator._subscribers._ended:
        time.sleep(0.001)
    returns.set()
    closing.join()
    for future in under_way:
        assert future.done(), future
        with pytest.raises((kiwipy.CommunicatorClosed, kiwipy.RemoteException)):
            future.result(0)


def test_close(options):
    communicator = rmq.RmqThreadCommunicator.connect(**options)
    called = []
    communicator.add_close_callback(lambda sender, error: called.append((sender, error)))
    asked = kiwipy.Future()
    communicator.add_rpc_subscriber(lambda _, message: asked, "later")
    future = communicator.rpc_send("later", None).result(LIMIT)
    assert communicator.connected
    begun = time.monotonic()
    communicator.close()
    assert time.monotonic() - begun < 30
    assert called == [(communicator, None)] and communicator.is_closed()
    with pytest.raises((kiwipy.CommunicatorClosed, kiwipy.RemoteException)):
        future.result(LIMIT)
    communicator.close()
    for use in (lambda: communicator.rpc_send("x", 1), lambda: communicator.broadcast_send(1)):
        with pytest.raises(kiwipy.CommunicatorClosed):
            use()


def test_connection_parameters():
    assert url_of({"host": "h", "login": "a b", "password": "p/w", "virtualhost": "/x"}) == "amqp://a%20b:p%2Fw@h:5672/%2Fx"
    assert url_of({"ssl": True, "host": "h"}) == "amqps://guest:guest@h:5671/%2F"
    with pytest.raises(ValueError, match="http"):
        kiwipy.connect("http://x")
    with kiwipy.connect("memory:") as communicator:
        assert communicator.server_properties is not None
    with pytest.raises(TypeError, match="encoder must be callable"):
        kiwipy.connect("memory:", encoder=1)


def test_local_communicator_and_futures():
    local = kiwipy.LocalCommunicator()
    local.add_rpc_subscriber(lambda _, message: 2 * message, "double")
    assert local.rpc_send("double", 2).result() == 4
    with pytest.raises(kiwipy.UnroutableError):
        local.rpc_send("nobody", 2)
    local.add_task_subscriber(lambda _, task: 1 / 0)
    with pytest.raises(kiwipy.RemoteException, match="division"):
        local.task_send("x").result()
    got = []
    local.add_broadcast_subscriber(lambda _, body, **rest: got.append((body, rest)))
    assert local.broadcast_send(1, subject="s")
    assert got == [(1, {"sender": None, "subject": "s", "correlation_id": None})]
    local.close()
    with pytest.raises(kiwipy.CommunicatorClosed):
        local.rpc_send("double", 2)

    source, target = kiwipy.Future(), kiwipy.Future()
    kiwipy.chain(source, target)
    source.set_exception(ValueError("x"))
    with pytest.raises(ValueError):
        target.result()
    with pytest.raises(KeyError):
        with kiwipy.capture_exceptions(kiwipy.Future(), ignore=KeyError):
            raise KeyError


@pytest.mark.skipif(not os.environ.get("HOMING_TEST_AMQP"), reason="HOMING_TEST_AMQP is not set")
def test_beside_kiwipy(options):
    """The same program on kiwipy gets the same."""
    theirs = pytest.importorskip("kiwipy.rmq")
    if options["connection_params"]["url"].startswith("memory"):
        pytest.skip("kiwipy needs RabbitMQ")
    with rmq.RmqThreadCommunicator.connect(**options) as ours:
        with theirs.RmqThreadCommunicator.connect(**options) as other:
            ours.add_rpc_subscriber(lambda _, message: ["ours", message], "ours")
            other.add_rpc_subscriber(lambda _, message: ["theirs", message], "theirs")
            for one in (ours, other):
                assert one.rpc_send("ours", 1).result(LIMIT) == ["ours", 1]
                assert one.rpc_send("theirs", (1, 2)).result(LIMIT) == ["theirs", (1, 2)]


def test_no_password_is_shown_of_any_broker():
    shown = without_passwords("amqp://u:first@a:1/v,amqps://w:second@b/v,amqp://c")
    assert shown == "amqp://u:***@a:1/v,amqps://w:***@b/v,amqp://c"

"""A user's encoder and decoder: what they are given, where they run, and what becomes of their exceptions."""

from __future__ import annotations

import asyncio
import collections
import functools
import gc
import os
import pickle
import threading
import uuid
import weakref

import pytest

import homing
from conftest import collect, kiwipy_names, run
from homing import blocking, kiwipy
from homing.kiwipy import rmq

LIMIT = 60.0


class Point:
    """What no codec of homing's own knows."""

    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x


class Coders:
    """Pickle, and what it was given, and where."""

    def __init__(self):
        self.encoded, self.threads = [], set()

    def _called(self):
        # A thread that is not Python's own is a dummy to it.
        self.threads.add((threading.current_thread().name, type(threading.current_thread()).__name__))

    def encode(self, body):
        self._called()
        self.encoded.append(body)
        return pickle.dumps(body)

    def decode(self, body):
        self._called()
        assert type(body) is bytes
        return pickle.loads(body)

    def options(self):
        return {"encoder": self.encode, "decoder": self.decode}

    def check(self):
        assert self.threads and all(kind != "_DummyThread" for _, kind in self.threads), self.threads


ODD = [Point(1), {"nested": [Point(2), {"deep": (Point(3),)}]}, collections.OrderedDict(a=1), {1, 2}, uuid.UUID(int=4), 2**90, b"\0", None]


def test_asyncio(broker):
    url, options = broker
    coders = Coders()

    async def main():
        async with homing.connect(url, **options, **coders.options()) as c:
            got = []

            async def echo(request):
                got.append(request.body)
                await asyncio.sleep(0)
                return request.body

            await c.add_rpc_subscriber("echo", echo)
            for body in ODD:
                answer = await c.rpc_send("echo", body)
                assert (answer, type(answer)) == (body, type(body)) and type(got[-1]) is type(body)

            identifier = await c.add_task_subscriber(lambda task: [task.body, Point(9)])
            assert await c.task_send(Point(5)) == [Point(5), Point(9)]
            await c.remove_task_subscriber(identifier)
            await c.task_send(Point(6), no_reply=True)
            with await c.task_queue().next_task(timeout=LIMIT) as task:
                assert task.body == Point(6) and task.no_reply
                task.finish(Point(7))

            heard = asyncio.Queue()
            await c.add_broadcast_subscriber(heard.put_nowait, subject="right")
            async with c.broadcasts(subject="right") as stream:
                for subject in ("wrong", "right"):
                    await c.broadcast_send(Point(8), sender=uuid.UUID(int=1), subject=subject)
                for one in (await heard.get(), await stream.__anext__()):
                    assert (one.body, one.sender, one.subject) == (Point(8), uuid.UUID(int=1), "right")

    run(main())
    coders.check()
    assert {name for name, _ in coders.threads} == {"MainThread"}
    # The whole of what is sent, as kiwipy's encoder gets it.
    assert Point(1) in coders.encoded and {"result": Point(1)} in coders.encoded
    assert (Point(5), False) in coders.encoded and (Point(6), True) in coders.encoded
    assert {"body": Point(8), "sender": uuid.UUID(int=1), "subject": "right", "correlation_id": None} in coders.encoded


def test_threads(broker):
    url, options = broker
    coders = Coders()
    with blocking.connect(url, **options, **coders.options()) as c:
        c.add_rpc_subscriber("echo", lambda request: request.body)
        for body in ODD:
            assert c.rpc_send("echo", body, timeout=LIMIT) == body
        with pytest.raises(homing.RemoteException, match="it failed"):

            def fails(request):
                raise ValueError("it failed")

            c.add_rpc_subscriber("fails", fails)
            c.rpc_send("fails", Point(1), timeout=LIMIT)
    coders.check()
    assert {name for name, _ in coders.threads} == {"MainThread", "homing-subscribers"}


def test_kiwipys_names(options):
    coders = Coders()
    with rmq.connect(**options, **coders.options()) as c:
        c.add_rpc_subscriber(lambda _, body: body, "echo")
        assert c.rpc_send("echo", Point(1)).result(LIMIT) == Point(1)
        later = kiwipy.Future()
        c.add_rpc_subscriber(lambda _, body: later, "later")
        second = c.rpc_send("later", Point(1)).result(LIMIT)
        later.set_result(Point(2))
        assert second.result(LIMIT) == Point(2)
        c.add_task_subscriber(lambda _, task: [task])
        assert c.task_send(Point(3)).result(LIMIT) == [Point(3)]
        heard = kiwipy.Future()
        c.add_broadcast_subscriber(lambda _, body, *rest: heard.set_result((body, *rest)))
        c.broadcast_send(Point(4), "sender", "subject", "mark")
        assert heard.result(LIMIT) == (Point(4), "sender", "subject", "mark")
    coders.check()


def bad(body):
    raise LookupError("the coder is bad")


def test_what_an_encoder_raises_comes_out_at_its_caller(memory):
    async def main():
        async with homing.connect(memory, encoder=bad) as c:
            for send in (c.rpc_send("x", 1), c.task_send(1), c.task_send(1, no_reply=True), c.broadcast_send(1)):
                with pytest.raises(homing.EncodeError, match="encoder raised LookupError: the coder is bad") as caught:
                    await send
                assert type(caught.value.__cause__) is LookupError
        async with homing.connect(memory, encoder=lambda body: "text") as c:
            with pytest.raises(homing.EncodeError, match="has to return bytes, and returned str"):
                await c.rpc_send("x", 1)

    run(main())
    with rmq.connect(memory, encoder=bad) as c:
        for send in (lambda: c.rpc_send("x", 1), lambda: c.task_send(1), lambda: c.broadcast_send(1)):
            with pytest.raises(LookupError):
                send()


def fails_for_points(whole):
    def encode(body):
        if any(isinstance(part, Point) for part in whole(body)):
            raise LookupError("no points here")
        return pickle.dumps(body)

    return encode


def test_an_answer_that_cannot_be_encoded_is_an_exception_to_its_caller(broker):
    url, options = broker
    encode = fails_for_points(lambda body: body.values() if type(body) is dict else ())
    with blocking.connect(url, **options, encoder=encode, decoder=pickle.loads) as c:
        c.add_rpc_subscriber("point", lambda request: Point(1))
        with pytest.raises(homing.RemoteException, match="result cannot be encoded.*no points here"):
            c.rpc_send("point", 1, timeout=LIMIT)
        c.add_task_subscriber(lambda task: Point(1))
        with pytest.raises(homing.RemoteException, match="result cannot be encoded.*no points here"):
            c.task_send(1, timeout=LIMIT)


def test_what_a_decoder_raises(broker):
    url, options = broker
    def decode(body):
        if b"poison" in body:
            raise LookupError("it is bad")
        return pickle.loads(body)

    with blocking.connect(url, **options, encoder=pickle.dumps, decoder=decode) as c:
        c.add_rpc_subscriber("echo", lambda request: request.body)
        with pytest.raises(homing.RemoteException, match="cannot be read.*it is bad"):
            c.rpc_send("echo", "poison", timeout=LIMIT)
        c.add_rpc_subscriber("poison", lambda request: "poison")
        with pytest.raises(homing.DecodeError, match="reply cannot be read.*it is bad") as caught:
            c.rpc_send("poison", 1, timeout=LIMIT)
        assert type(caught.value.__cause__) is LookupError
        # Into the quarantine: no worker gets it again, and its sender knows.
        c.add_task_subscriber(lambda task: task.body)
        with pytest.raises(homing.RemoteException, match="cannot be read.*it is bad"):
            c.task_send("poison", timeout=LIMIT)
        assert c.task_send("good", timeout=LIMIT) == "good"
        with c.broadcasts() as broadcasts:
            c.broadcast_send("poison")
            c.broadcast_send("good")
            assert next(iter(broadcasts)).body == "good"


def test_one_of_the_two_is_enough(broker):
    url, options = broker
    seen = []

    def decode(body):
        seen.append(body)
        return homing._native.from_yaml(body)

    def encode(body):
        return homing._native.to_yaml(body)

    with blocking.connect(url, **options, encoder=encode) as one:
        with blocking.connect(url, **options, decoder=decode) as two:
            two.add_rpc_subscriber("two", lambda request: [request.body])
            one.add_rpc_subscriber("one", lambda request: [request.body])
            assert one.rpc_send("two", (1, {2}), timeout=LIMIT) == [(1, {2})]
            assert two.rpc_send("one", (1, {2}), timeout=LIMIT) == [(1, {2})]
            with pytest.raises(homing.EncodeError, match="Point cannot be sent"):
                two.rpc_send("one", Point(1), timeout=LIMIT)
    assert seen


def test_a_coder_may_use_the_package(memory):
    """Encoders and decoders that call and wait themselves, on a thread and on the thread of the subscribers."""
    with blocking.connect(memory) as helper:
        helper.add_rpc_subscriber("dumps", lambda request: pickle.dumps(request.body))
        helper.add_rpc_subscriber("loads", lambda request: pickle.loads(request.body))
        coders = {
            "encoder": lambda body: helper.rpc_send("dumps", body, timeout=LIMIT),
            "decoder": lambda body: helper.rpc_send("loads", body, timeout=LIMIT),
        }
        with blocking.connect(memory, **coders) as c:
            c.add_rpc_subscriber("double", lambda request: 2 * request.body)
            assert [c.rpc_send("double", n, timeout=LIMIT) for n in range(5)] == [0, 2, 4, 6, 8]


def test_a_loop_that_closes_with_a_call_in_hand(memory):
    coders = Coders()
    with blocking.connect(memory, **coders.options()) as client:
        loop = asyncio.new_event_loop()

        async def serve():
            c = await homing.connect(memory, **coders.options())
            await c.add_rpc_subscriber("never", lambda request: asyncio.get_running_loop().create_future())
            return c

        c = loop.run_until_complete(serve())
        threading.Timer(0.2, loop.call_soon_threadsafe, [loop.stop]).start()
        answer = []

        def call():
            try:
                client.rpc_send("never", Point(1), timeout=LIMIT)
            except homing.RemoteException as error:
                answer.append(str(error))

        caller = threading.Thread(target=call)
        caller.start()
        loop.run_forever()
        loop.close()
        caller.join(LIMIT)
        assert len(answer) == 1 and "ended before it had answered" in answer[0]
        assert not c.is_closed
        c._core.close(None).wait()
        c._closed = True
    coders.check()


def test_coders_that_hold_their_communicator_are_collected(memory):
    class Holder:
        def encode(self, body):
            return pickle.dumps(body)

    holder = Holder()
    holder.communicator = blocking.connect(memory, encoder=holder.encode)
    gone = weakref.ref(holder)
    with pytest.warns(ResourceWarning):
        del holder
        collect()
    assert gone() is None


@pytest.mark.skipif(not os.environ.get("HOMING_TEST_AMQP"), reason="HOMING_TEST_AMQP is not set")
def test_beside_kiwipy_with_the_same_coders():
    theirs = pytest.importorskip("kiwipy.rmq")
    prefix = f"py-{uuid.uuid4().hex}"
    options = {
        **kiwipy_names(prefix),
        "encoder": functools.partial(pickle.dumps, protocol=4),
        "decoder": pickle.loads,
    }
    parameters = {"url": os.environ["HOMING_TEST_AMQP"]}
    with rmq.connect(parameters, **options) as ours, theirs.connect(parameters, **options) as other:
        ours.add_rpc_subscriber(lambda _, body: body, "ours")
        other.add_rpc_subscriber(lambda _, body: body, "theirs")
        for one in (ours, other):
            assert one.rpc_send("ours", Point(1)).result(LIMIT) == Point(1)
            assert one.rpc_send("theirs", Point(1)).result(LIMIT) == Point(1)
        other.add_task_subscriber(lambda _, task: [task])
        assert ours.task_send(Point(2)).result(LIMIT) == [Point(2)]
        heard = kiwipy.Future()
        ours.add_broadcast_subscriber(lambda _, body, *rest: heard.set_result((body, *rest)))
        other.broadcast_send(Point(3), "sender", "subject", "mark")
        assert heard.result(LIMIT) == (Point(3), "sender", "subject", "mark")
    gc.collect()

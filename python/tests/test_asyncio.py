"""The communicator of loops: calls, tasks and broadcasts, and who is woken by what, when."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import math
import re
import threading
import time
import uuid

import pytest

import homing
from homing import _native
from conftest import run


def test_a_call_comes_back(broker):
    url, options = broker

    async def main():
        async with await homing.connect(url, **options) as c:
            assert await c.add_rpc_subscriber("double", lambda request: 2 * request.body) == "double"

            async def half(request):
                await asyncio.sleep(0.01)
                return request.body / 2

            await c.add_rpc_subscriber(17, half)
            assert await c.rpc_send("double", 21, timeout=20) == 42
            assert await c.rpc_send(17, 21) == 10.5
            await c.remove_rpc_subscriber(17)
            with pytest.raises(homing.UnroutableError):
                await c.rpc_send("17", 1)
            assert c.state == "connected" and not c.is_closed
        assert c.state == "closed" and c.is_closed
        with pytest.raises(homing.CommunicatorClosed):
            await c.rpc_send("double", 1)
        assert await c.close() == await c.close()

    run(main())


def test_calls_go_side_by_side(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options) as c:
            at_once = 200
            gate = asyncio.Barrier(at_once) if hasattr(asyncio, "Barrier") else None

            async def meet(request):
                if gate is not None:
                    await gate.wait()
                return request.body

            await c.add_rpc_subscriber("meet", meet)
            answers = await asyncio.gather(*(c.rpc_send("meet", n) for n in range(at_once)))
            assert answers == list(range(at_once))

    run(main())


def test_a_batch_of_completions_wakes_the_loop_once(memory):
    async def main():
        async with homing.connect(memory) as c:
            await c.add_rpc_subscriber("echo", lambda request: request.body)
            await c.rpc_send("echo")
            calls = [asyncio.ensure_future(c.rpc_send("echo", n)) for n in range(500)]
            await asyncio.sleep(0)
            before = _native.wakes()
            # The loop is busy while hundreds of messages come for it.
            time.sleep(0.5)
            assert _native.wakes() - before <= 1
            assert await asyncio.gather(*calls) == list(range(500))
            assert _native.wakes() - before >= 1

    run(main(), debug=False)


def test_an_exception_comes_back_with_its_text_and_type(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options) as c:

            def broken(request):
                raise KeyError("no such atom")

            async def broken_later(request):
                raise homing.TaskRejected("not here")

            await c.add_rpc_subscriber("broken", broken)
            await c.add_rpc_subscriber("later", broken_later)
            with pytest.raises(homing.RemoteException) as caught:
                await c.rpc_send("broken")
            assert caught.value.text == "'no such atom'"
            assert caught.value.type_name == "KeyError"
            assert "broken" in str(caught.value)
            with pytest.raises(homing.RemoteException, match="not here"):
                await c.rpc_send("later")

    run(main())


class Nameless(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def test_an_exception_without_a_text_is_named(memory):
    async def main():
        async with homing.connect(memory) as c:

            def nameless(request):
                raise Nameless

            await c.add_rpc_subscriber("nameless", nameless)
            with pytest.raises(homing.RemoteException) as caught:
                await c.rpc_send("nameless")
            assert caught.value.text == "Nameless"

    run(main())


@pytest.mark.parametrize("how", ["this loop", "another loop", "concurrent"])
def test_a_future_answers_later(broker, how):
    url, options = broker

    async def main():
        other = asyncio.new_event_loop()
        thread = threading.Thread(target=other.run_forever)
        thread.start()

        def subscriber(request):
            if how == "this loop":
                future = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_later(0.02, future.set_result, request.body)
            elif how == "another loop":

                async def answer():
                    await asyncio.sleep(0.02)
                    return request.body

                async def start():
                    return asyncio.ensure_future(answer())

                future = asyncio.run_coroutine_threadsafe(start(), other).result()
            else:
                future = concurrent.futures.Future()
                threading.Timer(0.02, future.set_result, [request.body]).start()
            return future

        try:
            async with homing.connect(url, **options) as c:
                await c.add_rpc_subscriber("later", subscriber)
                assert await asyncio.gather(*(c.rpc_send("later", n) for n in range(10))) == list(range(10))
        finally:
            other.call_soon_threadsafe(other.stop)
            thread.join()
            other.close()

    run(main())


def test_a_future_that_resolves_to_futures_resolves_to_the_last(memory):
    async def main():
        async with homing.connect(memory) as c:

            def nested(request):
                first, second = concurrent.futures.Future(), asyncio.get_running_loop().create_future()
                first.set_result(second)
                asyncio.get_running_loop().call_later(0.01, second.set_result, "end")
                return first

            def itself(request):
                future = concurrent.futures.Future()
                future.set_result(future)
                return future

            def in_a_circle(request):
                first, second = concurrent.futures.Future(), concurrent.futures.Future()
                first.set_result(second)
                second.set_result(first)
                return first

            await c.add_rpc_subscriber("nested", nested)
            await c.add_rpc_subscriber("itself", itself)
            await c.add_rpc_subscriber("circle", in_a_circle)
            assert await c.rpc_send("nested") == "end"
            with pytest.raises(homing.RemoteException, match="resolved to itself"):
                await c.rpc_send("itself")
            with pytest.raises(homing.RemoteException, match="none to a value"):
                await c.rpc_send("circle")

    run(main())


def test_a_cancelled_future_cancels_the_call(memory):
    async def main():
        async with homing.connect(memory) as c:

            def cancelled(request):
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                return future

            async def cancels(request):
                raise asyncio.CancelledError

            await c.add_rpc_subscriber("future", cancelled)
            await c.add_rpc_subscriber("coroutine", cancels)
            for name in ("future", "coroutine"):
                with pytest.raises(homing.Cancelled):
                    await c.rpc_send(name)

    run(main())


def test_cancelling_a_call_frees_it_at_once(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options, in_flight=(4, 1 << 20)) as c:
            seen = []

            async def stuck(request):
                seen.append(request)
                await asyncio.Event().wait()

            await c.add_rpc_subscriber("stuck", stuck)
            call = asyncio.ensure_future(c.rpc_send("stuck"))
            while not seen:
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            until = time.monotonic() + 30
            while not seen[0].is_caller_gone:
                assert time.monotonic() < until, "the subscriber is notified"
                await asyncio.sleep(0.01)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(c.rpc_send("stuck"), 0.05)

    run(main())


def test_a_call_that_is_not_answered_times_out(memory):
    async def main():
        async with homing.connect(memory) as c:
            await c.add_rpc_subscriber("never", lambda request: asyncio.get_running_loop().create_future())
            with pytest.raises(homing.TimeoutError) as caught:
                await c.rpc_send("never", timeout=0.05)
            assert isinstance(caught.value, TimeoutError) and isinstance(caught.value, homing.Error)
            for wrong in (-1, math.nan, -math.inf):
                with pytest.raises(homing.InvalidArgument, match="timeout"):
                    await c.rpc_send("never", timeout=wrong)
            with pytest.raises(TypeError, match="timeout"):
                await c.rpc_send("never", timeout="soon")

    run(main())


def test_context_variables_are_those_of_whoever_added_the_subscriber(memory):
    variable = contextvars.ContextVar("variable", default="unset")

    async def main():
        async with homing.connect(memory) as c:
            variable.set("added")

            async def read(request):
                before = variable.get()
                variable.set("changed")
                await asyncio.sleep(0)
                return before

            def read_at_once(request):
                before = variable.get()
                variable.set("changed")
                return before

            await c.add_rpc_subscriber("read", read)
            await c.add_rpc_subscriber("read at once", read_at_once)
            variable.set("later")
            for name in ("read", "read at once"):
                assert [await c.rpc_send(name) for _ in range(3)] == ["added"] * 3

    run(main())


def test_tasks_are_worked_on(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options) as c:
            seen = []

            async def work(task):
                seen.append((task.body, task.no_reply, task.attempt, task.is_redelivered))
                if task.body == "fail":
                    raise ValueError("it failed")
                if task.body == "reject":
                    raise homing.TaskRejected("not for me")
                return [task.body]

            identifier = await c.add_task_subscriber(work, prefetch=10)

            def rest(task):
                return "by the next"

            second = await c.add_task_subscriber(rest, prefetch=10)
            assert await c.task_send("x") == ["x"]
            assert await c.task_send("reject") == "by the next"
            with pytest.raises(homing.RemoteException, match="it failed"):
                await c.task_send("fail")
            assert await c.task_send("quiet", no_reply=True) is None
            while len(seen) < 4:
                await asyncio.sleep(0.01)
            assert seen[0] == ("x", False, 1, False) and seen[3][:2] == ("quiet", True)
            await c.remove_task_subscriber(identifier)
            await c.remove_task_subscriber(second)
            with pytest.raises(homing.InvalidArgument):
                await c.remove_task_subscriber(second)

    run(main())


def test_a_task_that_is_tried_again_comes_again(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options, task_attempts=(3, 0.01)) as c:

            def work(task):
                if task.attempt < 3:
                    raise homing.TryAgain("not yet")
                return task.attempt

            await c.add_task_subscriber(work)
            assert await c.task_send("x", timeout=60) == 3

    run(main())


def test_a_task_with_a_key_is_sent_once(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options) as c:
            queue = c.task_queue(f"unique-{uuid.uuid4()}")
            await queue.task_send("one", no_reply=True, unique="key", unique_for=60)
            with pytest.raises(homing.DuplicateTask, match="key"):
                await queue.task_send("two", no_reply=True, unique="key", unique_for=60)
            await queue.task_send("three", no_reply=True, unique="another key", unique_for=60)
            with pytest.raises(homing.InvalidArgument):
                await queue.task_send("four", no_reply=True, unique="key", unique_for=0)
            for body in ("one", "three"):
                task = await queue.next_task(30)
                assert task.body == body
                task.finish()
            with pytest.raises(homing.QueueEmpty):
                await queue.next_task()

    run(main())


def test_tasks_are_taken_by_hand(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options) as c:
            queue = c.task_queue()
            with pytest.raises(homing.QueueEmpty):
                await queue.next_task()
            outcome = asyncio.ensure_future(c.task_send("one"))
            task = await queue.next_task(30)
            assert task.body == "one" and not task.no_reply
            task.finish("done")
            assert await outcome == "done"
            with pytest.raises(homing.InvalidStateError):
                task.finish()

            outcome = asyncio.ensure_future(c.task_send("two"))
            with pytest.raises(ZeroDivisionError):
                with await queue.next_task(30):
                    1 / 0
            with pytest.raises(homing.RemoteException, match="division by zero"):
                await outcome

            await c.task_send("three", no_reply=True)
            with await queue.next_task(30):
                pass
            async for task in queue:
                assert task.body == "three"
                task.finish()
                break

    run(main())


def test_broadcasts_reach_those_who_want_them(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options) as c, homing.connect(url, **options) as other:
            got: dict[str, list] = {"all": [], "jobs": [], "four": [], "upper": []}
            done = asyncio.Event()

            def keep(name):
                def keeper(broadcast):
                    got[name].append((broadcast.body, broadcast.sender, broadcast.subject, broadcast.correlation_id))
                    if broadcast.subject == "end":
                        done.set()

                return keeper

            await c.add_broadcast_subscriber(keep("all"), "mine")
            jobs = await c.add_broadcast_subscriber(keep("jobs"), subject="job.*")
            await c.add_broadcast_subscriber(keep("four"), sender=[4, "5"])
            await c.add_broadcast_subscriber(keep("upper"), subject=re.compile("JOB", re.IGNORECASE))
            with pytest.raises(homing.DuplicateSubscriberIdentifier):
                await c.add_broadcast_subscriber(keep("all"), "mine")
            await other.broadcast_send("a", sender=4, subject="job.x", correlation_id="c")
            await other.broadcast_send("b", sender=6, subject="other")
            await other.broadcast_send("end", sender=6, subject="end")
            await done.wait()
            assert [body for body, *_ in got["all"]] == ["a", "b", "end"]
            assert got["jobs"] == got["four"] == got["upper"] == [("a", 4, "job.x", "c")]
            await c.remove_broadcast_subscriber(jobs)

    run(main())


def test_broadcasts_are_iterated(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options) as c:
            got = []
            async with c.broadcasts(subject="n") as stream:
                for n in range(20):
                    await c.broadcast_send(n, subject="n")
                # One that is given up loses nothing.
                for _ in range(3):
                    with pytest.raises(asyncio.TimeoutError):
                        await asyncio.wait_for(asyncio.shield(asyncio.sleep(1)), 0)
                async for broadcast in stream:
                    got.append(broadcast.body)
                    if len(got) == 20:
                        break
            assert got == list(range(20))
            ends = c.broadcasts()
            await ends.__aenter__()
            await c.close()
            assert [broadcast async for broadcast in ends] == []

    run(main())


def test_a_broadcast_is_not_lost_with_the_wait_for_it(memory):
    async def main():
        async with homing.connect(memory) as c:
            async with c.broadcasts() as stream:
                for n in range(50):
                    waiting = asyncio.ensure_future(stream.__anext__())
                    await asyncio.sleep(0)
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
                    await c.broadcast_send(n)
                    assert (await stream.__anext__()).body == n

    run(main())


def test_events_are_iterated(memory):
    async def main():
        c = await homing.connect(memory)
        events = c.events()
        await c.close()
        assert [event.name async for event in events][-1] == "closed"

    run(main())


def test_a_subscriber_may_close(broker):
    url, options = broker

    async def main():
        c = await homing.connect(url, **options)

        async def close(request):
            await c.close()

        await c.add_rpc_subscriber("close", close)
        with pytest.raises((homing.RemoteException, homing.CommunicatorClosed)):
            await c.rpc_send("close")
        assert c.is_closed

    run(main())


def test_wrong_arguments_are_named(memory):
    async def main():
        with pytest.raises(TypeError, match="prefetsch"):
            homing.connect(memory, prefetsch=3)
        with pytest.raises(homing.InvalidArgument, match="codec"):
            await homing.connect(memory, codec="xml")
        with pytest.raises(homing.InvalidArgument):
            await homing.connect("http://example.org")
        with pytest.raises(TypeError, match="call_timeout"):
            await homing.connect(memory, call_timeout="x")
        async with homing.connect(memory) as c:
            with pytest.raises(TypeError, match="callable"):
                await c.add_rpc_subscriber("x", 3)
            with pytest.raises(homing.InvalidArgument):
                await c.rpc_send("a.*.b")
            with pytest.raises(TypeError, match="subject"):
                await c.add_broadcast_subscriber(print, subject=3)

    run(main())


def test_a_password_is_shown_nowhere():
    async def main():
        with pytest.raises(homing.Error) as caught:
            await homing.connect("amqp://user:s3cret@127.0.0.1:1", connect_timeout=5)
        assert "s3cret" not in str(caught.value) + repr(caught.value)
        assert isinstance(caught.value, homing.ConnectionFailed) and isinstance(caught.value, ConnectionError)

    run(main())


def test_bodies_are_shown_nowhere(memory):
    async def main():
        async with homing.connect(memory) as c:
            shown = []
            await c.add_rpc_subscriber("r", lambda request: shown.append(repr(request)))
            await c.add_task_subscriber(lambda task: shown.append(repr(task)))
            await c.add_broadcast_subscriber(lambda broadcast: shown.append(repr(broadcast)))
            await c.rpc_send("r", "s3cret")
            await c.task_send("s3cret")
            await c.broadcast_send("s3cret")
            while len(shown) < 3:
                await asyncio.sleep(0.01)
            assert not any("s3cret" in text for text in shown), shown
            assert "memory" in repr(c)

    run(main())


def test_what_is_given_up_before_it_began_is_nothing(memory):
    async def main():
        async with homing.connect(memory) as c:
            called = []
            await c.add_rpc_subscriber("x", lambda request: called.append(1))
            coroutine = c.rpc_send("x")
            coroutine.close()
            task = asyncio.ensure_future(c.rpc_send("x"))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert called == []

    run(main())


def test_two_that_ask_for_the_first_broadcast_at_once_share_the_subscription(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options) as c:
            stream = c.broadcasts()
            asked = [asyncio.ensure_future(stream.__anext__()) for _ in range(3)]
            async with stream:
                for n in range(3):
                    await c.broadcast_send(n)
                assert sorted([broadcast.body for broadcast in await asyncio.gather(*asked)]) == [0, 1, 2]

    run(main())


def test_a_stream_that_is_closed_ends_those_who_wait(memory):
    async def main():
        async with homing.connect(memory) as c:
            stream = c.broadcasts()

            seen: list = []

            async def read():
                async for broadcast in stream:
                    seen.append(broadcast.body)

            # One that was never open.
            await stream.aclose()
            await read()
            stream = c.broadcasts()
            readers = [asyncio.ensure_future(read()) for _ in range(2)]
            async with stream:
                await c.broadcast_send(1)
                while not seen:
                    await asyncio.sleep(0.001)
            # Both wait for the next one.
            await asyncio.gather(*readers)
            await read()
            assert seen == [1]
            with pytest.raises(homing.InvalidStateError, match="was closed"):
                async with stream:
                    pass

    run(main())

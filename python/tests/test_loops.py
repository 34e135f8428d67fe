"""Loops that end with something pending: nothing of them is left, whether they are closed or not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
import warnings
import uuid
import weakref

import pytest

import homing
from homing import blocking
from homing.kiwipy import rmq
from conftest import collect, run

LOOPS = {"asyncio": asyncio.new_event_loop}
try:
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop
except ImportError:
    pass

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# What is pending as a loop ends. Each begins it on the loop, and returns once it is under way.


async def _until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def _subscriber(url, subscriber, c) -> None:
    called = []

    def first(request):
        called.append(request)
        return subscriber()

    await c.add_rpc_subscriber("pending", first)
    # By a thread that is not of this loop, which goes on.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        def send():
            with blocking.connect(url) as other:
                with pytest.raises(homing.Error):
                    other.rpc_send("pending", timeout=0.2)

        await asyncio.get_running_loop().run_in_executor(pool, send)
    assert called


def _of_one_loop():
    """A subscriber's name. One of a loop that has just ended would answer the call of another with an error, whose traceback the log
    keeps."""
    return f"stuck {uuid.uuid4()}"


async def future_of_the_loop(url, c, kept):
    await _subscriber(url, lambda: asyncio.get_running_loop().create_future(), c)


async def future_that_somebody_keeps(url, c, kept):
    def make():
        future = asyncio.get_running_loop().create_future()
        kept.append(future)
        return future

    await _subscriber(url, make, c)


async def future_of_threads(url, c, kept):
    await _subscriber(url, concurrent.futures.Future, c)


async def coroutine(url, c, kept):
    async def forever():
        await asyncio.get_running_loop().create_future()

    await _subscriber(url, forever, c)


async def coroutine_that_calls(url, c, kept):
    stuck = _of_one_loop()
    async def forever():
        await c.rpc_send(stuck, timeout=600)

    await c.add_rpc_subscriber(stuck, lambda request: concurrent.futures.Future())
    await _subscriber(url, forever, c)


async def call(url, c, kept):
    stuck = _of_one_loop()
    await c.add_rpc_subscriber(stuck, lambda request: concurrent.futures.Future())
    kept.append(asyncio.ensure_future(c.rpc_send(stuck, timeout=600)))
    await asyncio.sleep(0.01)
    kept.clear()


async def call_that_nobody_awaits(url, c, kept):
    stuck = _of_one_loop()
    await c.add_rpc_subscriber(stuck, lambda request: concurrent.futures.Future())
    c._core.rpc(stuck, None, 600.0, False).start()


async def stream(url, c, kept):
    broadcasts, events = c.broadcasts(), c.events()
    kept += [asyncio.ensure_future(broadcasts.__anext__()), asyncio.ensure_future(events.__anext__())]
    await asyncio.sleep(0.01)
    kept.clear()


async def next_task(url, c, kept):
    asyncio.ensure_future(c.task_queue("empty").next_task(timeout=600))
    await asyncio.sleep(0.01)


async def reply_of_kiwipy(url, c, kept):
    stuck = _of_one_loop()
    await c.add_rpc_subscriber(stuck, lambda request: concurrent.futures.Future())
    communicator = await rmq.async_connect(url)
    kept.append(await communicator.rpc_send(stuck, 1))
    kept.clear()


PENDING = [
    future_of_the_loop,
    future_that_somebody_keeps,
    future_of_threads,
    coroutine,
    coroutine_that_calls,
    call,
    call_that_nobody_awaits,
    stream,
    next_task,
    reply_of_kiwipy,
]


def _one(new_loop, pending, url, close, kept):
    loop = new_loop()

    async def main():
        c = await homing.connect(url)
        await pending(url, c, kept)
        for task in asyncio.all_tasks():
            # It is given up, as it is meant to be.
            task._log_destroy_pending = False

    loop.run_until_complete(asyncio.wait_for(main(), 60))
    if close:
        loop.close()
    kept.clear()
    return weakref.ref(loop)


@needs_proc
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("new_loop", "close"),
    # uvloop keeps each loop that has run until it is closed, without homing too.
    [*((new_loop, True) for new_loop in LOOPS.values()), (asyncio.new_event_loop, False)],
    ids=[*(f"{name}, closed" for name in LOOPS), "asyncio, not closed"],
)
@pytest.mark.parametrize("pending", PENDING)
def test_nothing_is_left_of_a_loop(new_loop, pending, close, memory):
    _one(new_loop, pending, memory, close, [])
    # The last loop of a thread that nobody closed keeps its bell until there is another one.
    run(asyncio.sleep(0))
    collect()
    before = descriptors()
    loops = [_one(new_loop, pending, memory, close, []) for _ in range(5)]

    async def another():
        await (await homing.connect("memory:")).close()

    until = time.monotonic() + 60
    while True:
        run(another())
        collect()
        left = sum(loop() is not None for loop in loops)
        if left == 0 and descriptors() <= before:
            break
        assert time.monotonic() < until, (left, descriptors() - before)
        time.sleep(0.05)


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
def test_a_loop_that_is_closed_on_another_thread_goes(new_loop, memory):
    """Its thread, which has others to run, keeps nothing of it."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        def one():
            loop = new_loop()

            async def main():
                async with homing.connect(memory) as c:
                    await c.add_rpc_subscriber("x", lambda request: request.body)
                    assert await c.rpc_send("x", 1) == 1

            pool.submit(loop.run_until_complete, main()).result(60)
            loop.close()
            return weakref.ref(loop)

        loops = [one() for _ in range(5)]
        collect()
        assert [loop() for loop in loops] == [None] * 5


def test_a_closed_loop_has_its_own_close_again(memory):
    loop = asyncio.new_event_loop()

    async def main():
        async with homing.connect(memory):
            pass

    loop.run_until_complete(main())
    assert "close" in vars(loop)
    loop.close()
    assert loop.is_closed() and "close" not in vars(loop)
    loop.close()


def test_a_close_that_somebody_else_has_put_there_is_called(memory):
    loop = asyncio.new_event_loop()
    closed = []

    def close():
        closed.append(True)
        type(loop).close(loop)

    loop.close = close

    async def main():
        async with homing.connect(memory):
            pass

    loop.run_until_complete(main())
    loop.close()
    assert closed == [True] and loop.is_closed() and loop.close is close


def test_a_loop_that_nobody_closes_closes_itself(memory):
    """As it does without homing: its warning is the only one."""
    closed = []

    class Loop(asyncio.SelectorEventLoop):
        def close(self):
            closed.append(True)
            super().close()

    def begin():
        loop = Loop()

        async def main():
            async with homing.connect(memory):
                pass

        loop.run_until_complete(main())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        begin()
        collect()
    assert closed == [True]


def test_a_future_that_somebody_ends_on_a_wrong_thread_is_still_found(memory):
    """In asyncio's debug mode its callbacks are lost, and it is looked at all the same."""

    async def main():
        async with homing.connect(memory) as c:
            answers = []

            def answer_later(request):
                answers.append(asyncio.get_running_loop().create_future())
                return answers[-1]

            await c.add_rpc_subscriber("later", answer_later)
            waiting = asyncio.ensure_future(c.rpc_send("later", timeout=60))
            await _until(lambda: answers)
            wrong = threading.Thread(target=lambda: pytest.raises(RuntimeError, answers[0].set_result, 7))
            wrong.start()
            wrong.join()
            del answers[:]
            collect()
            assert await waiting == 7

    run(main())

"""The crash of 2020, replayed: a subscriber answers with a future, and somebody on another loop or thread ends it.

In kiwipy the caller hung and the connection could not be closed. Here the caller gets the outcome, whatever place ends it, in
asyncio's debug mode too, where a call from a wrong thread fails.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
import time
import uuid

import pytest

import homing
from homing import blocking

LIMIT = 60.0
ENDS = ("set_result", "set_exception", "cancel", "drop", "raise", "twice")


class Place:
    """Somewhere that code runs: a thread, and perhaps a loop on it."""

    def __init__(self) -> None:
        self.work: queue.SimpleQueue = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.main)
        self.thread.start()

    def main(self) -> None:
        while (work := self.work.get()) is not None:
            work()

    def do(self, work) -> None:
        self.work.put(work)

    def serve(self, url, subscriber):
        c = blocking.connect(url)
        c.add_rpc_subscriber("subscriber", subscriber)
        return c.close

    def end(self) -> None:
        self.work.put(None)
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()


class Loop(Place):
    def __init__(self, loop) -> None:
        self.loop = loop
        self.problems: list = []
        loop.set_debug(True)
        loop.set_exception_handler(lambda _, context: self.problems.append(context))
        super().__init__()

    def main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def do(self, work) -> None:
        self.loop.call_soon_threadsafe(work)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(LIMIT)

    def serve(self, url, subscriber):
        async def start():
            c = await homing.connect(url)
            await c.add_rpc_subscriber("subscriber", subscriber)
            return c

        c = self.run(start())
        return lambda: self.run(c.close())

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        assert self.problems == []


def _uvloop() -> Place:
    return Loop(pytest.importorskip("uvloop").new_event_loop())


PLACES = {
    "loop": lambda: Loop(asyncio.new_event_loop()),
    "another loop": lambda: Loop(asyncio.new_event_loop()),
    "uvloop": _uvloop,
    "thread": Place,
}


def call(url: str, end: str) -> str:
    """What the caller gets, in words."""
    with blocking.connect(url) as client:
        try:
            answer = client.rpc_send("subscriber", end, timeout=0.5 if end == "drop" else LIMIT)
            return f"answer {answer}"
        except homing.RemoteException as error:
            return f"exception {error.text}"
        except homing.Cancelled:
            return "cancelled"
        except homing.TimeoutError:
            return "timed out"


EXPECTED = {
    "set_result": "answer 42",
    "set_exception": "exception from another thread",
    "cancel": "cancelled",
    "drop": "timed out",
    "raise": "exception in the subscriber",
    "twice": "answer 42",
}


def finish(future, end: str) -> None:
    """Ends the future as nobody should, on whatever thread this is."""
    try:
        if end == "set_result":
            future.set_result(42)
        elif end == "set_exception":
            future.set_exception(ValueError("from another thread"))
        elif end == "cancel":
            future.cancel()
        elif end == "twice":
            future.set_result(42)
            future.set_exception(ValueError("too late"))
    except (asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
        assert end == "twice"
    except RuntimeError as error:
        # asyncio's own check, of a future of asyncio that is ended on a wrong thread. The outcome stands by then.
        assert "Non-thread-safe" in str(error)


@pytest.mark.parametrize("kind", ["asyncio", "concurrent"])
@pytest.mark.parametrize("ended_by", PLACES)
@pytest.mark.parametrize("served_by", PLACES)
def test_the_caller_gets_the_outcome(served_by, ended_by, kind):
    if kind == "asyncio" and served_by == "thread":
        pytest.skip("a thread makes no futures of asyncio")
    url = f"memory:{uuid.uuid4().hex}"
    serves = PLACES[served_by]()
    ends = serves if (served_by, ended_by) == ("loop", "loop") else PLACES[ended_by]()

    def subscriber(request):
        end = request.body
        if kind == "asyncio":
            future = asyncio.get_running_loop().create_future()
        else:
            future = concurrent.futures.Future()
        if end == "raise":
            raise ValueError("in the subscriber")
        if end != "drop":
            ends.do(lambda: finish(future, end))
        return future

    close = serves.serve(url, subscriber)
    try:
        for end in ENDS:
            assert (end, call(url, end)) == (end, EXPECTED[end])
    finally:
        begun = time.monotonic()
        close()
        took = time.monotonic() - begun
        serves.end()
        if ends is not serves:
            ends.end()
    assert took < 30, "close waits for nobody"
    assert not any(thread.name == "homing-subscribers" for thread in threading.enumerate())

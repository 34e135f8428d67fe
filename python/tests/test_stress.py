"""Threads and loops that complete, cancel and drop each other's futures, all at once, for some seconds (ten minutes with
``HOMING_TEST_FULL=1``). Every caller gets an outcome, and no lock of ours and of the interpreter wait for each other: then the
watchdog would end the process with the stacks of all threads.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import faulthandler
import os
import random
import threading
import time
import uuid

import homing
from conftest import LIMIT
from homing import blocking, kiwipy
from homing.kiwipy import rmq

SECONDS = 600.0 if os.environ.get("HOMING_TEST_FULL") == "1" else 5.0


def test_everything_at_once():
    faulthandler.dump_traceback_later(SECONDS + LIMIT, exit=True)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    url = f"memory:{uuid.uuid4().hex}"
    until = time.monotonic() + SECONDS
    outcomes: collections.Counter[str] = collections.Counter()
    failures: list[BaseException] = []
    names = ["loop-0", "loop-1", "thread", "kiwipy"]
    ready = threading.Barrier(6, timeout=LIMIT / 2)
    pool = concurrent.futures.ThreadPoolExecutor(4)

    def answer(chance: random.Random):
        """What a subscriber answers with, ended somewhere, somehow."""
        roll = chance.randrange(8)
        if roll == 0:
            raise ValueError("by the subscriber")
        if roll == 1:
            return "at once"
        future: concurrent.futures.Future = concurrent.futures.Future()
        if roll == 2:
            future.cancel()
        elif roll == 3:
            pool.submit(future.set_exception, ValueError("by a pool"))
        elif roll == 4:
            pool.submit(future.cancel)
        else:
            pool.submit(future.set_result, "by a pool")
        return future

    def note(error: BaseException) -> None:
        known = (homing.RemoteException, homing.Cancelled, homing.TimeoutError, homing.CommunicatorClosed)
        if isinstance(error, (*known, asyncio.TimeoutError, concurrent.futures.CancelledError)):
            outcomes[type(error).__name__] += 1
        else:
            failures.append(error)

    def loop(number: int) -> None:
        chance = random.Random(seed + number)

        async def main():
            async with homing.connect(url) as c:

                async def subscriber(request):
                    if chance.random() < 0.3:
                        await asyncio.sleep(chance.random() / 100)
                    if chance.random() < 0.1:
                        return asyncio.get_running_loop().create_future()
                    return answer(chance)

                await c.add_rpc_subscriber(f"loop-{number}", subscriber)
                ready.wait()

                async def one():
                    call = asyncio.ensure_future(c.rpc_send(chance.choice(names), b"x" * 10, timeout=2))
                    if chance.random() < 0.2:
                        await asyncio.sleep(chance.random() / 100)
                        call.cancel()
                    try:
                        outcomes[str(await asyncio.wait_for(call, LIMIT / 2))] += 1
                    except asyncio.CancelledError:
                        outcomes["given up"] += 1
                    except Exception as error:
                        note(error)

                while time.monotonic() < until and not failures:
                    await asyncio.gather(*(one() for _ in range(20)))
                    await c.broadcast_send(number)
                await asyncio.to_thread(ended.wait)

        asyncio.run(main())

    def thread(c: blocking.Communicator, number: int) -> None:
        chance = random.Random(seed + number)
        ready.wait()
        while time.monotonic() < until and not failures:
            try:
                outcomes[str(c.rpc_send(chance.choice(names), [1], timeout=2))] += 1
            except Exception as error:
                note(error)
            # Something that computes, and holds the interpreter's lock.
            sum(range(chance.randrange(20_000)))

    def kiwi(c: rmq.RmqThreadCommunicator, number: int) -> None:
        chance = random.Random(seed + number)
        ready.wait()
        while time.monotonic() < until and not failures:
            futures = [c.rpc_send(chance.choice(names), {"a": 1}) for _ in range(10)]
            for future in futures:
                try:
                    result = future.result(0.2)
                    while isinstance(result, kiwipy.Future):
                        result = result.result(0.2)
                    outcomes[str(result)] += 1
                except (Exception, concurrent.futures.CancelledError) as error:
                    note(error)

    ended = threading.Event()
    with blocking.connect(url) as c, kiwipy.connect(url) as k:
        got: collections.Counter[str] = collections.Counter()
        c.add_broadcast_subscriber(lambda broadcast: got.update(["blocking"]))
        k.add_broadcast_subscriber(lambda *_: got.update(["kiwipy"]))
        chance = random.Random(seed)
        c.add_rpc_subscriber("thread", lambda request: answer(chance))
        k.add_rpc_subscriber(lambda *_: answer(chance), "kiwipy")
        work = [(loop, (0,)), (loop, (1,)), (thread, (c, 2)), (thread, (c, 3)), (kiwi, (k, 4)), (kiwi, (k, 5))]

        def guarded(run, arguments):
            try:
                run(*arguments)
            except BaseException as error:
                failures.append(error)
                ready.abort()

        threads = [threading.Thread(target=guarded, args=one) for one in work]
        for one in threads:
            one.start()
        for one in threads[2:]:
            one.join(SECONDS + LIMIT)
        ended.set()
        for one in threads[:2]:
            one.join(LIMIT)
        assert failures == []
        assert not any(one.is_alive() for one in threads)
    pool.shutdown()
    print(dict(outcomes), dict(got))
    assert min(outcomes[name] for name in ("at once", "by a pool", "given up", "RemoteException")) > 0, outcomes
    assert got["blocking"] > 0 and got["kiwipy"] > 0

"""A process that forks within a running loop: nothing in the child waits for what only the parent has, and the parent goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

LOOPS = ["asyncio"]
try:
    import uvloop  # noqa: F401

    LOOPS.append("uvloop")
except ImportError:
    pass

COMMON = """
import asyncio, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import homing
from homing import blocking, kiwipy
from homing.kiwipy import rmq
URL = "memory:fork"

def start(main):
    if sys.argv[1] == "uvloop":
        import uvloop
        return uvloop.run(main)
    return asyncio.run(main)

async def ended(child):
    # By looking: a child that closes its loop takes the pipe out of the common epoll by which asyncio wakes its parent from other threads.
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        await asyncio.sleep(0.01)

def well(child):
    # Looks for a minute how a child ends, says so where that is not as it should be, and kills what hangs.
    until = time.monotonic() + 60
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(child, 9)
            os.waitpid(child, 0)
            print("a child hangs", flush=True)
            return False
        time.sleep(0.002)
    if found[1]:
        print("a child failed:", os.waitstatus_to_exitcode(found[1]), flush=True)
    return found[1] == 0

def refused(use):
    try:
        print("not refused:", use(), flush=True)
    except homing.InvalidStateError as error:
        assert "forked" in str(error), error
    except BaseException as error:
        print("not so:", repr(error), flush=True)
        raise

async def refused_later(use):
    try:
        # At once: nothing of the parent's may be waited for.
        print("not refused:", await asyncio.wait_for(use, 20), flush=True)
    except homing.InvalidStateError as error:
        assert "forked" in str(error), error
    except BaseException as error:
        print("not so:", repr(error), flush=True)
        raise

class Inherited:
    '''Everything that a program may have as it forks.'''

    async def begin(self):
        self.c = await homing.connect(URL)
        await self.c.add_rpc_subscriber("echo", lambda request: request.body)
        self.b = blocking.connect("memory:threads")
        self.b.add_rpc_subscriber("echo", lambda request: request.body)
        self.k = rmq.connect("memory:kiwipy")
        self.k.add_rpc_subscriber(lambda _, message: message, "echo")
        # Without a sign that the answer will come, at which the future of the call would end.
        self.stuck, self.over = rmq.connect("memory:kiwipy"), threading.Event()
        self.stuck.add_rpc_subscriber(lambda _, message: self.over.wait(), "never")
        self.a = await rmq.async_connect("memory:loops")

        async def never(_, message):
            await asyncio.get_running_loop().create_future()

        await self.a.add_rpc_subscriber(never, "never")
        await self.c.task_queue("q").task_send(1, no_reply=True)
        self.task = await self.c.task_queue("q").next_task(timeout=30)
        self.broadcasts, self.events = self.c.broadcasts(), self.c.events()
        await self.broadcasts.__aenter__()
        self.read, self.heard = self.b.broadcasts(), self.b.events()
        self.reply = self.k.rpc_send("never", 1)
        self.answer = await self.a.rpc_send("never", 1)
        return self

    def of_loops(self):
        c, a = self.c, self.a
        yield lambda: c.rpc_send("echo", 1)
        yield lambda: c.task_send(1)
        yield lambda: c.task_send(1, no_reply=True)
        yield lambda: c.broadcast_send(1)
        yield lambda: c.add_rpc_subscriber("other", print)
        yield lambda: c.remove_rpc_subscriber("echo")
        yield lambda: c.add_task_subscriber(print)
        yield lambda: c.remove_task_subscriber("x")
        yield lambda: c.add_broadcast_subscriber(print)
        yield lambda: c.remove_broadcast_subscriber("x")
        yield lambda: c.task_queue("q").next_task(timeout=30)
        yield lambda: c.broadcasts().__aenter__()
        yield lambda: self.broadcasts.__anext__()
        yield lambda: self.events.__anext__()
        yield lambda: c.close()
        yield lambda: c.close(drain=1)
        yield lambda: a.rpc_send("echo", 1)
        yield lambda: a.task_send(1)
        yield lambda: a.broadcast_send(1)
        yield lambda: a.add_rpc_subscriber(print, "other")
        yield lambda: a.add_broadcast_subscriber(print)
        yield lambda: a.disconnect()

    def of_threads(self):
        b, k = self.b, self.k
        yield from (self.task.finish, lambda: self.task.fail("x"), self.task.requeue, self.c.events)
        yield lambda: self.c.server_properties
        yield lambda: b.rpc_send("echo", 1)
        yield lambda: b.task_send(1)
        yield lambda: b.broadcast_send(1)
        yield lambda: b.add_rpc_subscriber("other", print)
        yield lambda: b.add_broadcast_subscriber(print)
        yield lambda: b.add_task_subscriber(print)
        yield lambda: next(self.read)
        yield lambda: next(self.heard)
        yield b.close
        yield lambda: k.rpc_send("echo", 1)
        yield lambda: k.task_send(1)
        yield lambda: k.task_send(1, no_reply=True)
        yield lambda: k.broadcast_send(1)
        yield lambda: k.add_rpc_subscriber(print, "other")
        async def coroutine_function(*arguments):
            pass
        yield lambda: k.add_rpc_subscriber(coroutine_function, "another")
        yield k.close
        yield self.reply.result
        yield lambda: self.reply.exception(timeout=30)

    def shown(self):
        assert (self.c.state, self.c.is_closed, self.b.state, self.k.connected) == ("closed", True, "closed", False)
        assert repr(self.c) and repr(self.b) and repr(self.k) and repr(self.a)

    async def goes_on(self):
        assert await self.c.rpc_send("echo", 1, timeout=60) == 1
        assert self.b.rpc_send("echo", 2, timeout=60) == 2
        assert self.k.rpc_send("echo", 3).result(timeout=60) == 3
        assert not self.reply.done() and not self.answer.done()
        await self.c.broadcast_send("after")
        assert (await self.broadcasts.__anext__()).body == "after"
        self.task.finish()
        self.over.set()
        self.stuck.close()
        await self.c.close()
        await self.a.disconnect()
        self.b.close()
        self.k.close()
        print("the parent went on", flush=True)
"""


def program(text: str, loop: str) -> tuple[str, str, int]:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", COMMON + textwrap.dedent(text), loop],
        capture_output=True,
        text=True,
        timeout=110,
    )
    return done.stdout, done.stderr, done.returncode


@pytest.mark.parametrize("loop", LOOPS)
def test_every_use_in_the_child_is_refused_at_once(loop):
    out, err, code = program(
        """
        async def main():
            one = await Inherited().begin()
            child = os.fork()
            if child == 0:
                for use in one.of_threads():
                    refused(use)
                for use in one.of_loops():
                    # On no loop: it raises before it would wait.
                    coroutine = use()
                    try:
                        coroutine.send(None)
                        print("not refused", flush=True)
                    except homing.InvalidStateError as error:
                        assert "forked" in str(error), error
                one.shown()
                raise SystemExit(7)
            print("child", await ended(child))
            await one.goes_on()
        start(main())
        """,
        loop,
    )
    assert (out, code) == ("child 7\nthe parent went on\n", 0), (out, err)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_new_loop_in_the_child_gets_the_error_and_may_connect_anew(loop):
    out, err, code = program(
        """
        async def anew(one):
            for use in one.of_loops():
                await refused_later(use())
            for use in one.of_threads():
                refused(use)
            async with homing.connect("memory:new") as c:
                await c.add_rpc_subscriber("double", lambda request: 2 * request.body)
                assert await c.rpc_send("double", 21, timeout=60) == 42

        def in_child(one):
            # No loop runs in the child, as asyncio has it.
            start(anew(one))
            with blocking.connect("memory:threads-new") as b:
                b.add_rpc_subscriber("double", lambda request: 2 * request.body)
                assert b.rpc_send("double", 4, timeout=60) == 8
            print("anew", flush=True)

        async def main():
            one = await Inherited().begin()
            child = os.fork()
            if child == 0:
                in_child(one)
                raise SystemExit(0)
            print("child", await ended(child))
            await one.goes_on()
        start(main())
        """,
        loop,
    )
    assert (out, code) == ("anew\nchild 0\nthe parent went on\n", 0), (out, err)


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_awaited_as_the_process_forks_ends_in_the_child(loop):
    """Its loop goes on for a moment there, to end; and it does not do the parent's work meanwhile."""
    out, err, code = program(
        """
        async def main():
            one = await Inherited().begin()
            done = []
            await one.c.add_rpc_subscriber("work", lambda request: done.append(os.getpid()))
            await one.c.add_rpc_subscriber("never", lambda request: asyncio.get_running_loop().create_future())
            calls = [asyncio.ensure_future(one.c.rpc_send("never", timeout=600)) for _ in range(3)]
            calls.append(asyncio.ensure_future(one.broadcasts.__anext__()))
            calls.append(asyncio.ensure_future(one.events.__anext__()))
            calls.append(one.answer)
            await asyncio.sleep(0.1)
            work = asyncio.ensure_future(one.c.rpc_send("work", timeout=60))
            # The call of the subscriber is scheduled, or on its way.
            for _ in range(3):
                await asyncio.sleep(0)
            child = os.fork()
            if child == 0:
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(outcome, homing.InvalidStateError) for outcome in outcomes), outcomes
                assert all("forked" in str(outcome) for outcome in outcomes)
                assert os.getpid() not in done
                print("ended", flush=True)
                return
            assert await ended(child) == 0
            await work
            assert done == [os.getpid()]
            assert not any(call.done() for call in calls)
            for call in calls[:-1]:
                call.cancel()
            await asyncio.wait(calls[:-1])
            one.broadcasts = one.c.broadcasts()
            await one.broadcasts.__aenter__()
            await one.goes_on()
        start(main())
        """,
        loop,
    )
    assert (out, code) == ("ended\nthe parent went on\n", 0), (out, err)


@pytest.mark.parametrize("loop", LOOPS)
def test_blocks_are_left_in_the_child_without_an_error(loop):
    out, err, code = program(
        """
        async def main():
            with blocking.connect("memory:b") as b, rmq.connect("memory:k") as k:
                async with homing.connect(URL) as c, await rmq.async_connect("memory:a") as a, c.broadcasts() as broadcasts:
                    await c.add_rpc_subscriber("echo", lambda request: request.body)
                    child = os.fork()
                    if child:
                        print("child", await ended(child))
                        print(await c.rpc_send("echo", 1, timeout=60), flush=True)
        start(main())
        """,
        loop,
    )
    assert (out, code) == ("child 0\n1\n", 0), (out, err)
    # Not what is logged where the machine is busy: that a wake took long.
    said = [line for line in err.splitlines() if "the wake hook of a foreign loop blocked" not in line]
    assert said == []


def test_a_child_that_goes_on_with_the_loop_does_not_take_the_parents_wakes():
    """The two have one epoll, and the bell that it watches."""
    out, err, code = program(
        """
        async def main():
            c = await homing.connect(URL)
            server = blocking.connect(URL)
            server.add_rpc_subscriber("echo", lambda request: request.body)
            read, write = os.pipe()
            loop = asyncio.get_running_loop()
            child = os.fork()
            if child == 0:
                os.close(write)
                print("begins", flush=True)
                # Until the parent is through: on its loop, which rings. In the child no loop runs, as asyncio has it.
                while not _closed(read):
                    turned = loop.create_future()
                    loop.call_later(0.001, turned.set_result, None)
                    await turned
                os._exit(0)
            os.close(read)
            for n in range(300):
                assert await asyncio.wait_for(c.rpc_send("echo", n, timeout=60), 60) == n
            os.close(write)
            os.waitpid(child, 0)
            print("done", flush=True)
            os._exit(0)

        def _closed(read):
            import select
            return bool(select.select([read], [], [], 0)[0])
        start(main())
        """,
        "asyncio",
    )
    assert (out, code) == ("begins\ndone\n", 0), (out, err)


def test_a_child_has_named_brokers_of_its_own():
    """That of its parent is not there: what nobody serves is refused at once, and does not wait for who is in another process."""
    out, err, code = program(
        """
        def served(name, answer):
            b = blocking.connect(URL)
            b.add_rpc_subscriber(name, lambda request: answer)
            return b

        parent = served("parent", 1)
        child = os.fork()
        if child == 0:
            own = served("child", 2)
            other = blocking.connect(URL)
            assert other.rpc_send("child", timeout=60) == 2
            grandchild = os.fork()
            if grandchild == 0:
                owns = served("grandchild", 3), blocking.connect(URL)
                assert owns[1].rpc_send("grandchild", timeout=60) == 3
                names = ("parent", "child")
            else:
                assert os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0
                names, owns = ("parent", "grandchild"), (own, other)
            for name in names:
                try:
                    print("served:", owns[1].rpc_send(name, timeout=60))
                except homing.UnroutableError:
                    print(name, flush=True)
            for one in owns:
                one.close()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert parent.rpc_send("parent", timeout=60) == 1
        """,
        "asyncio",
    )
    assert (out.splitlines(), code) == (["parent", "child", "parent", "grandchild"], 0), (out, err)


def test_a_child_connects_whatever_its_parents_threads_do_at_the_fork():
    """They hold locks then, which nobody opens in the child."""
    out, err, code = program(
        """
        shared = blocking.connect(URL)
        shared.add_rpc_subscriber("echo", lambda request: request.body)
        over = threading.Event()

        def calls():
            while not over.is_set():
                shared.rpc_send("echo", 1)

        def connects():
            while not over.is_set():
                blocking.connect(URL).close()

        threads = [threading.Thread(target=target) for target in (calls, connects)]
        for thread in threads:
            thread.start()
        for n in range(40):
            child = os.fork()
            if child == 0:
                with blocking.connect(URL) as own, blocking.connect("memory:other") as other:
                    other.add_rpc_subscriber("echo", lambda request: request.body)
                    assert other.rpc_send("echo", 2) == 2
                os._exit(0)
            if not well(child):
                break
        over.set()
        for thread in threads:
            thread.join()
        shared.close()
        """,
        "asyncio",
    )
    assert (out, code) == ("", 0), (out, err)


def test_a_child_waits_in_locks_of_its_own():
    """Threads of the parent wait at the fork. The child's threads are given their memory, and wait there for something else."""
    out, err, code = program(
        """
        from concurrent.futures import Future
        never = []

        def silent(request):
            never.append(Future())
            return never[-1]

        shared = blocking.connect(URL)
        shared.add_rpc_subscriber("silent", silent)
        for _ in range(60):
            threading.Thread(target=lambda: shared.rpc_send("silent", 1, timeout=600), daemon=True).start()
        while len(never) < 60:
            time.sleep(0.01)

        def calls():
            with blocking.connect("memory:other") as one:
                for n in range(20):
                    assert one.rpc_send("echo", n, timeout=60) == n

        for n in range(20):
            child = os.fork()
            if child == 0:
                with blocking.connect("memory:other") as one:
                    one.add_rpc_subscriber("echo", lambda request: request.body)
                    threads = [threading.Thread(target=calls) for _ in range(8)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                os._exit(0)
            if not well(child):
                break
        os._exit(0)
        """,
        "asyncio",
    )
    assert (out, code) == ("", 0), (out, err)

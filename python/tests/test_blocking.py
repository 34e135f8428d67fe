"""The communicator of threads: each call waits, other threads run meanwhile, and Ctrl-C ends the wait."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import homing
from homing import blocking


def test_calls_tasks_and_broadcasts(broker):
    url, options = broker
    with blocking.connect(url, **options) as c:
        threads = set()

        def double(request):
            threads.add(threading.current_thread().name)
            return 2 * request.body

        assert c.add_rpc_subscriber("double", double) == "double"
        assert c.rpc_send("double", 21, timeout=20) == 42
        c.add_task_subscriber(lambda task: [task.body])
        assert c.task_send("x") == ["x"]
        got = []
        done = threading.Event()
        identifier = c.add_broadcast_subscriber(lambda b: (got.append((b.subject, b.body)), done.set()), subject="a.*")
        c.broadcast_send(1, subject="b")
        c.broadcast_send(2, subject="a.b")
        assert done.wait(30)
        assert got == [("a.b", 2)] and threads == {"homing-subscribers"}
        c.remove_broadcast_subscriber(identifier)
        c.remove_rpc_subscriber("double")
        with pytest.raises(homing.UnroutableError):
            c.rpc_send("double", 1)
    assert c.is_closed
    with pytest.raises(homing.CommunicatorClosed):
        c.rpc_send("double", 1)
    with pytest.raises(homing.CommunicatorClosed):
        c.add_rpc_subscriber("x", print)
    assert not any(thread.name == "homing-subscribers" for thread in threading.enumerate())


def test_a_subscriber_that_waits_lets_the_others_go_on(memory):
    with blocking.connect(memory) as c:

        def factorial(request):
            n = request.body
            return n * c.rpc_send("factorial", n - 1) if n > 1 else 1

        c.add_rpc_subscriber("factorial", factorial)
        assert c.rpc_send("factorial", 20) == 2432902008176640000


def test_many_threads_call_at_once(broker):
    url, options = broker
    with blocking.connect(url, **options) as c:
        c.add_rpc_subscriber("echo", lambda request: request.body)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            assert list(pool.map(lambda n: c.rpc_send("echo", n), range(300))) == list(range(300))


def test_a_call_has_a_deadline(memory):
    with blocking.connect(memory) as c:
        c.add_rpc_subscriber("never", lambda request: concurrent.futures.Future())
        with pytest.raises(homing.TimeoutError):
            c.rpc_send("never", timeout=0.05)


def test_other_threads_run_while_one_waits(memory):
    with blocking.connect(memory) as c:
        c.add_rpc_subscriber("never", lambda request: concurrent.futures.Future())
        ended = []

        def wait():
            try:
                c.rpc_send("never", timeout=20)
            except homing.CommunicatorClosed:
                ended.append(True)

        thread = threading.Thread(target=wait)
        thread.start()
        count = 0
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            count += 1
        assert count > 100 and thread.is_alive()
        c.close()
        thread.join(30)
        assert ended == [True]


def test_a_coroutine_function_is_refused(memory):
    async def subscriber(request):
        return 1

    with blocking.connect(memory) as c:
        for add in (lambda: c.add_rpc_subscriber("x", subscriber), lambda: c.add_task_subscriber(subscriber)):
            with pytest.raises(TypeError, match="coroutine function"):
                add()
        # One that cannot be known before it is called.
        c.add_rpc_subscriber("x", lambda request: subscriber(request))
        with pytest.raises(homing.RemoteException, match="no event loop"):
            c.rpc_send("x")


def test_a_subscriber_that_exits_ends_itself_alone(memory):
    with blocking.connect(memory) as c:

        def ends(request):
            raise SystemExit(3)

        c.add_rpc_subscriber("ends", ends)
        c.add_rpc_subscriber("echo", lambda request: request.body)
        for _ in range(3):
            with pytest.raises(homing.RemoteException, match="3"):
                c.rpc_send("ends")
        assert c.rpc_send("echo", 1) == 1


def test_a_subscriber_may_close(memory):
    c = blocking.connect(memory)
    c.add_rpc_subscriber("close", lambda request: c.close() and None)
    with pytest.raises((homing.RemoteException, homing.CommunicatorClosed)):
        c.rpc_send("close")
    c.close()
    assert c.is_closed
    assert not any(thread.name == "homing-subscribers" for thread in threading.enumerate())


def test_streams(memory):
    with blocking.connect(memory) as c:
        events = c.events()
        with c.broadcasts() as broadcasts:
            c.broadcast_send(1)
            assert next(broadcasts).body == 1
        c.task_send("a", no_reply=True)
        c.task_send("b", no_reply=True)
        bodies = []
        for task in c.task_queue():
            bodies.append(task.body)
            task.finish()
        assert bodies == ["a", "b"]
    assert [event.name for event in events][-1] == "closed"


def _run(program: str, *, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_ctrl_c_ends_a_wait():
    program = """
        import signal, sys, threading, time
        from concurrent.futures import Future
        from homing import blocking
        c = blocking.connect("memory:")
        c.add_rpc_subscriber("never", lambda request: Future())
        print("waits", flush=True)
        begun = time.monotonic()
        try:
            c.rpc_send("never", timeout=60)
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - begun < 50)
        print(c.rpc_send("echo", 1) if c.add_rpc_subscriber("echo", lambda r: r.body) else None)
        c.close()
    """
    child = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "waits\n"
    time.sleep(0.3)
    os.kill(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)
    # Nobody answers the call that was interrupted; that is logged if its subscriber's thread ends before the process does.
    err = "".join(line for line in err.splitlines(True) if "identifier=never" not in line)
    assert (out, err, child.returncode) == ("interrupted True\n1\n", "", 0)


def test_a_stream_that_is_closed_ends_the_thread_that_waits(memory):
    with blocking.connect(memory) as c:
        stream = c.broadcasts()
        read: list = []
        first = threading.Event()

        def reads():
            for broadcast in stream:
                read.append(broadcast.body)
                first.set()
            read.append("ended")

        thread = threading.Thread(target=reads, daemon=True)
        thread.start()
        c.broadcast_send(1)
        assert first.wait(60)
        stream.close()
        thread.join(60)
        assert read == [1, "ended"] and list(stream) == []

"""How things end: loops, threads, communicators, the interpreter, and processes that were forked."""

from __future__ import annotations

import asyncio
import gc
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
import weakref

import pytest

import homing
from homing import blocking
from conftest import LIMIT, collect, run


def program(text: str, *arguments: str, timeout: float = 90.0) -> tuple[str, str, int]:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error::ResourceWarning", "-c", textwrap.dedent(text), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done.stdout, done.stderr, done.returncode


def test_a_loop_that_closes_with_calls_open(memory):
    """Its subscribers go with it: who calls them learns that, and does not wait."""
    served, calls = asyncio.new_event_loop(), asyncio.new_event_loop()
    server = served.run_until_complete(_connect(memory))
    client = calls.run_until_complete(_connect(memory))

    seen = []

    def stuck(request):
        seen.append(request)
        return asyncio.get_running_loop().create_future()

    async def serve():
        await server.add_rpc_subscriber("stuck", stuck)

    async def call():
        return asyncio.ensure_future(client.rpc_send("stuck", timeout=600))

    served.run_until_complete(serve())
    waiting = calls.run_until_complete(call())
    own = served.run_until_complete(call())
    while len(seen) < 2:
        served.run_until_complete(asyncio.sleep(0.01))
        calls.run_until_complete(asyncio.sleep(0.01))
    assert not waiting.done() and not own.done()
    # As asyncio.run does; `own` is still open then.
    served.close()
    with pytest.raises(homing.RemoteException, match="ended"):
        calls.run_until_complete(asyncio.wait_for(waiting, 60))

    async def again():
        with pytest.raises(homing.UnroutableError):
            await client.rpc_send("stuck", timeout=60)
        await client.close()
        await server.close()

    calls.run_until_complete(again())
    calls.close()
    # It was never awaited to its end, and its loop is gone.
    own._log_destroy_pending = False


def test_a_loop_can_be_closed_twice_and_goes(memory):
    loop = asyncio.new_event_loop()

    async def main():
        async with homing.connect(memory) as c:
            await c.add_rpc_subscriber("x", lambda request: request.body)
            with pytest.raises(RuntimeError, match="running"):
                loop.close()
            assert await c.rpc_send("x", 1) == 1

    loop.run_until_complete(main())
    loop.close()
    loop.close()
    gone = weakref.ref(loop)
    del loop
    collect()
    assert gone() is None


def test_a_loop_that_nobody_closes_goes(memory):
    loop = asyncio.new_event_loop()
    c = loop.run_until_complete(asyncio.wait_for(_connect(memory), 30))
    gone = weakref.ref(loop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del loop
        collect()
        assert gone() is None
    run(c.close())


async def _connect(url):
    return await homing.connect(url)


def test_one_communicator_serves_several_loops(memory):
    c = run(_connect(memory))
    names = ("a", "b", "c")
    served, finished, errors = set(), set(), []

    def serve(name):
        async def main():
            thread = threading.get_ident()

            async def who(request):
                assert threading.get_ident() == thread
                return name

            await c.add_rpc_subscriber(name, who)
            served.add(name)
            while len(served) < len(names):
                await asyncio.sleep(0.01)
            for _ in range(20):
                answers = await asyncio.gather(*(c.rpc_send(other, timeout=50) for other in names))
                assert answers == list(names)
                assert threading.get_ident() == thread
            finished.add(name)
            # The others may still call this one.
            while len(finished) < len(names) and not errors:
                await asyncio.sleep(0.01)

        try:
            run(main())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=serve, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert errors == [] and finished == set(names)
    run(c.close())


def test_a_loop_that_blocks_stops_no_other(memory):
    c = run(_connect(memory))
    block, blocked = threading.Event(), threading.Event()

    def blocks():
        async def main():
            await c.add_rpc_subscriber("blocked", lambda request: request.body)
            blocked.set()
            block.wait(60)
            return await c.rpc_send("blocked", "after", timeout=30)

        results.append(run(main(), debug=False))

    results: list = []
    thread = threading.Thread(target=blocks)
    thread.start()
    assert blocked.wait(60)

    async def others():
        waits = asyncio.ensure_future(c.rpc_send("blocked", 1, timeout=60))
        await c.add_rpc_subscriber("free", lambda request: request.body)
        assert [await c.rpc_send("free", n, timeout=30) for n in range(50)] == list(range(50))
        assert not waits.done()
        block.set()
        assert await waits == 1

    run(others())
    thread.join(60)
    assert results == ["after"]
    run(c.close())


def test_an_unclosed_communicator_warns_and_closes(memory):
    async def main():
        keeper = await homing.connect(memory)
        c = await homing.connect(memory)
        await c.add_rpc_subscriber("x", lambda request, c=c: c.state)
        assert await keeper.rpc_send("x") == "connected"
        gone = weakref.ref(c)
        with pytest.warns(ResourceWarning, match="not closed"):
            # Its subscriber refers to it, which the garbage collector sees through.
            del c
            collect()
        assert gone() is None
        until = time.monotonic() + 30
        while True:
            # The warning knew it, and may have kept it until now.
            collect()
            try:
                await keeper.rpc_send("x", timeout=5)
            except (homing.UnroutableError, homing.RemoteException):
                break
            assert time.monotonic() < until, "it is closed"
        await keeper.close()

    run(main())


def test_a_blocking_communicator_warns_and_ends_its_thread(memory):
    c = blocking.connect(memory)
    c.add_rpc_subscriber("x", lambda request, c=c: c.state)
    with pytest.warns(ResourceWarning, match="not closed"):
        del c
        collect()
    until = time.monotonic() + 30
    while any(thread.name == "homing-subscribers" for thread in threading.enumerate()):
        assert time.monotonic() < until
        collect()
        time.sleep(0.01)


def test_system_exit_of_a_subscriber_ends_the_loop():
    out, err, code = program(
        """
        import asyncio, homing, sys
        async def main():
            async with homing.connect("memory:") as c:
                def ends(request):
                    raise SystemExit(7)
                await c.add_rpc_subscriber("ends", ends)
                await c.rpc_send("ends")
        try:
            asyncio.run(main())
        finally:
            print("ended")
        """
    )
    assert (out, code) == ("ended\n", 7), err


@pytest.mark.parametrize("daemon", ["True", "False"])
def test_the_interpreter_ends_with_calls_under_way(daemon):
    text = """
        import sys, threading, time
        from homing import blocking
        c = blocking.connect("memory:")
        c.add_rpc_subscriber("echo", lambda request: request.body)
        stop = False
        def calls():
            try:
                while not stop:
                    c.rpc_send("echo", "x")
            except Exception as error:
                assert type(error).__name__ in ("CommunicatorClosed", "RemoteException", "UnroutableError"), error
        daemon = sys.argv[1] == "True"
        threads = [threading.Thread(target=calls, daemon=daemon) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        stop = not daemon
        print("ends", flush=True)
    """
    for _ in range(5):
        assert program(text, daemon) == ("ends\n", "", 0)


def test_the_interpreter_ends_with_a_loop_in_a_daemon_thread():
    text = """
        import asyncio, threading, time, homing
        begun = threading.Event()
        async def main():
            c = await homing.connect("memory:")
            await c.add_rpc_subscriber("echo", lambda request: request.body)
            begun.set()
            while True:
                await c.rpc_send("echo", 1)
        def run():
            try:
                asyncio.run(main())
            except homing.Error:
                pass
        threading.Thread(target=run, daemon=True).start()
        begun.wait()
        time.sleep(0.1)
        print("ends", flush=True)
    """
    for _ in range(5):
        out, err, code = program(text)
        assert (out, code) == ("ends\n", 0), err


# An end of the interpreter that lasts until a thread which is still inside would have been ended. The hook waits as long as it takes.
LONG_END = """
import sys, threading, time, types
import homing
from homing import _native, blocking
class Last:
    def __del__(self, sleep=time.sleep):
        sleep(1)
# Of a module that no frame of a thread keeps.
sys.modules["last"] = types.ModuleType("last")
sys.modules["last"].last = Last()
end_waiters = _native.end_waiters
_native.end_waiters = lambda seconds: end_waiters(60.0)
"""


def test_the_interpreter_ends_while_a_thread_makes_an_event():
    """A daemon thread has the event of the close, and runs code of Python's to make an object of it."""
    text = """
        import homing._values
        Event = homing._values.Event
        reads = threading.Event()
        def slow(*arguments):
            time.sleep(0.3)
            return Event(*arguments)
        homing._values.Event = slow
        c = blocking.connect("memory:")
        events = c.events()
        def read():
            reads.set()
            next(events)
        threading.Thread(target=read, daemon=True).start()
        reads.wait()
        print("ends", flush=True)
    """
    assert program(LONG_END + textwrap.dedent(text)) == ("ends\n", "", 0)


def test_the_interpreter_ends_while_a_loop_is_in_a_subscriber():
    text = """
        import asyncio
        called = threading.Event()
        def slow(request):
            called.set()
            time.sleep(0.3)
        async def main():
            c = await homing.connect("memory:")
            await c.add_rpc_subscriber("slow", slow)
            await c.rpc_send("slow")
        def run():
            try:
                asyncio.run(main())
            except homing.Error:
                pass
        threading.Thread(target=run, daemon=True).start()
        called.wait()
        print("ends", flush=True)
    """
    out, err, code = program(LONG_END + textwrap.dedent(text))
    assert (out, code) == ("ends\n", 0), err


@pytest.mark.parametrize("recipient", ["'never'", "uuid.uuid4()"])
def test_the_interpreter_ends_beside_threads_that_call_again_whatever_they_are_told(recipient):
    """One of them is always about to make its exception, or its identifier, which runs code of Python's."""
    text = f"""
        import threading, time, uuid
        from homing import blocking
        c = blocking.connect("memory:")
        c.add_rpc_subscriber("never", lambda request: time.sleep(30))
        def calls():
            while True:
                try:
                    c.rpc_send({recipient})
                except BaseException:
                    pass
        for _ in range(8):
            threading.Thread(target=calls, daemon=True).start()
        time.sleep(0.3)
        print("ends", flush=True)
    """
    for _ in range(3):
        assert program(text) == ("ends\n", "", 0)


@pytest.mark.parametrize(
    "place",
    ["loop", "thread", "wait", "decoder", "done-callback", "log", "body", "answer", "name", "collected"],
)
def test_the_interpreter_ends_beside_a_thread_that_never_comes_out(place):
    """Code of the program's, within a call of ours, takes the interpreter again and again while it ends."""
    text = """
        import asyncio, datetime, logging
        called = threading.Event()
        def never(*arguments):
            called.set()
            while True:
                try:
                    time.sleep(0.001)
                except BaseException:
                    pass
        _native.end_waiters = lambda seconds: end_waiters(0.05)

        def loop():
            async def main():
                c = await homing.connect("memory:")
                await c.add_rpc_subscriber("never", never)
                await c.rpc_send("never")
            asyncio.run(main())

        def thread():
            c = blocking.connect("memory:")
            c.add_rpc_subscriber("never", never)
            c.rpc_send("never")

        def wait():
            # A subscriber that waits itself, and is another's place meanwhile.
            c = blocking.connect("memory:")
            c.add_rpc_subscriber("never", never)
            c.add_rpc_subscriber("waits", lambda request: c.rpc_send("never"))
            c.rpc_send("waits")

        def decoder():
            c = blocking.connect("memory:", encoder=lambda value: b"x", decoder=never)
            c.add_rpc_subscriber("x", lambda request: request.body)
            c.rpc_send("x")

        def done_callback():
            import homing.kiwipy
            c = homing.kiwipy.connect("memory:")
            c.add_rpc_subscriber(lambda c, body: body, "x")
            c.rpc_send("x", 1).add_done_callback(never)

        def body():
            class Zone(datetime.tzinfo):
                utcoffset = never
            c = blocking.connect("memory:")
            c.rpc_send("x", datetime.datetime(2024, 1, 1, tzinfo=Zone()))

        def answer():
            class Answer:
                __getattr__ = never
            c = blocking.connect("memory:")
            c.add_rpc_subscriber("x", lambda request: Answer())
            c.rpc_send("x")

        def name():
            class Name:
                __index__ = __str__ = never
            blocking.connect("memory:").rpc_send("x", timeout=Name())

        def collected():
            class Kept:
                __del__ = never
            c = blocking.connect("memory:")
            kept = [Kept()]
            def subscriber(request, kept=kept):
                return 1
            c.add_rpc_subscriber("x", subscriber)
            del subscriber, kept
            c.remove_rpc_subscriber("x")

        def log():
            class Handler(logging.Handler):
                handle = never
            logging.getLogger("homing").addHandler(Handler())
            async def subscribe(c):
                await c.add_rpc_subscriber("x", print)
            async def connect():
                return await homing.connect("memory:")
            gone = asyncio.new_event_loop()
            c = gone.run_until_complete(connect())
            gone.run_until_complete(subscribe(c))
            gone.close()
            async def main():
                await homing.connect("memory:")
                await asyncio.sleep(60)
            asyncio.run(main())

        target = locals()[sys.argv[1].replace("-", "_")]
        threading.Thread(target=target, daemon=True).start()
        assert called.wait(60)
        print("ends", flush=True)
    """
    out, err, code = program(LONG_END + textwrap.dedent(text), place)
    assert (out, code) == ("ends\n", 0), err


def test_a_thread_that_comes_after_the_end_is_refused():
    """In a hook that was there before homing's, and so runs after it."""
    out, err, code = program(
        """
        import asyncio, atexit, threading
        late = threading.Event()
        @atexit.register
        def after():
            loop.call_soon_threadsafe(loop.stop)
            late.set()
            for thread in threads:
                thread.join()
        import homing
        from homing import blocking
        c = blocking.connect("memory:")
        c.add_rpc_subscriber("echo", lambda request: request.body)
        assert c.rpc_send("echo", 1) == 1
        def call():
            late.wait()
            for _ in range(2):
                try:
                    c.rpc_send("echo", 1)
                except homing.CommunicatorClosed as error:
                    print(error, flush=True)
        loop = asyncio.new_event_loop()
        runs = threading.Event()
        async def main():
            await homing.connect("memory:")
            runs.set()
        def turn():
            loop.create_task(main())
            loop.run_forever()
            loop.close()
        threads = [threading.Thread(target=target, daemon=True) for target in (call, turn)]
        for thread in threads:
            thread.start()
        runs.wait()
        """
    )
    assert (out, code) == (2 * "the interpreter is ending\n", 0), err


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork")
def test_a_forked_child_cannot_read_on_nor_settle_a_task():
    out, err, code = program(
        """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import homing
        from homing import blocking
        c = blocking.connect("memory:fork")
        c.task_queue("tasks").task_send("x", no_reply=True)
        task = c.task_queue("tasks").next_task(timeout=60)
        broadcasts, events = c.broadcasts(), c.events()
        child = os.fork()
        if child == 0:
            uses = (
                lambda: next(broadcasts),
                lambda: next(events),
                lambda: task.finish(1),
                lambda: task.fail("no"),
                task.requeue,
            )
            for use in uses:
                try:
                    print("not refused:", use(), flush=True)
                except homing.InvalidStateError as error:
                    assert "forked" in str(error), error
            # The whole end of the interpreter, with its hooks.
            raise SystemExit(7)
        _, status = os.waitpid(child, 0)
        print("child", os.waitstatus_to_exitcode(status))
        task.finish(1)
        c.broadcast_send("y")
        print(next(broadcasts).body)
        c.close()
        """
    )
    assert (out, err, code) == ("child 7\ny\n", "", 0)


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork")
def test_a_forked_child_gets_an_error_and_the_parent_goes_on():
    out, err, code = program(
        """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import homing
        from homing import blocking
        c = blocking.connect("memory:fork")
        c.add_rpc_subscriber("echo", lambda request: request.body)
        assert c.rpc_send("echo", 1) == 1
        child = os.fork()
        if child == 0:
            try:
                c.rpc_send("echo", 2)
                code = 1
            except homing.InvalidStateError as error:
                code = 0 if "forked" in str(error) else 2
            except BaseException as error:
                print(repr(error), flush=True)
                code = 3
            # The whole end of the interpreter, with its hooks.
            raise SystemExit(code)
        _, status = os.waitpid(child, 0)
        print("child", os.waitstatus_to_exitcode(status))
        print(c.rpc_send("echo", 3))
        c.close()
        """
    )
    assert (out, code) == ("child 0\n3\n", 0), err


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing_works(method):
    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder, "script.py")
        script.write_text(textwrap.dedent(MULTIPROCESSING))
        done = subprocess.run([sys.executable, script, method], capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.returncode) == ("[0, 2, 4, 6]\n", 0), done.stderr


MULTIPROCESSING = """
import multiprocessing, sys
from homing import blocking
def work(n):
    with blocking.connect("memory:") as c:
        c.add_rpc_subscriber("double", lambda request: 2 * request.body)
        return c.rpc_send("double", n)
if __name__ == "__main__":
    c = blocking.connect("memory:")
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(pool.map(work, range(4)))
    c.close()
"""


def test_a_sub_interpreter_is_refused():
    try:
        import _interpreters as interpreters
    except ImportError:
        interpreters = pytest.importorskip("_xxsubinterpreters")
    del interpreters
    out, err, code = program(
        """
        import os, sys
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        import homing
        inner = '''
        import sys
        sys.path[:] = %r
        try:
            import homing
        except ImportError as error:
            assert "sub-interpreter" in str(error) or "subinterpreters" in str(error), error
        else:
            raise SystemError("it was imported")
        ''' % (sys.path,)
        import textwrap
        i = interpreters.create()
        interpreters.run_string(i, textwrap.dedent(inner))
        print("refused")
        """
    )
    assert (out, code) == ("refused\n", 0), err


def test_what_is_left_after_thousands_of_calls(memory):
    """Nothing that Python counts."""

    async def main():
        async with homing.connect(memory) as c:
            await c.add_rpc_subscriber("echo", lambda request: request.body)

            async def calls(count):
                for _ in range(count):
                    await asyncio.gather(*(c.rpc_send("echo", n) for n in range(100)))

            await calls(3)
            collect()
            before = len(gc.get_objects())
            await calls(30)
            collect()
            assert len(gc.get_objects()) - before < 500

    run(main(), debug=False)


def test_what_is_left_after_many_communicators():
    import os

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    async def one():
        async with homing.connect("memory:") as c:
            await c.add_rpc_subscriber("x", lambda request: c.state)
            await c.rpc_send("x")

    def many(count):
        for _ in range(count):
            run(one())
            with blocking.connect("memory:") as c:
                c.add_rpc_subscriber("x", lambda request: 1)
                c.rpc_send("x")

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc")
    many(3)
    collect()
    before = (threading.active_count(), descriptors())
    many(20)
    until = time.monotonic() + 30
    while (threading.active_count(), descriptors()) > before:
        assert time.monotonic() < until, (threading.active_count(), descriptors(), before)
        collect()
        time.sleep(0.05)


def test_what_homing_logs_comes_by_logging(memory, caplog):
    """A thread of homing's own logs it, which knows no Python. It is handed over on a loop, which is woken for it."""
    ended = asyncio.new_event_loop()

    async def subscribe(c):
        await c.add_rpc_subscriber("on the loop that ends", lambda request: None)

    async def main():
        async with homing.connect(memory) as c:
            one = threading.Thread(target=lambda: (ended.run_until_complete(subscribe(c)), ended.close()))
            one.start()
            while one.is_alive():
                await asyncio.sleep(0.01)
            until = time.monotonic() + 60
            while not any("its home has ended" in record.getMessage() for record in caplog.records):
                assert time.monotonic() < until, [record.getMessage() for record in caplog.records]
                await asyncio.sleep(0.01)
            # By one of the two loops, whichever turned first.
            assert {record.thread for record in caplog.records} <= {threading.get_ident(), one.ident}

    run(main(), debug=False)
    assert {record.name for record in caplog.records} <= {"homing", "asyncio"}


def test_an_exception_of_a_subscriber_is_logged_once_with_its_traceback(memory, caplog):
    async def main():
        async with homing.connect(memory) as c:

            def broken(request):
                raise ValueError("it broke")

            await c.add_rpc_subscriber("broken", broken)
            with pytest.raises(homing.RemoteException):
                await c.rpc_send("broken")
            await asyncio.sleep(0.1)

    run(main())
    logged = [record for record in caplog.records if record.name == "homing"]
    assert ["it broke" in record.getMessage() for record in logged] == [True]
    assert logged[0].exc_info is not None and logged[0].exc_info[0] is ValueError


@pytest.mark.parametrize(
    "opened",
    [
        'c = blocking.connect("memory:")',
        'c = blocking.connect("memory:"); c.add_rpc_subscriber("x", print)',
        'c = loop.run_until_complete(awaited(homing.connect("memory:")))',
        'c = kiwipy.connect("memory:"); c.add_rpc_subscriber(print, "x")',
        'c = loop.run_until_complete(rmq.async_connect("memory:"))',
    ],
)
def test_a_ctrl_c_that_nobody_catches_ends_the_program_by_the_signal_whatever_is_open(opened):
    """As Python has it: a shell that waits for the program knows by this to stop as well."""
    out, err, code = program(
        f"""
        import asyncio, atexit, signal, sys
        # Before homing's own, and so it is called after it.
        atexit.register(lambda: print("imported for it:", [name for name in sys.modules if name == "homing._values"]))
        import homing
        from homing import blocking, kiwipy
        from homing.kiwipy import rmq
        async def awaited(connecting):
            return await connecting
        loop = asyncio.new_event_loop()
        {opened}
        signal.raise_signal(signal.SIGINT)
        """
    )
    assert "KeyboardInterrupt" in err
    assert (out, code) == ("imported for it: []\n", -signal.SIGINT), err

"""kiwipy, ``homing.kiwipy`` and ``homing`` (asyncio) beside each other, on one RabbitMQ.

usage: beside_kiwipy.py amqp://… --wheel target/wheels/homing-….whl [--rounds 3] [--seconds 2] [--work NAME]

Run it with an interpreter that has kiwipy 0.9.0 (``tests/tools/install-python``: ``tests/.venv/bin/python``). ``python/build`` makes
the wheel; without ``--wheel`` whatever ``homing`` this interpreter finds is measured. Each contender is a client and a server in
two processes of their own. A round takes the contenders of one work right after each other; a ratio is that of one round, and of
the rounds the median. CPU is that of client and server together, user and system, an operation. Bodies are YAML, as by
default, and kiwipy is not in its testing mode.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import compileall
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile

BODY = {"intent": "status", "message": None}
CONTENDERS = ("kiwipy", "homing.kiwipy", "asyncio")
#: Name, how many are under way, and the goals: rate and CPU to kiwipy's, of homing.kiwipy and of asyncio.
WORKS = {
    "RPC, one at a time": (1, {"homing.kiwipy": 2.5, "asyncio": 2.5}),
    "RPC, 1000 in flight": (1000, {"homing.kiwipy": 3.0, "asyncio": 10.0}),
    "task round trip, 256 in flight": (256, {"homing.kiwipy": 3.5, "asyncio": 15.0}),
    "broadcast, sent and received": (1, {"homing.kiwipy": 6.0, "asyncio": 6.0}),
}
CPU_GOALS = {"homing.kiwipy": 3.0, "asyncio": 4.0}


def used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Clock:
    """Counts operations of which each is begun before the time is up."""

    def __init__(self, seconds: float) -> None:
        self.begun, self.cpu, self.done = time.monotonic(), used(), 0
        self.until = self.begun + seconds

    def goes_on(self) -> bool:
        return time.monotonic() < self.until

    def report(self) -> dict:
        took = time.monotonic() - self.begun
        return {"rate": self.done / took, "done": self.done, "cpu": used() - self.cpu}


# Threads: kiwipy and homing.kiwipy


def connect_threads(contender: str, url: str, prefix: str):
    if contender == "kiwipy":
        from kiwipy import rmq
    else:
        from homing.kiwipy import rmq
    return rmq.RmqThreadCommunicator.connect(
        connection_params={"url": url},
        message_exchange=f"{prefix}.messages",
        task_exchange=f"{prefix}.tasks",
        task_queue=f"{prefix}.process.queue",
    )


def serve_threads(contender: str, url: str, prefix: str) -> None:
    with connect_threads(contender, url, prefix) as communicator:
        communicator.add_rpc_subscriber(lambda _, body: body, "bench")
        communicator.add_task_subscriber(lambda _, body: body)
        answer_for_cpu()


def answer_for_cpu() -> None:
    print("ready", flush=True)
    for _ in sys.stdin:
        print(used(), flush=True)


def outcome(future):
    value = future.result(60)
    while hasattr(value, "result"):
        value = value.result(60)
    return value


def client_threads(contender: str, url: str, prefix: str, work: str, seconds: float) -> dict:
    window = WORKS[work][0]
    with connect_threads(contender, url, prefix) as communicator:
        if work.startswith("broadcast"):
            return broadcasts_of_threads(communicator, seconds)
        if work.startswith("RPC"):

            def begin():
                return communicator.rpc_send("bench", BODY)
        else:

            def begin():
                return communicator.task_send(BODY)

        for _ in range(20):
            outcome(begin())
        clock, under_way = Clock(seconds), collections.deque()
        while True:
            while len(under_way) < window and clock.goes_on():
                under_way.append(begin())
            if not under_way:
                return clock.report()
            outcome(under_way.popleft())
            clock.done += 1


def broadcasts_of_threads(communicator, seconds: float) -> dict:
    import threading

    received, wanted, all_here = 0, None, threading.Event()

    def heard(_, body, sender, subject, correlation_id):
        nonlocal received
        received += 1
        if received == wanted:
            all_here.set()

    communicator.add_broadcast_subscriber(heard)
    communicator.broadcast_send(BODY, sender="bench", subject="bench")
    while not received:
        time.sleep(0.01)
    received, clock = 0, Clock(seconds)
    while clock.goes_on():
        communicator.broadcast_send(BODY, sender="bench", subject="bench")
        clock.done += 1
    wanted = clock.done
    if received < wanted:
        assert all_here.wait(60), f"{received} of {wanted} broadcasts came"
    return clock.report()


# asyncio: homing


def connect_asyncio(url: str, prefix: str):
    import homing

    return homing.connect(url, prefix=prefix)


async def serve_asyncio(url: str, prefix: str) -> None:
    async with connect_asyncio(url, prefix) as communicator:
        await communicator.add_rpc_subscriber("bench", lambda request: request.body)
        await communicator.add_task_subscriber(lambda task: task.body)
        await asyncio.get_running_loop().run_in_executor(None, answer_for_cpu)


async def client_asyncio(url: str, prefix: str, work: str, seconds: float) -> dict:
    window = WORKS[work][0]
    async with connect_asyncio(url, prefix) as communicator:
        if work.startswith("broadcast"):
            return await broadcasts_of_asyncio(communicator, seconds)
        if work.startswith("RPC"):

            def begin():
                return communicator.rpc_send("bench", BODY)
        else:

            def begin():
                return communicator.task_send(BODY)

        for _ in range(20):
            await begin()
        clock = Clock(seconds)

        async def one_after_the_other() -> None:
            while clock.goes_on():
                await begin()
                clock.done += 1

        await asyncio.gather(*(one_after_the_other() for _ in range(window)))
        return clock.report()


async def broadcasts_of_asyncio(communicator, seconds: float) -> dict:
    received, wanted, all_here = 0, None, asyncio.Event()

    def heard(_):
        nonlocal received
        received += 1
        if received == wanted:
            all_here.set()

    await communicator.add_broadcast_subscriber(heard)
    await communicator.broadcast_send(BODY, sender="bench", subject="bench")
    while not received:
        await asyncio.sleep(0.01)
    received, clock = 0, Clock(seconds)
    while clock.goes_on():
        await communicator.broadcast_send(BODY, sender="bench", subject="bench")
        clock.done += 1
    wanted = clock.done
    if received < wanted:
        await asyncio.wait_for(all_here.wait(), 60)
    return clock.report()


# The comparison


def measured(contender: str, work: str, given: argparse.Namespace, environment: dict) -> dict:
    """One contender at one work, client and server."""
    prefix = f"beside-{uuid.uuid4().hex[:12]}"

    def start(role: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, __file__, given.url, "--role", role, "--contender", contender, "--prefix", prefix]
            + ["--work", work, "--seconds", str(given.seconds)],
            env=environment if contender != "kiwipy" else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask() -> float:
        server.stdin.write("\n")
        server.stdin.flush()
        return float(server.stdout.readline())

    server = start("server")
    assert server.stdout.readline() == "ready\n", f"the server of {contender} does not start"
    before = ask()
    out, _ = start("client").communicate(timeout=given.seconds + 120)
    result = json.loads(out)
    result["cpu"] = (result["cpu"] + ask() - before) * 1e6 / result["done"]
    server.stdin.close()
    server.wait(60)
    return result


def import_times(environment: dict) -> list[float]:
    """What ``import homing`` costs in milliseconds, where asyncio is there already."""
    program = "import asyncio, time; begun = time.perf_counter(); import homing; print((time.perf_counter() - begun) * 1e3)"
    run = [sys.executable, "-c", program]
    return [float(subprocess.run(run, env=environment, capture_output=True, check=True).stdout) for _ in range(20)]


def compare(given: argparse.Namespace, environment: dict) -> None:
    works = [work for work in WORKS if not given.work or given.work in work]
    print(f"load {os.getloadavg()[0]:.0f}, {os.cpu_count()} cores, {given.rounds} rounds of {given.seconds:g} s; medians\n")
    print("| work | contender | a second | CPU an operation | rate to kiwipy | goal | CPU of kiwipy | goal |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for work in works:
        rounds = [
            {contender: measured(contender, work, given, environment) for contender in CONTENDERS}
            for _ in range(given.rounds)
        ]

        def median(of) -> float:
            return statistics.median(of(one) for one in rounds)  # noqa: B023

        for contender in CONTENDERS:
            rate = median(lambda one: one[contender]["rate"])
            cpu = median(lambda one: one[contender]["cpu"])
            cells = [work, contender, f"{rate:.0f}", f"{cpu:.0f} us", "", "", "", ""]
            if contender != "kiwipy":
                faster = median(lambda one: one[contender]["rate"] / one["kiwipy"]["rate"])
                cheaper = median(lambda one: one["kiwipy"]["cpu"] / one[contender]["cpu"])
                goal, cpu_goal = WORKS[work][1][contender], CPU_GOALS[contender]
                cells[4:] = [
                    f"{faster:.1f}",
                    f"{goal:g}{'' if faster >= goal else ', misses'}",
                    f"1/{cheaper:.1f}",
                    f"1/{cpu_goal:g}{'' if cheaper >= cpu_goal else ', misses'}",
                ]
            print(f"| {' | '.join(cells)} |", flush=True)
    times = import_times(environment)
    print(f"\nimport homing, beyond asyncio: median {statistics.median(times):.1f} ms, least {min(times):.1f} ms (goal 5)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--wheel")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--work", default="")
    for name in ("--role", "--contender", "--prefix"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "server":
        if given.contender == "asyncio":
            asyncio.run(serve_asyncio(given.url, given.prefix))
        else:
            serve_threads(given.contender, given.url, given.prefix)
    elif given.role == "client":
        if given.contender == "asyncio":
            result = asyncio.run(client_asyncio(given.url, given.prefix, given.work, given.seconds))
        else:
            result = client_threads(given.contender, given.url, given.prefix, given.work, given.seconds)
        print(json.dumps(result))
    else:
        with tempfile.TemporaryDirectory() as folder:
            environment = dict(os.environ)
            if given.wheel:
                zipfile.ZipFile(given.wheel).extractall(folder)
                # As pip does; otherwise each process would compile the sources, where it may not write them either.
                compileall.compile_dir(folder, quiet=1)
                environment["PYTHONPATH"] = folder
            compare(given, environment)


if __name__ == "__main__":
    main()

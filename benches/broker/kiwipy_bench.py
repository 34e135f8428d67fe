"""kiwipy as a contender: kiwipy_bench.py client|server YAML|JSON."""

import collections
import json
import os
import resource
import sys
import time

import kiwipy.rmq

WORKS = [
    ("RPC, one at a time", 1),
    ("RPC, 100 in flight", 100),
    ("RPC, 1000 in flight", 1000),
    ("task publish, confirmed", 1),
    ("task send + ack + reply", 256),
    ("broadcast publish", 1),
]
BODY = {"intent": "status", "message": None}


def connect(fmt):
    prefix = os.environ["BENCH_PREFIX"]
    options = {}
    if fmt == "JSON":
        options = {"encoder": lambda value: json.dumps(value).encode(), "decoder": json.loads}
    return kiwipy.rmq.RmqThreadCommunicator.connect(
        connection_params={"url": os.environ["BENCH_URL"]},
        message_exchange=prefix + ".messages",
        task_exchange=prefix + ".tasks",
        task_queue=prefix + ".process.queue",
        **options,
    )


def serve(fmt):
    with connect(fmt) as communicator:
        communicator.add_rpc_subscriber(lambda _, body: body, "bench")
        communicator.add_task_subscriber(lambda _, body: body)
        print("ready", flush=True)
        sys.stdin.read()


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def unwrap(future):
    value = future.result(60)
    while hasattr(value, "result"):
        value = value.result(60)
    return value


def measure(name, window, begin, seconds):
    begun, used, times, under_way = time.monotonic(), cpu(), [], collections.deque()
    until = begun + seconds

    def one():
        started = time.monotonic()
        under_way.append((started, begin()))

    for _ in range(window):
        one()
    while under_way:
        started, future = under_way.popleft()
        if future is not None and hasattr(future, "result"):
            unwrap(future)
        times.append(time.monotonic() - started)
        if time.monotonic() < until:
            one()
    took, used = time.monotonic() - begun, cpu() - used
    times.sort()
    print(json.dumps({
        "work": name,
        "rate": len(times) / took,
        "p50": times[len(times) // 2] * 1e3,
        "p99": times[min(len(times) - 1, len(times) * 99 // 100)] * 1e3,
        "cpu": used * 1e6 / len(times),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }), flush=True)


def client(fmt):
    seconds = float(os.environ["BENCH_SECONDS"])
    with connect(fmt) as communicator:
        queue = communicator.task_queue("idle-" + os.environ["BENCH_PREFIX"])
        for name, window in WORKS:
            if name != os.environ["BENCH_WORK"]:
                continue
            if name.startswith("RPC"):
                def begin():
                    return communicator.rpc_send("bench", BODY)
            elif name == "task publish, confirmed":
                def begin():
                    return queue.task_send(BODY, no_reply=True)
            elif name.startswith("task"):
                def begin():
                    return communicator.task_send(BODY)
            else:
                def begin():
                    return communicator.broadcast_send(BODY, sender="bench", subject="bench")
            measure(name, window, begin, seconds)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(sys.argv[2])
    else:
        client(sys.argv[2])

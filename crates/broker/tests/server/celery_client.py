"""Celery against a broker: results, retries, tasks for later, remote control, a chord, and a worker that is killed.

usage: celery_client.py PORT; and for its workers celery_client.py PORT worker BACKEND DIRECTORY
"""

import os
import signal
import subprocess
import sys
import tempfile
import time

from celery import Celery, chord, group

# Longer than anything here takes.
PATIENCE = 60


def application(port, backend, directory):
    app = Celery("tests", broker=f"amqp://guest:guest@127.0.0.1:{port}//", backend=backend)
    app.conf.update(
        task_default_queue=f"celery-{backend.split(':')[0]}",
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        result_chord_retry_interval=0.1,
    )

    @app.task(name="add", shared=False)
    def add(one, other):
        return one + other

    @app.task(name="total", shared=False)
    def total(numbers):
        return sum(numbers)

    @app.task(name="fail", shared=False)
    def fail():
        raise ValueError("as it should")

    @app.task(name="again", shared=False, bind=True, max_retries=5)
    def again(self):
        if self.request.retries < 2:
            raise self.retry(countdown=0.1)
        return self.request.retries

    @app.task(name="begin", shared=False, bind=True, acks_late=True, reject_on_worker_lost=True)
    def begin(self):
        # The first time it never ends; its worker is killed.
        with open(os.path.join(directory, "begun"), "a") as file:
            file.write(f"{self.request.delivery_info['redelivered']}\n")
        if not self.request.delivery_info["redelivered"]:
            time.sleep(1000)
        return "done"

    return app


class Worker:
    def __init__(self, port, backend, directory):
        arguments = [sys.executable, __file__, port, "worker", backend, directory]
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def until(what, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def lines(path):
    try:
        with open(path) as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def main(port):
    with tempfile.TemporaryDirectory() as directory:
        backend = f"file://{directory}"
        app = application(port, "rpc://", directory)
        task = app.tasks
        with Worker(port, "rpc://", directory) as worker:
            assert task["add"].delay(1, 2).get(timeout=PATIENCE) == 3
            assert group(task["add"].s(n, n) for n in range(10))().get(timeout=PATIENCE) == [2 * n for n in range(10)]
            assert task["again"].delay().get(timeout=PATIENCE) == 2
            later = time.monotonic()
            assert task["add"].apply_async((3, 4), countdown=1).get(timeout=PATIENCE) == 7
            assert time.monotonic() - later >= 0.9, "it came too early"
            try:
                task["fail"].delay().get(timeout=PATIENCE)
            except ValueError as error:
                assert "as it should" in str(error)
            else:
                raise AssertionError("it has failed")
            assert [answer for one in app.control.ping(timeout=PATIENCE, limit=1) for answer in one.values()] == [{"ok": "pong"}]
            late = task["begin"].delay()
            until("the task begins", lambda: lines(os.path.join(directory, "begun")) == ["False"])
            worker.process.send_signal(signal.SIGKILL)
            worker.process.wait()
            with Worker(port, "rpc://", directory):
                assert late.get(timeout=PATIENCE) == "done"
            assert lines(os.path.join(directory, "begun")) == ["False", "True"], "it came back once"
        app = application(port, backend, directory)
        with Worker(port, backend, directory):
            task = app.tasks
            result = chord(task["add"].s(n, n) for n in range(10))(task["total"].s())
            assert result.get(timeout=PATIENCE) == 90


if sys.argv[2:3] == ["worker"]:
    arguments = ["worker", "--pool=solo", "--loglevel=error"]
    application(sys.argv[1], sys.argv[3], sys.argv[4]).worker_main(arguments)
else:
    main(sys.argv[1])

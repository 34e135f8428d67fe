"""The distribution that stands in for kiwipy: programs that import that name run on homing."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

STANDIN = pathlib.Path(__file__).resolve().parent.parent / "homing-kiwipy"


def run(program: str) -> str:
    """The program's output, where the module kiwipy is the one that stands in."""
    path = os.pathsep.join([str(STANDIN), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_has_the_names_of_kiwipy():
    kiwipy = pytest.importorskip("kiwipy")
    rmq = pytest.importorskip("kiwipy.rmq")
    beneath = {"RmqTaskPublisher", "RmqTaskSubscriber"}
    names = {
        "kiwipy": kiwipy.__all__,
        "kiwipy.exceptions": kiwipy.exceptions.__all__,
        "kiwipy.communications": kiwipy.communications.__all__,
        "kiwipy.futures": kiwipy.futures.__all__,
        "kiwipy.rmq": set(rmq.__all__) - beneath,
        "kiwipy.rmq.defaults": [name for name in vars(rmq.defaults) if name.isupper() and name != "SECONDS_TO_MILLISECONDS"],
    }
    values = {name: value for name, value in vars(rmq.defaults).items() if type(value) in (int, float, str) and name.isupper()}
    del values["SECONDS_TO_MILLISECONDS"]
    out = run(
        f"""
import importlib, homing.kiwipy, kiwipy
assert {str(STANDIN)!r} in kiwipy.__file__, kiwipy.__file__
for module, names in {({module: sorted(names) for module, names in names.items()})!r}.items():
    for name in names:
        getattr(importlib.import_module(module), name)
assert {values!r}.items() <= vars(importlib.import_module("kiwipy.rmq.defaults")).items()
assert kiwipy.RemoteException is homing.kiwipy.RemoteException
assert kiwipy.rmq.RmqThreadCommunicator is homing.kiwipy.rmq.RmqThreadCommunicator
with kiwipy.connect("memory:") as c:
    try:
        c.rpc_send("nobody", 1)
    except kiwipy.exceptions.UnroutableError:
        print("unroutable")
"""
    )
    assert out == "unroutable\n"


@pytest.mark.parametrize("first", ["kiwipy", "homing.kiwipy", "kiwipy.exceptions", "kiwipy.rmq"])
def test_it_is_imported_in_any_order(first):
    assert run(f"import {first}, kiwipy.rmq, homing.kiwipy; print(kiwipy.__version__)") == "0.9.0\n"


PLUMPY = """
import asyncio, functools, sys, threading
import kiwipy, plumpy
from kiwipy import rmq
from plumpy import process_comms

assert "homing" in rmq.RmqThreadCommunicator.__module__

class Wait(plumpy.Process):
    def run(self):
        return plumpy.Wait(self.woken)

    def woken(self):
        return None

async def main():
    with rmq.connect({parameters!r}, **{options!r}) as communicator:
        loop = asyncio.get_running_loop()
        changes = []
        communicator.add_broadcast_subscriber(
            kiwipy.BroadcastFilter(lambda *args: changes.append(args[3]), subject="state_changed.*"))
        process = Wait(communicator=plumpy.wrap_communicator(communicator, loop))
        ending = asyncio.ensure_future(process.step_until_terminated())
        controller = process_comms.RemoteProcessThreadController(communicator)

        async def done(future):
            result = await asyncio.wait_for(asyncio.wrap_future(future), 60)
            while isinstance(result, kiwipy.Future):
                result = await asyncio.wait_for(asyncio.wrap_future(result), 60)
            return result

        assert await done(controller.pause_process(process.pid)) is True and process.paused
        assert await done(controller.play_process(process.pid)) is True and not process.paused
        status = await done(controller.get_status(process.pid))
        assert status["state"] == "ProcessState.WAITING", status
        assert await done(controller.kill_process(process.pid, "enough")) is True
        await asyncio.wait_for(ending, 60)
        assert process.killed() and process.killed_msg() is not None
        while "state_changed.waiting.killed" not in changes:
            await asyncio.sleep(0.01)
    print(process.state.name)

asyncio.run(asyncio.wait_for(main(), 90))
"""


def test_a_process_of_plumpys_runs_on_it(broker):
    pytest.importorskip("plumpy")
    url, options = broker
    names = {}
    if options:
        prefix = options["prefix"]
        names = {
            "message_exchange": f"{prefix}.messages",
            "task_exchange": f"{prefix}.tasks",
            "task_queue": f"{prefix}.queue",
            "testing_mode": True,
        }
    assert run(PLUMPY.format(parameters={"url": url}, options=names)) == "KILLED\n"

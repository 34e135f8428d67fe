"""Real plumpy processes, launchers and listeners that are driven from outside: the peer of the tests of process control.

Everything of kiwipy_peer.py, and:

process      [kind = "waits", pid (a value of values.py), quiet = true] -> {"pid"}: makes a process and runs it on an event loop
             of its own. With quiet the loop does nothing by itself, as in a worker that has nothing to do; without, it turns
             every few milliseconds. Kinds: "waits" (until it is killed), "steps" (one short step after the other, for ever),
             "long_step" (a step of 1 s, then waits), "stubborn" (a step that takes no interruption, for ever), "ends" (outputs
             {"o": 7}), "fails"
state        pid -> {"state", "paused", "status", "message": of a killed one}, without any message to it
launcher     takes tasks by a ProcessLauncher with a store in memory
released     removes the launcher
drive        controller = "thread" | "coroutine", request = "status" | "pause" | "play" | "kill" | "launch" | "continue" | "execute" |
             "pause_all" | "play_all" | "kill_all", [pid, message, force, kind, nowait, timeout = 10] -> the outcome, by plumpy's
             own controllers
"""
import asyncio
import concurrent.futures
import sys
import threading
import time

import kiwipy
import plumpy
from plumpy import process_comms

import kiwipy_peer
from values import from_json, to_json

MODULE = "plumpy_peer"


class Waits(plumpy.Process):
    """Waits until it is killed."""

    def run(self):
        return plumpy.Wait()


class Steps(plumpy.Process):
    """One short step after the other."""

    async def run(self):
        return await self.next_step()

    async def next_step(self):
        await asyncio.sleep(0.02)
        return plumpy.Continue(self.next_step)


class LongStep(plumpy.Process):
    """A step of a second that knows of nothing else, and then waits."""

    async def run(self):
        await asyncio.sleep(1.0)
        return plumpy.Wait()


class Stubborn(plumpy.Process):
    """A step that takes no interruption."""

    async def run(self):
        while True:
            await asyncio.sleep(0.05)


class Ends(plumpy.Process):
    """Ends at once, with an output."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.inputs.dynamic = True
        spec.output("o", valid_type=int)

    def run(self):
        self.out("o", self.inputs.get("a", 7) if self.inputs else 7)


class Fails(plumpy.Process):
    """Ends with an exception."""

    def run(self):
        raise ValueError("boom: äöü")


KINDS = {"waits": Waits, "steps": Steps, "long_step": LongStep, "stubborn": Stubborn, "ends": Ends, "fails": Fails}


class Loop:
    """An event loop on a thread of its own."""

    def __init__(self, quiet):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, args=(quiet,), name="plumpy", daemon=True).start()

    def _run(self, quiet):
        asyncio.set_event_loop(self.loop)
        if not quiet:
            self.loop.call_soon(self._turn)
        self.loop.run_forever()

    def _turn(self):
        self.loop.call_later(0.005, self._turn)

    def run(self, coroutine, timeout=15.0):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)


class PlumpyPeer(kiwipy_peer.Peer):

    def __init__(self):
        super().__init__()
        self.processes = {}
        self.launchers = []

    # Processes

    def do_process(self, kind="waits", pid=None, quiet=True):
        loop = Loop(quiet)
        pid = from_json(pid)

        async def make():
            # As AiiDA's runners have it: what comes in runs on the process's own loop.
            communicator = plumpy.wrap_communicator(self.communicator, loop.loop)
            process = KINDS[kind](pid=pid, communicator=communicator, loop=loop.loop)
            self.processes[str(process.pid)] = process
            loop.loop.create_task(process.step_until_terminated())
            return process.pid

        return {"pid": to_json(loop.run(make()))}

    def do_state(self, pid):
        process = self.processes[str(from_json(pid))]
        message = process.killed_msg() if process.killed() else None
        return {
            "state": process.state.value, "paused": process.paused, "status": process.status,
            "message": message if message is None else to_json(message),
        }

    # Launching

    def do_launcher(self):
        # A worker's loop turns by itself: what wakes an idle one is no concern here.
        loop = Loop(quiet=False)

        async def make():
            communicator = plumpy.wrap_communicator(self.communicator, loop.loop)
            loader = plumpy.get_object_loader()
            launcher = plumpy.ProcessLauncher(
                loop=loop.loop, persister=plumpy.InMemoryPersister(), loader=loader,
                load_context=plumpy.LoadSaveContext(loader=loader, loop=loop.loop, communicator=communicator)
            )
            return communicator, launcher

        communicator, launcher = loop.run(make())

        async def take(comm, task):
            self.logs.add("launcher", {"body": to_json(task)})
            return await launcher(comm, task)

        self.launchers.append((communicator, communicator.add_task_subscriber(take)))

    def do_released(self):
        communicator, identifier = self.launchers.pop()
        communicator.remove_task_subscriber(identifier)

    # plumpy's own controllers

    def do_drive(self, controller, request, pid=None, message=None, force=False, kind=None, nowait=False, timeout=10.0):
        pid = from_json(pid)
        requests = {
            "status": lambda to: to.get_status(pid),
            "pause": lambda to: to.pause_process(pid, message),
            "play": lambda to: to.play_process(pid),
            "kill": lambda to: to.kill_process(pid, message, force),
            "launch": lambda to: to.launch_process(KINDS[kind], nowait=nowait),
            "execute": lambda to: to.execute_process(KINDS[kind], nowait=nowait),
            "continue": lambda to: to.continue_process(pid, nowait=nowait),
            "pause_all": lambda to: to.pause_all(message),
            "play_all": lambda to: to.play_all(),
            "kill_all": lambda to: to.kill_all(message),
        }
        if controller == "coroutine":
            loop = Loop(quiet=False)
            remote = process_comms.RemoteProcessController(self.communicator)
            return to_json(loop.run(requests[request](remote), timeout))
        outcome = requests[request](process_comms.RemoteProcessThreadController(self.communicator))
        until = time.monotonic() + timeout
        while isinstance(outcome, concurrent.futures.Future):
            outcome = outcome.result(max(0.0, until - time.monotonic()))
        return to_json(outcome)


# The classes are known by this name, whatever the script is run as.
sys.modules[MODULE] = sys.modules[__name__]
for _class in KINDS.values():
    _class.__module__ = MODULE

if __name__ == "__main__":
    kiwipy_peer.main(PlumpyPeer())

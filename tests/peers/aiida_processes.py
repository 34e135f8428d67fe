"""Processes that last, for a daemon of AiiDA's to run: neither a computer nor a code is needed."""
import asyncio

import plumpy
from aiida import orm
from aiida.engine.processes.process import Process


class Sleeps(Process):
    """Is in one step for some seconds, and has finished then. A request to it waits until the step has ended."""

    _node_class = orm.WorkChainNode

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input("seconds", valid_type=orm.Float)

    async def run(self):
        await asyncio.sleep(self.inputs.seconds.value)


class Waits(Sleeps):
    """The same, and then it waits for what never comes, in no step."""

    async def run(self):
        await super().run()
        return plumpy.Wait(self.goes_on, "for the test")

    async def goes_on(self):
        pass

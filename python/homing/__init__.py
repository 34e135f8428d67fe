"""RPC, task queues and broadcasts between programs, over RabbitMQ or inside one process.

For asyncio::

    import asyncio, homing

    async def main():
        async with homing.connect("memory:") as c:
            await c.add_rpc_subscriber("double", lambda request: 2 * request.body)
            print(await c.rpc_send("double", 21, timeout=5))

    asyncio.run(main())

``homing.blocking`` has the same words for threads.
"""

from homing import _errors
from homing._asyncio import Broadcasts, Communicator, Events, TaskQueue, connect
from homing._errors import *  # noqa: F403
from homing._native import Broadcast, IncomingTask, RpcRequest, TaskRequest
from homing._values import CloseReport, Event, Tagged

__all__ = [
    "Broadcast",
    "Broadcasts",
    "CloseReport",
    "Communicator",
    "Event",
    "Events",
    "IncomingTask",
    "RpcRequest",
    "Tagged",
    "TaskQueue",
    "TaskRequest",
    "connect",
]
# In a form that type checkers read.
__all__ += _errors.__all__

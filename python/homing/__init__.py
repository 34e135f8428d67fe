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

from typing import TYPE_CHECKING, Any

from homing import _errors
from homing._asyncio import Broadcasts, Communicator, Events, TaskQueue, connect
from homing._errors import *  # noqa: F403
from homing._native import Broadcast, IncomingTask, RpcRequest, TaskRequest

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    # These are dataclasses, which take a third of the time that the whole package takes to import.
    if name in ("CloseReport", "Event", "Tagged"):
        from homing import _values

        value = globals()[name] = getattr(_values, name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

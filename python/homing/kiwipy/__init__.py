"""What kiwipy 0.9 offers, by its names and meanings, on homing.

::

    from homing import kiwipy

    with kiwipy.connect("amqp://127.0.0.1") as communicator:
        communicator.add_rpc_subscriber(lambda _, message: 2 * message, "double")
        print(communicator.rpc_send("double", 21).result(timeout=5))

docs/python.md lists what is different on purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homing._shared import check_text
from homing.kiwipy import _base
from homing.kiwipy._base import *  # noqa: F403

if TYPE_CHECKING:
    from homing.kiwipy.rmq import RmqThreadCommunicator

__version__ = "0.9.0"

__all__ = ["connect"]
# In a form that type checkers read.
__all__ += _base.__all__

#: Where a broker is looked for.
DEFAULT_COMM_URI = "amqp://guest:guest@127.0.0.1/"


def connect(uri: str = DEFAULT_COMM_URI, **options: Any) -> RmqThreadCommunicator:
    """Connect to a broker; see :class:`homing.kiwipy.rmq.RmqThreadCommunicator`.

    ``memory:``, ``memory:NAME`` and ``local:`` work as well as ``amqp://…``.
    """
    from homing.kiwipy import rmq

    check_text("uri", uri)
    if not uri.startswith(("amqp:", "amqps:", "memory:", "local:")):
        raise ValueError(f"the communicator URI {uri!r} is not known")
    return rmq.connect(connection_params=uri, **options)

"""Task queues of loops."""

from homing.kiwipy.rmq import RmqIncomingTask, RmqTaskQueue

__all__ = ("RmqTaskQueue", "RmqIncomingTask")

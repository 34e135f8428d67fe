"""The communicator of threads."""

from homing.kiwipy.rmq import RmqThreadCommunicator, RmqThreadIncomingTask, RmqThreadTaskQueue, connect

__all__ = ("RmqThreadCommunicator", "RmqThreadTaskQueue", "connect")

"""The communicator of loops."""

from homing.kiwipy.rmq import RmqCommunicator, async_connect

__all__ = ("RmqCommunicator", "async_connect")

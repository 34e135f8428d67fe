"""The communicator whose subscribers are all its own."""

from homing.kiwipy import LocalCommunicator

__all__ = ("LocalCommunicator",)

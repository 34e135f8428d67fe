"""The interface of a communicator."""

from collections.abc import Callable
from typing import Any

from homing.kiwipy import Communicator, CommunicatorHelper

from .exceptions import *  # noqa: F403

__all__ = ("Communicator", "CommunicatorHelper")

RpcSubscriber = Callable[[Communicator, Any], Any]
TaskSubscriber = Callable[[Communicator, Any], Any]
BroadcastSubscriber = Callable[[Communicator, Any, Any, Any, Any], Any]

"""kiwipy's exceptions."""

from homing.kiwipy import (
    CommunicatorClosed,
    DeliveryFailed,
    DuplicateSubscriberIdentifier,
    InvalidStateError,
    QueueEmpty,
    RemoteException,
    TaskRejected,
    TimeoutError,
    UnroutableError,
)

__all__ = (
    "RemoteException",
    "DeliveryFailed",
    "TaskRejected",
    "UnroutableError",
    "TimeoutError",
    "DuplicateSubscriberIdentifier",
    "CommunicatorClosed",
    "InvalidStateError",
    "QueueEmpty",
)

"""What the communicators of threads and of loops share: kiwipy's options as homing's, close callbacks, tasks that go back."""

from __future__ import annotations

import contextlib
import urllib.parse
import weakref
from collections.abc import Callable
from typing import Any

import homing
from homing import _native
from homing._shared import check_number, native_options, wrong
from homing.kiwipy._base import InvalidStateError, translating

MESSAGE_EXCHANGE = "kiwipy.messages"
TASK_EXCHANGE = "kiwipy.tasks"
TASK_QUEUE = "kiwipy.tasks"
TASK_FETCH_TIMEOUT = 5.0


def named(identifier: Any) -> Any:
    """The identifier of a subscriber as it is written: of any type by its ``str``, as in kiwipy."""
    return identifier if isinstance(identifier, str) else str(identifier)


def url_of(parameters: Any, name: str = "connection_params") -> str:
    """The URL of connection parameters: a URL, a dict with one, a dict of its parts, or what has a ``url``."""
    if not parameters:
        return "amqp://guest:guest@127.0.0.1/"
    if isinstance(parameters, str):
        return parameters
    if not isinstance(parameters, dict):
        url = getattr(parameters, "url", None)
        if url is None:
            raise wrong(name, "a URL, a dict, or what has a url", parameters)
        return str(url)
    if "url" in parameters:
        return str(parameters["url"])

    def quoted(name: str, default: str) -> str:
        return urllib.parse.quote(str(parameters.get(name, default)), safe="")

    scheme = "amqps" if parameters.get("ssl") else "amqp"
    host, port = parameters.get("host", "127.0.0.1"), parameters.get("port", 5671 if scheme == "amqps" else 5672)
    return (
        f"{scheme}://{quoted('login', 'guest')}:{quoted('password', 'guest')}@{host}:{port}/"
        f"{quoted('virtualhost', '/')}"
    )


def without_passwords(urls: str) -> str:
    """A URL as it may be shown, or several with commas between."""

    def shown(url: str) -> str:
        parts = urllib.parse.urlsplit(url)
        if parts.password is None:
            return url
        host = parts.netloc.rpartition("@")[2]
        return urllib.parse.urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))

    return ",".join(shown(url) for url in urls.split(","))


def core(
    url: str,
    *,
    message_exchange: str,
    task_exchange: str,
    task_queue: str,
    task_prefetch_count: int,
    queue_expires: float,
    testing_mode: bool,
    encoder: Any,
    decoder: Any,
) -> _native.Call:
    """The connecting of a communicator with these options."""
    check_number("queue_expires", queue_expires)
    if not hasattr(task_prefetch_count, "__index__"):
        raise wrong("task_prefetch_count", "an int", task_prefetch_count)
    options = native_options(
        {
            "message_exchange": message_exchange,
            "task_exchange": task_exchange,
            "task_queue": task_queue,
            "task_prefetch": task_prefetch_count,
            "queue_expires": queue_expires / 1000,
            "testing": bool(testing_mode),
            "encoder": encoder,
            "decoder": decoder,
        }
    )
    return _native.connect(url, options)


def referred(callback: Callable[..., Any], weak: bool) -> Callable[[], Callable[..., Any] | None]:
    """What returns the callback, while there is one."""
    if not weak:
        return lambda: callback
    return weakref.WeakMethod(callback) if hasattr(callback, "__self__") else weakref.ref(callback)


def called_back(communicator: Any, callbacks: list[Callable[[], Callable[..., Any] | None]]) -> None:
    """Calls each once."""
    while callbacks:
        callback = callbacks.pop(0)()
        if callback is not None:
            try:
                callback(communicator, None)
            except Exception:
                import logging

                logging.getLogger("homing").exception("a close callback failed")


def put_back(task: _native.IncomingTask) -> None:
    """Puts a task back that nobody has given an outcome."""
    # Settled by now, unless nobody has.
    with contextlib.suppress(homing.InvalidStateError):
        task.requeue()


class TakenTask:
    """A task that was taken from its queue."""

    def __init__(self, task: _native.IncomingTask) -> None:
        self._task = task
        self._state = "pending"

    @property
    def body(self) -> Any:
        """What was sent."""
        return self._task.body

    @property
    def no_reply(self) -> bool:
        """True when the sender wants no reply."""
        return self._task.no_reply

    @property
    def state(self) -> str:
        """``pending``, ``processing``, ``finished`` or ``requeued``."""
        return self._state

    @staticmethod
    def _is_future(result: Any) -> bool:
        """True for a future of the kind that :meth:`process` returns."""
        raise NotImplementedError

    def _begin(self) -> None:
        if self._state != "pending":
            raise InvalidStateError(f"the task is {self._state}")
        self._state = "processing"

    def _requeue(self) -> None:
        if self._state not in ("pending", "processing"):
            raise InvalidStateError(f"the task is {self._state}")
        self._state = "requeued"
        with translating():
            self._task.requeue()

    def _end(self, outcome: Any) -> None:
        """Ends the task as a future has ended."""
        if self._state in ("finished", "requeued"):
            return
        if outcome.cancelled():
            self._requeue()
            return
        error = outcome.exception()
        result: Any = None if error is not None else outcome.result()
        if self._is_future(result):
            # The outcome of that one is the task's.
            result.add_done_callback(self._end)
            return
        self._state = "finished"
        if error is not None:
            self._task.fail(error)
        else:
            self._task.finish(result)

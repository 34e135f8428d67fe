"""What the tests share: brokers, loops, and a limit of time with a look at every thread when it is over."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import uuid

import pytest

#: How long one test may take, in seconds, on a machine that does much else.
LIMIT = 120.0


@pytest.fixture(autouse=True)
def _limited():
    """Ends the process with the stacks of all threads when a test hangs."""
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def _brokers() -> list[str]:
    brokers = ["memory"]
    if os.environ.get("HOMING_TEST_AMQP"):
        brokers.append("rabbitmq")
    return brokers


@pytest.fixture(params=_brokers())
def broker(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """A broker that several communicators share, and options that keep this test to itself."""
    name = uuid.uuid4().hex
    if request.param == "memory":
        return f"memory:{name}", {}
    return os.environ["HOMING_TEST_AMQP"], {"prefix": f"py-{name}", "testing": True}


def kiwipy_names(prefix: str) -> dict[str, object]:
    """kiwipy's options that keep a test to itself."""
    return {
        "message_exchange": f"{prefix}.messages",
        "task_exchange": f"{prefix}.tasks",
        "task_queue": f"{prefix}.queue",
        "testing_mode": True,
    }


@pytest.fixture
def options(broker: tuple[str, dict[str, object]]) -> dict[str, object]:
    """What kiwipy's communicators connect with."""
    url, options = broker
    names = kiwipy_names(str(options["prefix"])) if options else {}
    return {"connection_params": {"url": url}, **names}


@pytest.fixture
def memory() -> str:
    return f"memory:{uuid.uuid4().hex}"


def run(coroutine, *, debug: bool = True):
    """Runs a coroutine on a loop of its own, by default in asyncio's debug mode, where calls from wrong threads fail."""
    return asyncio.run(asyncio.wait_for(coroutine, LIMIT / 2), debug=debug)


def collect() -> None:
    for _ in range(3):
        gc.collect()

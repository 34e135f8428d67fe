"""Exceptions and values that go to other processes by ``pickle``, and are copied: they come as what they were."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
import subprocess
import sys

import pytest

import homing
from homing import blocking, kiwipy
from homing.kiwipy import _base, rmq
from conftest import run

WAYS = {
    **{f"pickle {n}": lambda one, n=n: pickle.loads(pickle.dumps(one, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def _classes():
    """All exceptions of the package, found by inspection."""
    found = set()
    for module in (homing, kiwipy, _base, homing._errors):
        for one in vars(module).values():
            if inspect.isclass(one) and issubclass(one, homing.Error):
                found.add(one)
    return sorted(found, key=lambda one: (one.__module__, one.__qualname__))


def _error(cls):
    error = cls(3) if issubclass(cls, homing.Lagged) else cls("what was tried, and why it failed")
    if isinstance(error, homing.RemoteException):
        error.text, error.type_name, error.chain, error.data = "text", "a.B", ["one", "two"], {"key": (1, 2)}
    error.of_the_user = ["kept"]
    return error


def _parts(error):
    return type(error), error.args, str(error), repr(error), vars(error)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_exception_comes_as_it_was(way):
    classes = _classes()
    assert len(classes) > 40
    for cls in classes:
        error = _error(cls)
        again = way(error)
        assert _parts(again) == _parts(error), cls
        # And once more.
        assert _parts(way(again)) == _parts(error), cls


class Ours(homing.Lagged):
    pass


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_kind_of_ours_of_a_users_own_comes_as_it_was(way):
    error = _error(Ours)
    assert _parts(way(error)) == _parts(error) and way(error).missed == 3


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_is_caught_as_aio_pikas_comes_as_it_was(way):
    pytest.importorskip("aio_pika").exceptions  # noqa: B018
    error = _base.translated(homing.ConnectionLost("the connection was lost"))
    assert type(error) is not homing.ConnectionLost
    error.of_the_user = 1
    assert _parts(way(error)) == _parts(error)


def test_what_is_caught_as_aio_pikas_is_read_where_nothing_has_imported_that():
    pytest.importorskip("aio_pika").exceptions  # noqa: B018
    text = pickle.dumps(_base.translated(homing.ConnectionLost("lost")))
    program = "import pickle, sys; error = pickle.loads(sys.stdin.buffer.read()); print(type(error).__mro__, error)"
    done = subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, check=True)
    assert b"homing.ConnectionLost" in done.stdout and b"ConnectionClosed" in done.stdout, done.stdout


VALUES = [
    homing.Tagged("!x", [1, {"a": homing.Tagged("!y", None)}]),
    homing.CloseReport(1, 2, 3, 4, "error"),
    homing.Event("lost", {"error": "x"}),
]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_comes_as_it_was(way, value):
    again = way(value)
    assert again == value and type(again) is type(value) and repr(again) == repr(value)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_broadcast_comes_as_it_was(way, memory):
    with blocking.connect(memory) as c:
        stream = c.broadcasts()
        c.broadcast_send({"a": [1, (2,)]}, sender=4, subject="changed", correlation_id="id")
        c.broadcast_send(None)
        for broadcast in (next(stream), next(stream)):
            again = way(broadcast)
            parts = [(one.body, one.sender, one.subject, one.correlation_id, repr(one)) for one in (broadcast, again)]
            assert parts[0] == parts[1] and type(again) is homing.Broadcast


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_belongs_to_a_connection_is_refused_clearly(way, memory):
    """A copy of a communicator would have closed the original's."""
    with blocking.connect(memory) as c, rmq.connect(memory) as k:

        def serve(request):
            with pytest.raises(TypeError, match="cannot pickle"):
                way(request)
            return request.body

        c.add_rpc_subscriber("x", serve)
        c.task_queue("q").task_send(1, no_reply=True)
        task = c.task_queue("q").next_task()
        for one in (c, k):
            with pytest.raises(TypeError, match="can neither be pickled nor copied"):
                way(one)
        with pytest.raises(TypeError, match="cannot pickle"):
            way(task)
        assert c.rpc_send("x", 5) == 5

    async def main():
        async with homing.connect(memory) as c, await rmq.async_connect(memory) as a:
            for one in (c, a):
                with pytest.raises(TypeError, match="can neither be pickled nor copied"):
                    way(one)

    run(main())


def _fail(_):
    raise homing.Lagged(7)


@pytest.mark.parametrize("method", ["spawn"])
def test_an_exception_of_another_process(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        with pytest.raises(homing.Lagged) as caught:
            pool.map(_fail, [1])
    assert (str(caught.value), caught.value.missed) == (str(homing.Lagged(7)), 7)

"""Every argument of every public function: one of a wrong type is refused with a ``TypeError`` that names it.

The functions are found by inspection. A new one, or a new argument, fails here until the table knows it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import re
import uuid

import pytest

import homing
from homing import blocking, kiwipy
from homing.kiwipy import rmq
from conftest import run


class Odd:
    """What no argument can be made of."""


#: What goes instead of each, by the name of the argument.
TEXT = (5, b"x", Odd(), ["x"])
NUMBER = ("x", Odd(), [1.0], 1j)
WHOLE = ("x", 1.5, Odd(), [1])
FLAG = ("x", 2, Odd(), [])
NAME = (Odd(), ["x"], 1.5, b"x", True)
CALLABLE = (5, "x", Odd())
FUTURE = (5, "x", Odd())
WRONG = {
    "at": NUMBER,
    "call_timeout": NUMBER,
    "callback": CALLABLE,
    "close_timeout": NUMBER,
    "codec": TEXT,
    "connect_timeout": NUMBER,
    "connection_name": TEXT,
    "decoder": CALLABLE,
    "delay": NUMBER,
    "drain": NUMBER,
    "encoder": CALLABLE,
    "error": (5, Odd(), None),
    "future": FUTURE,
    "heartbeat": NUMBER,
    "idempotent": FLAG,
    "identifier": NAME,
    "ignore": (5, "x", (ValueError, 5)),
    "in_flight": (5, "xy", Odd(), (1, "x"), ("x", 1)),
    "message_exchange": TEXT,
    "message_ttl": NUMBER,
    "name": TEXT,
    "no_reply": FLAG,
    "operation_timeout": NUMBER,
    "prefetch": WHOLE,
    "prefix": TEXT,
    "priority": WHOLE,
    "queue_expires": NUMBER,
    "queue_name": TEXT,
    "recipient": NAME,
    "reconnect": FLAG,
    "source": FUTURE,
    "subject": (5, Odd(), b"x", [5], re.compile(b"x")),
    "subscriber": CALLABLE,
    "target": FUTURE,
    "task_attempts": (5, "xy", Odd(), (1, "x"), ("x", 1)),
    "task_exchange": TEXT,
    "task_prefetch": WHOLE,
    "task_prefetch_count": WHOLE,
    "task_priorities": WHOLE,
    "task_queue": TEXT,
    "task_timeout": NUMBER,
    "task_ttl": NUMBER,
    "testing": FLAG,
    "timeout": NUMBER,
    "unique": TEXT,
    "unique_for": NUMBER,
    "uri": TEXT,
    "url": TEXT,
}

#: What may be of any type that a body may be of: an error names the type, and the argument unless it is the body.
BODIES = {"body", "task", "result", "msg"}
PARTS = {"sender", "subject", "correlation_id"}

#: Of any type, and why.
ANY = {
    "connection_factory": "without effect",
    "task_prefetch_size": "without effect",
    "prefetch_size": "without effect",
    "prefetch_count": "without effect",
    "async_task_timeout": "without effect",
    "exchange_params": "without effect",
    "no_ack": "without effect",
    "communicator": "handed to the subscriber",
    "weak": "by its truth, as in kiwipy",
    "fail": "by its truth, as in kiwipy",
    "testing_mode": "by its truth, as in kiwipy",
    "subject_filter": "has to be equal, as in kiwipy",
    "sender_filter": "has to be equal, as in kiwipy",
}

#: The same, for one function alone.
ANY_OF = {
    ("kiwipy", "no_reply"): "by its truth, as in kiwipy",
    ("rmq", "no_reply"): "by its truth, as in kiwipy",
    ("rmq", "identifier"): "by its str, as in kiwipy",
    ("rmq", "recipient_id"): "by its str, as in kiwipy",
    ("kiwipy", "subject"): "has to be equal, as in kiwipy",
    ("kiwipy", "sender"): "has to be equal, as in kiwipy",
    ("kiwipy", "body"): "does not leave the process",
    ("kiwipy", "task"): "does not leave the process",
    ("kiwipy", "msg"): "does not leave the process",
    ("kiwipy", "correlation_id"): "does not leave the process",
}

#: By the module, where one name means different things.
WRONG_OF = {
    ("kiwipy", "identifier"): ([1], {1: 2}),
    ("kiwipy", "recipient_id"): ([1], {1: 2}),
    ("rmq", "connection_params"): (5, Odd(), ["x"]),
    ("rmq", "connection"): (5, Odd(), ["x"]),
    ("rmq", "exchange_name"): TEXT,
}

def connect_options():
    from homing._shared import ConnectOptions

    return dict.fromkeys(ConnectOptions.__annotations__)


class Scene:
    """Objects whose methods are called."""

    def __init__(self, url):
        self.url = url

    async def objects(self, stack: contextlib.AsyncExitStack):
        c = await stack.enter_async_context(homing.connect(self.url))
        b = stack.enter_context(blocking.connect(self.url))
        k = stack.enter_context(rmq.connect(self.url))
        a = await stack.enter_async_context(await rmq.async_connect(self.url))
        await c.task_queue("taken").task_send(1, no_reply=True)
        local = kiwipy.LocalCommunicator()
        local.add_rpc_subscriber(lambda *_: None, "x")
        return {
            homing.Communicator: c,
            homing.TaskQueue: c.task_queue("q"),
            homing.IncomingTask: await c.task_queue("taken").next_task(),
            blocking.Communicator: b,
            blocking.TaskQueue: b.task_queue("q"),
            rmq.RmqThreadCommunicator: k,
            rmq.RmqThreadTaskQueue: k.task_queue("q"),
            rmq.RmqCommunicator: a,
            rmq.RmqTaskQueue: await a.task_queue("q"),
            kiwipy.LocalCommunicator: local,
            kiwipy.CommunicatorHelper: local,
            kiwipy.BroadcastFilter: kiwipy.BroadcastFilter(lambda *_: None),
        }


#: Classes whose methods have no arguments, or those of a ``with`` block.
WITHOUT = {
    homing.Broadcasts,
    homing.Events,
    blocking.Broadcasts,
    blocking.Events,
    homing.RpcRequest,
    homing.TaskRequest,
    homing.Broadcast,
    rmq.RmqIncomingTask,
    rmq.RmqThreadIncomingTask,
    # An interface, whose methods do nothing.
    kiwipy.Communicator,
}

#: Values, which hold what they are given.
VALUES = {"Tagged", "Event", "CloseReport"}


def _module(module) -> str:
    return module.__name__.rpartition(".")[2]


def _own(module):
    """Its public names that are the package's own: not exceptions, and not those of the standard library."""
    for name in module.__all__:
        one = getattr(module, name)
        if isinstance(one, type) and (issubclass(one, BaseException) or name in VALUES):
            continue
        if one.__module__.startswith("homing"):
            yield name, one


def functions():
    """Each public function: its module, its class if it has one, and its name."""
    for module in (homing, blocking, kiwipy, rmq):
        for name, one in _own(module):
            if not isinstance(one, type):
                yield module, None, name
                continue
            for member, function in inspect.getmembers(one, callable):
                is_own = not member.startswith("_") or member in ("__init__", "__call__")
                if is_own and member not in ("__class__",) and _signature(function):
                    yield module, one, member


def _signature(function):
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return []
    return [name for name in parameters if name not in ("self", "_", "args", "kwargs")]


def _arguments(module, cls, name):
    function = getattr(cls or module, name)
    for parameter in _signature(function):
        if parameter == "options":
            yield from connect_options() if module in (homing, blocking) else ()
        else:
            yield parameter


#: A right one for each that has to be there.
RIGHT = {
    "body": None,
    "msg": None,
    "task": None,
    "recipient": "x",
    "recipient_id": "x",
    "identifier": "x",
    "subscriber": lambda *_: None,
    "callback": lambda *_: None,
    "queue_name": "q",
    "url": "memory:",
    "uri": "memory:",
    "connection": "memory:",
    "error": "x",
    "sender": None,
    "subject": None,
    "unique": "key",
    "source": concurrent.futures.Future(),
    "target": concurrent.futures.Future(),
    "future": concurrent.futures.Future(),
    "subject_filter": "x",
    "sender_filter": "x",
}

#: Made by a function of the package, whose class says so.
MADE = {
    homing.Communicator: "homing.connect",
    blocking.Communicator: "homing.blocking.connect",
}
MADE_BY_METHODS = {
    homing.TaskQueue,
    homing.Broadcasts,
    homing.Events,
    blocking.TaskQueue,
    blocking.Broadcasts,
    blocking.Events,
    rmq.RmqThreadTaskQueue,
    rmq.RmqIncomingTask,
    rmq.RmqThreadIncomingTask,
}


def cases():
    """Function, argument, and a wrong object for it; or a reason why any is right."""
    for module, cls, name in functions():
        if name == "__init__" and (cls in MADE or cls in MADE_BY_METHODS):
            continue
        for argument in _arguments(module, cls, name):
            key = (_module(module), argument)
            if argument in ANY or key in ANY_OF:
                continue
            if key in WRONG_OF:
                given = WRONG_OF[key]
            elif argument in PARTS and name == "broadcast_send" or argument in BODIES:
                given = (Odd(), {1: Odd()})
            elif argument == "sender":
                given = (Odd(), [Odd()])
            else:
                given = WRONG.get(argument)
            yield module, cls, name, argument, given


def test_the_table_knows_every_argument():
    unknown = [(cls or module, name, argument) for module, cls, name, argument, given in cases() if given is None]
    assert unknown == []
    known = {argument for _, _, _, argument, _ in cases()}
    # Nothing in it that no function has any more.
    assert set(WRONG) - known == set()
    assert len(list(functions())) > 80


def test_every_class_has_an_object_here(memory):
    async def main():
        async with contextlib.AsyncExitStack() as stack:
            objects = await Scene(memory).objects(stack)
            for _, cls, name in functions():
                if cls is not None and name != "__init__":
                    assert cls in objects or cls in WITHOUT, (cls, name)

    run(main(), debug=False)


async def _called(function, arguments):
    returned = function(**arguments)
    if inspect.isawaitable(returned):
        returned = await returned
    if hasattr(returned, "__aenter__"):
        async with returned:
            pass
    elif hasattr(returned, "__enter__"):
        with returned:
            pass


def _told(error: BaseException, argument: str, given: object) -> str | None:
    """What is missing in the error."""
    if not isinstance(error, TypeError):
        return f"{type(error).__name__} instead of a TypeError: {error}"
    text = str(error)
    if not re.search(rf"\b{argument}\b", text) and argument not in BODIES:
        return f"without the name: {text}"
    if not re.search(r"must be|cannot be sent", text):
        return f"without what is expected: {text}"
    inside = given
    while isinstance(inside, (list, tuple, dict)) and inside:
        inside = next(iter(inside.values())) if isinstance(inside, dict) else inside[-1]
    names = {type(given).__name__, type(inside).__name__, "int", "str", "bytes"} if inside is not given else {type(given).__name__}
    if isinstance(given, re.Pattern):
        names = {"bytes"}
    if not any(name in text for name in names):
        return f"without the type: {text}"
    return None


def test_a_wrong_type_is_a_type_error_with_the_name(memory):
    async def main():
        wrong = []
        async with contextlib.AsyncExitStack() as stack:
            objects = await Scene(memory).objects(stack)
            for module, cls, name, argument, wrong_ones in cases():
                if cls in WITHOUT and name != "__init__":
                    continue
                function = getattr(module, name) if cls is None else cls if name == "__init__" else getattr(objects[cls], name)
                parameters = inspect.signature(function).parameters
                needed = {
                    one: RIGHT[one]
                    for one, parameter in parameters.items()
                    if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
                    and parameter.kind is not parameter.VAR_POSITIONAL
                }
                for given in wrong_ones or ():
                    arguments = {**needed, argument: given}
                    if argument == "unique_for":
                        arguments["unique"] = "key"
                    what = f"{_module(module)}.{cls.__name__ + '.' if cls else ''}{name}({argument}={given!r})"
                    try:
                        await asyncio.wait_for(_called(function, arguments), 10)
                    except Exception as error:
                        fault = _told(error, argument, given)
                    else:
                        fault = "no error"
                    if fault is not None:
                        wrong.append(f"{what}: {fault}")
        assert wrong == [], "\n" + "\n".join(wrong)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"task_prefetch": -1}, "task_prefetch must be an int from 0 to 65535, not -1"),
        ({"task_prefetch": 2**70}, "task_prefetch must be an int from 0 to 65535, not 1180591620717411303424"),
        ({"task_attempts": (0, 1)}, "task_attempts[0] must be an int from 1"),
        ({"task_attempts": (1, -1)}, "task_attempts[1] is -1; it is a number of seconds, zero or more"),
        ({"task_attempts": (1,)}, "task_attempts must be a tuple of an int and a number of seconds, and has 1 items"),
        ({"in_flight": (1, 0)}, "in_flight[1] must be an int from 1"),
        ({"in_flight": (0, 0)}, "in_flight[0] must be an int from 1"),
        ({"heartbeat": 10**400}, "heartbeat is too large for a number of seconds"),
        ({"heartbeat": -1}, "heartbeat is -1; it is a number of seconds, zero or more"),
        ({"codec": "xml"}, 'the codec "xml" is not known'),
        ({"prefix": "\ud800"}, "prefix has half a surrogate pair in it"),
    ],
)
def test_what_is_out_of_range_is_an_invalid_argument_with_the_name(options, text):
    with pytest.raises(homing.InvalidArgument, match=re.escape(text)):
        blocking.connect("memory:", **options)


def test_ranges_of_calls(memory):
    with blocking.connect(memory) as c:
        for call, text in (
            (lambda: c.task_send(1, priority=256), "priority must be an int from 0 to 255, not 256"),
            (lambda: c.task_send(1, at=float("nan")), "at is NaN"),
            (lambda: c.task_send(1, at=10**400), "at is a time that this machine does not know"),
            (lambda: c.rpc_send("x", timeout=-1), "timeout is -1"),
            (lambda: c.rpc_send("x", timeout=10**400), "timeout is too large"),
            (lambda: c.add_task_subscriber(print, prefetch=0), "prefetch must be an int from 1 to 65535, not 0"),
            (lambda: c.rpc_send("\ud800"), "recipient has half a surrogate pair"),
            (lambda: c.rpc_send("x" * 300), "recipient: the identifier"),
            (lambda: c.add_rpc_subscriber("x" * 300, print), "identifier: "),
        ):
            with pytest.raises(homing.InvalidArgument, match=re.escape(text)):
                call()


def test_an_error_of_the_users_own_passes():
    class Raises:
        def __float__(self):
            raise ZeroDivisionError("of the user's own")

        def __index__(self):
            raise ZeroDivisionError("of the user's own")

    for options in ({"heartbeat": Raises()}, {"task_prefetch": Raises()}):
        with pytest.raises(ZeroDivisionError, match="own"):
            blocking.connect("memory:", **options)


def test_an_identifier_is_what_it_consists_of(memory):
    """Not what a kind of ``str`` or ``int`` shows."""
    import enum

    class Name(str, enum.Enum):
        A = "a"

    class Number(enum.IntEnum):
        ONE = 1

    class Index:
        def __index__(self):
            return 7

    one = uuid.uuid4()
    with blocking.connect(memory) as c:
        for given, name in ((Name.A, "a"), (Number.ONE, "1"), (Index(), "7"), (one, str(one)), (-(10**30), "-1" + 30 * "0")):
            assert c.add_rpc_subscriber(given, lambda request, name=name: name) == name
            assert c.rpc_send(given) == c.rpc_send(name) == name
            c.remove_rpc_subscriber(given)


@pytest.mark.parametrize("cls", MADE)
def test_a_communicator_is_not_made_by_its_class(cls):
    with pytest.raises(TypeError, match=f"made by {MADE[cls]},"):
        cls("memory:")


def test_a_connection_that_was_not_awaited_says_what_to_do():
    import contextlib
    import copy
    import inspect
    import pickle

    connecting = homing.connect("memory:")
    for name in ("rpc_send", "close", "state", "task_queue"):
        with pytest.raises(AttributeError, match="await it.*async with.*blocking") as caught:
            getattr(connecting, name)
        assert (caught.value.name, caught.value.obj) == (name, connecting)
    # Nothing is said of what a communicator has not either, and to nobody who only asks whether something is there.
    with pytest.raises(AttributeError, match="object has no attribute 'rpc_sent'"):
        connecting.rpc_sent
    for name in ("rpc_send", "_core", "__enter__", "__exit__", "__deepcopy__", "__getstate_", "__fspath__", "__len__"):
        assert not hasattr(connecting, name), name
    assert hasattr(connecting, "__await__") and inspect.isawaitable(connecting)
    for made in (copy.copy(connecting), copy.deepcopy(connecting), pickle.loads(pickle.dumps(connecting))):

        async def main(made=made):
            async with made as c:
                return c.state

        assert asyncio.run(main()) == "connected"
    with pytest.raises(TypeError, match="context manager|ExitStack|__enter__"), contextlib.ExitStack() as stack:
        stack.enter_context(connecting)


def test_the_wrong_kind_of_with_block_says_which_is_the_right_one(memory):
    def plain(communicator):
        with communicator:
            raise AssertionError("it was entered")

    async def of_loop(communicator):
        async with communicator:
            raise AssertionError("it was entered")

    async def main():
        # The one or the other, as Python's own.
        for error in (TypeError, AttributeError):
            with pytest.raises(error, match="`async with`.*homing.blocking.connect"):
                plain(homing.connect(memory))
            async with homing.connect(memory) as c:
                with pytest.raises(error, match="`async with`.*homing.blocking.connect"):
                    plain(c)
                assert not hasattr(c, "__enter__") and hasattr(c, "__aenter__")

    asyncio.run(main())
    with blocking.connect(memory) as b:
        for error in (TypeError, AttributeError):
            with pytest.raises(error, match="`with`.*`async with homing.connect"):
                asyncio.run(of_loop(b))
        assert not hasattr(b, "__aenter__") and hasattr(b, "__enter__")
        assert b.state == "connected"

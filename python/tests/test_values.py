"""Objects on their way: they arrive as what PyYAML would have made of them, and what cannot be sent is named."""

from __future__ import annotations

import datetime
import math
import os
import tempfile
import uuid

import pytest
import yaml

import homing
from homing import _native, blocking
from conftest import run

#: As the zones of many places had it before they were made even.
ODD_OFFSET = datetime.datetime(1900, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=53, seconds=28)))

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**62,
    -(2**63),
    2**63,
    -(2**63) - 1,
    2**200,
    -(10**300),
    0.0,
    1.5,
    1e-7,
    1e20,
    math.inf,
    -math.inf,
    "",
    "ä\n\t\U0001f600",
    "1e5",
    "0o17",
    "yes",
    "2024-02-29",
    b"",
    b"\x00\xff",
    [],
    [1, [2, [3]]],
    (),
    (1, (2, "x")),
    set(),
    {1, "a", (2, 3)},
    {},
    {"a": 1, 2: "b", (1, 2): None, True: False},
    datetime.date(2024, 2, 29),
    datetime.datetime(2024, 2, 29, 12, 30),
    datetime.datetime(2024, 2, 29, 12, 30, 1, 500),
    datetime.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=datetime.timezone.utc),
    datetime.datetime(1, 1, 1, 0, 0, 0, tzinfo=datetime.timezone(datetime.timedelta(hours=-9, minutes=-30))),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_reads_in_pyyaml_as_itself_and_back(value):
    theirs = yaml.load(_native.to_yaml(value), Loader=yaml.FullLoader)
    assert theirs == value and type(theirs) is type(value)
    ours = _native.from_yaml(yaml.dump(value, encoding="utf-8"))
    assert ours == value and type(ours) is type(value)


def test_nan_stays_nan():
    assert math.isnan(_native.from_yaml(_native.to_yaml(math.nan)))


def test_a_value_passes_through_a_broker(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options) as server, homing.connect(url, **options) as client:
            await server.add_rpc_subscriber("echo", lambda request: request.body)
            for value in VALUES:
                echoed = await client.rpc_send("echo", value)
                assert echoed == value and type(echoed) is type(value)
            body = {"values": VALUES}
            assert await client.rpc_send("echo", body) == body

    run(main())


def test_what_is_received_is_a_copy(memory):
    async def main():
        async with homing.connect(memory) as c:
            got = []
            await c.add_rpc_subscriber("keep", lambda request: got.append(request.body) or request.body)
            sent = [1]
            answer = await c.rpc_send("keep", sent)
            sent.append(2)
            got[0].append(3)
            assert (answer, sent, got) == ([1], [1, 2], [[1, 3]])

    run(main())


class Kind(str):
    pass


class Number(int):
    def to_bytes(self, *args, **kwargs):
        raise AssertionError("not called")


def test_kinds_of_known_types_are_sent_as_those():
    assert _native.from_yaml(_native.to_yaml([Kind("x"), Number(2**70), frozenset({1}), bytearray(b"x")])) == [
        "x",
        2**70,
        {1},
        b"x",
    ]


def test_a_tag_is_carried():
    tagged = homing.Tagged("!uuid", "1234")
    assert _native.to_yaml(tagged).startswith(b"!uuid")
    assert _native.from_yaml(b"!node {a: !x [1]}\n") == homing.Tagged("!node", {"a": homing.Tagged("!x", [1])})


@pytest.fixture(params=["memory", "local", "rabbitmq"])
def every_broker(request):
    """Of each kind: it passes values, or writes them."""
    if request.param == "local":
        with tempfile.TemporaryDirectory() as folder:
            yield f"local:{folder}", {}
    elif request.param == "memory":
        yield f"memory:{uuid.uuid4().hex}", {}
    elif os.environ.get("HOMING_TEST_AMQP"):
        yield os.environ["HOMING_TEST_AMQP"], {"prefix": f"py-{uuid.uuid4().hex}", "testing": True}
    else:
        pytest.skip("HOMING_TEST_AMQP is not set")


Tagged = homing.Tagged


@pytest.mark.parametrize("codec", ["yaml", "json"])
def test_a_receiver_gets_the_same_from_every_broker(every_broker, codec):
    url, options = every_broker
    values = {
        "yaml": [
            (Tagged("!x", 1), Tagged("!x", "1")),
            (Tagged("!x", None), Tagged("!x", "null")),
            (Tagged("!x", True), Tagged("!x", "true")),
            (Tagged("!x", 1.5), Tagged("!x", "1.5")),
            (Tagged("!x", "1"), Tagged("!x", "1")),
            (Tagged("!<!x>", "1"), Tagged("!x", "1")),
            (Tagged("!x", [1, {"a": Tagged("!y", 2)}]), Tagged("!x", [1, {"a": Tagged("!y", "2")}])),
            ({"a": (1, Tagged("!x", 2**70))}, {"a": (1, Tagged("!x", str(2**70)))}),
            (uuid.UUID(int=5), uuid.UUID(int=5)),
        ],
        "json": [((1, (2, {"a": (3,)})), [1, [2, {"a": [3]}]]), ([1.0, 2**70, "x", None], [1.0, 2**70, "x", None])],
    }

    async def main():
        async with homing.connect(url, codec=codec, **options) as c:
            got = []
            await c.add_rpc_subscriber("keep", lambda request: got.append(request.body) or request.body)
            await c.add_task_subscriber(lambda task: got.append(task.body) or task.body)
            async with c.broadcasts() as broadcasts:
                for sent, received in values[codec]:
                    answered = [await c.rpc_send("keep", sent), await c.task_send(sent)]
                    await c.broadcast_send(sent, sender=sent, subject="x")
                    broadcast = await broadcasts.__anext__()
                    everywhere = [*answered, *got, broadcast.body, broadcast.sender]
                    assert everywhere == [received] * 6, (sent, everywhere)
                    assert [type(one) for one in everywhere] == [type(received)] * 6
                    del got[:]

    run(main())


@pytest.mark.parametrize("innermost", [None, "x", [], {}, (), set(), Tagged("!x", "y")], ids=repr)
def test_who_sends_and_who_receives_have_one_limit_of_depth(every_broker, innermost):
    url, options = every_broker

    async def main():
        async with homing.connect(url, **options) as c:
            got = []
            await c.add_rpc_subscriber("keep", lambda request: got.append(request.body))
            counts = isinstance(innermost, (list, dict, tuple, set, Tagged))
            for levels in range(97, 104):
                body = innermost
                for _ in range(levels):
                    body = [body]
                if levels + counts <= 100:
                    await c.rpc_send("keep", body)
                    assert got.pop() == body
                else:
                    # By its sender, who learns where.
                    with pytest.raises(homing.EncodeError, match=r"nested deeper than 100 \(at /0/0/0"):
                        await c.rpc_send("keep", body)

    run(main())


def test_a_uuid_as_plumpy_has_pyyaml_write_it_is_one():
    value = uuid.uuid4()
    assert _native.from_yaml(f"[!uuid '{value}', !uuid 1234]".encode()) == [value, homing.Tagged("!uuid", "1234")]
    assert _native.from_yaml(b"!uuid 'no such thing'") == homing.Tagged("!uuid", "no such thing")


@pytest.mark.parametrize("value", [uuid.UUID(int=0), uuid.UUID(int=2**63), uuid.uuid4(), uuid.UUID(int=2**128 - 1)])
def test_a_uuid_is_what_pyyaml_makes_of_it(value):
    assert yaml.load(_native.to_yaml(value), Loader=yaml.UnsafeLoader) == value
    assert _native.from_yaml(yaml.dump(value, encoding="utf-8")) == value
    assert _native.from_yaml(_native.to_yaml({value: [value]})) == {value: [value]}


@pytest.mark.parametrize("fields", [{}, {"int": -1}, {"int": 2**128}, {"int": "1"}])
def test_what_is_no_uuid_stays_a_tag(fields):
    tagged = homing.Tagged("!!python/object:uuid.UUID", fields)
    assert _native.from_yaml(_native.to_yaml(tagged)) == tagged


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "type object"),
        ({"a": [1, {"b/c": 1j}]}, "type complex cannot be sent"),
        ({"a": [1, {"b/c": 1j}]}, "(at /a/1/b~1c)"),
        ([1, 2, lambda: None], "(at /2)"),
        ({(1, 2): {object()}}, "(at /(key)/(key))"),
        ("\ud800", "type str with half a surrogate pair"),
        (["x", "\ud800"], "(at /1)"),
        ({"a": {frozenset({1}): 1}}, "type frozenset cannot be sent as a key"),
        ({"a": {frozenset({1}): 1}}, "(at /a/(key))"),
        ({"a": {(1, frozenset())}}, "type frozenset cannot be sent as a key"),
        ({"a": [homing.Tagged("", 1)]}, "of type Tagged cannot be sent"),
        ({"a": [homing.Tagged("!!python/object/apply:os.system", "echo")]}, "of type Tagged cannot be sent"),
        ({"a": [ODD_OFFSET]}, "type datetime.datetime whose offset from UTC is +05:53:28 cannot be sent"),
        ({"a": [ODD_OFFSET]}, "(at /a/0)"),
        (ODD_OFFSET.astimezone(datetime.timezone(-datetime.timedelta(microseconds=1))), "offset from UTC is -00:00:00.000001"),
    ],
)
def test_what_cannot_be_sent_is_named(value, text, memory):
    with pytest.raises(homing.EncodeError) as caught:
        _native.to_yaml(value)
    assert text in str(caught.value)

    async def main():
        async with homing.connect(memory) as c:
            with pytest.raises(TypeError) as caught:
                await c.rpc_send("x", value)
            assert text in str(caught.value)

    run(main())


@pytest.mark.parametrize(
    ("value", "place"),
    [
        # Refused as it is read, and as it is written: by the package and by the library.
        ({"a": [1j]}, " (at /a/0)"),
        ({"a": [homing.Tagged("", 1)]}, " (at /a/0)"),
        ([homing.Tagged("", 1)], " (at /0)"),
        ({"body": homing.Tagged("", 1)}, " (at /body)"),
        ({"result": homing.Tagged("", 1)}, " (at /result)"),
        (homing.Tagged("", 1), ""),
    ],
)
def test_the_place_of_what_cannot_be_sent_begins_at_the_body_however_it_is_sent(value, place):
    with blocking.connect("memory:") as c:
        c.add_rpc_subscriber("return", lambda request: value)
        c.add_task_subscriber(lambda task: value)
        for send in (
            lambda: c.rpc_send("return", value, timeout=60),
            lambda: c.task_send(value, timeout=60),
            lambda: c.task_send(value, no_reply=True),
            lambda: c.broadcast_send(value),
        ):
            with pytest.raises(homing.EncodeError) as caught:
                send()
            text = str(caught.value)
            assert text.endswith(place) and ("(at" in text) == bool(place), text
        for ask in (lambda: c.rpc_send("return", timeout=60), lambda: c.task_send(1, timeout=60)):
            with pytest.raises(homing.RemoteException) as caught:
                ask()
            text = caught.value.text
            assert text.endswith(place) and ("(at" in text) == bool(place), text


def test_the_place_in_what_goes_along_with_a_broadcast_names_it():
    with blocking.connect("memory:") as c:
        for named in ("sender", "subject", "correlation_id"):
            with pytest.raises(homing.EncodeError, match=rf"\(at /{named}/0\)$"):
                c.broadcast_send(1, **{named: [homing.Tagged("", 1)]})


def test_a_list_in_itself_is_refused():
    value: list = []
    value.append(value)
    with pytest.raises(homing.EncodeError, match="contains itself"):
        _native.to_yaml(value)


def test_what_python_cannot_hold_is_a_decode_error():
    with pytest.raises(homing.DecodeError) as caught:
        _native.from_yaml(b"? !x {a: 1}\n: y\n")
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(ValueError):
        _native.from_yaml(b"{")


def test_a_result_that_cannot_be_sent_is_an_exception_of_its_caller(broker):
    url, options = broker

    async def main():
        async with homing.connect(url, **options) as c:
            await c.add_rpc_subscriber("object", lambda request: {"a": object()})
            with pytest.raises(homing.RemoteException, match=r"result cannot be sent.*type object.*at /a"):
                await c.rpc_send("object")
            # A function that returns itself.
            async def itself(request):
                return itself

            await c.add_rpc_subscriber("itself", itself)
            with pytest.raises(homing.RemoteException, match="type function cannot be sent"):
                await c.rpc_send("itself")

    run(main())


class _Changes(datetime.tzinfo):
    """Runs code of a user's while an object is read."""

    def __init__(self, change):
        self.change = change

    def utcoffset(self, _):
        self.change()
        return datetime.timedelta(0)


def _when(change):
    return datetime.datetime(2024, 2, 29, tzinfo=_Changes(change))


def test_what_is_changed_while_it_is_read_is_an_error():
    """By code of the user's that runs meanwhile, or by another thread: no panic, which would end a loop."""
    grown: dict = {}
    grown.update(a=_when(lambda: grown.update({len(grown): 1})), b=1)
    shrunk: dict = {}
    shrunk.update(a=_when(lambda: shrunk.pop("b", None)), b=1, c=2)
    for value in (grown, shrunk):
        with pytest.raises(homing.EncodeError, match="a dict was changed while it was read"):
            _native.to_yaml([value])
    members: set = set()
    armed = []
    members.update({_when(lambda: armed and members.add(len(members))), 1})
    armed.append(True)
    with pytest.raises(homing.EncodeError, match="changed size during iteration"):
        _native.to_yaml([members])
    items: list = []
    items += [_when(items.clear), 1]
    assert len(_native.from_yaml(_native.to_yaml(items))) == 1


def test_a_dict_whose_keys_are_exchanged_while_it_is_read():
    """Of the same size all the time."""
    for count in range(1, 20):
        value: dict = {}

        def exchange(value=value, fresh=iter(range(10**6))):
            value.pop(next(reversed(value)))
            value[f"new {next(fresh)}"] = _when(exchange)

        value.update({n: _when(exchange) for n in range(count)})
        try:
            _native.to_yaml(value)
        except homing.EncodeError as error:
            assert "changed" in str(error)


def test_a_tag_that_is_no_string_is_named():
    with pytest.raises(homing.EncodeError, match=r"tag must be a str, not int \(at /a\)"):
        _native.to_yaml({"a": homing.Tagged(5, 1)})

"""What type checkers are told is what there is: the stub of the native half, and the file of typed uses.

That mypy and pyright accept both is checked by ``tests/tools/python-types``.
"""

from __future__ import annotations

import ast
import inspect
import pathlib

import pytest
import typed_uses
from conftest import run

import homing
from homing import _native, blocking, kiwipy
from homing.kiwipy import rmq

STUB = ast.parse(pathlib.Path(homing.__file__).with_name("_native.pyi").read_text())
USES = ast.parse(pathlib.Path(typed_uses.__file__).read_text())


def _parameters(function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    assert not arguments.vararg and not arguments.kwonlyargs and not arguments.kwarg, function.name
    return [one.arg for one in (*arguments.posonlyargs, *arguments.args)]


def _same(name: str, stub: ast.FunctionDef, found: object) -> None:
    try:
        real = list(inspect.signature(found).parameters)
    except ValueError:
        return
    if stub.name.startswith("__"):
        return
    assert _parameters(stub) == real, name


def _public(names):
    return {name for name in names if not name.startswith("_")}


def test_the_stub_has_what_the_native_half_has():
    assert {node.name for node in STUB.body if hasattr(node, "name")} == _public(vars(_native))
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            _same(node.name, node, getattr(_native, node.name))
        elif isinstance(node, ast.ClassDef):
            found = getattr(_native, node.name)
            members = {member.name: member for member in node.body if isinstance(member, ast.FunctionDef)}
            assert _public(members) == _public(vars(found)), node.name
            for name, member in members.items():
                is_property = bool(member.decorator_list)
                assert is_property == inspect.isdatadescriptor(getattr(found, name)), (node.name, name)
                if not is_property:
                    _same(f"{node.name}.{name}", member, getattr(found, name))


@pytest.mark.parametrize(
    ("function", "classes"),
    [
        (
            "of_loops",
            [homing.Communicator, homing.TaskQueue, homing.Broadcasts, homing.Events, homing.IncomingTask],
        ),
        ("of_threads", [blocking.Communicator, blocking.TaskQueue, blocking.Broadcasts, blocking.Events]),
        (
            "of_kiwipy",
            [
                kiwipy.LocalCommunicator,
                kiwipy.BroadcastFilter,
                rmq.RmqThreadCommunicator,
                rmq.RmqThreadTaskQueue,
                rmq.RmqThreadIncomingTask,
            ],
        ),
        ("of_kiwipys_loops", [rmq.RmqCommunicator, rmq.RmqTaskQueue, rmq.RmqIncomingTask]),
        ("double", [homing.RpcRequest]),
        ("work", [homing.TaskRequest]),
        ("heard", [homing.Broadcast]),
        ("exceptions", [homing.Tagged]),
    ],
)
def test_every_public_method_has_a_typed_use(function, classes):
    (body,) = [node for node in USES.body if getattr(node, "name", "") == function]
    used = {node.attr for node in ast.walk(body) if isinstance(node, ast.Attribute)}
    for cls in classes:
        members = _public(dir(cls))
        assert members - used <= {"body"}, (cls, sorted(members - used))


def test_every_public_name_has_a_typed_use():
    used = {node.attr for node in ast.walk(USES) if isinstance(node, ast.Attribute)}
    for module in (homing, blocking, kiwipy, rmq):
        assert set(module.__all__) - used - {"Error"} == set(), module


def test_the_typed_uses_run(memory):
    typed_uses.exceptions()
    run(typed_uses.of_loops(memory))
    typed_uses.of_threads(memory)
    typed_uses.of_kiwipy(memory)
    run(typed_uses.of_kiwipys_loops(memory))

"""AiiDA's broker plugin: its parts beside what stands for AiiDA's modules here, and with ``HOMING_TEST_AIIDA``, the interpreter of
an installed AiiDA, a profile on ``local:`` whose daemon runs, pauses, plays and kills processes.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import faulthandler
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types
import uuid

import pytest

PYTHON = pathlib.Path(__file__).resolve().parent.parent
PASSWORD = "s3cr:t"


# Without AiiDA


@dataclasses.dataclass(frozen=True)
class _Field:
    """As aiida.brokers.broker.BrokerConfigField."""

    name: str
    prompt: str
    help: str
    default: object
    param_type: str
    choices: tuple[str, ...] | None = None
    hide_input: bool = False
    expose_cli: bool = True


class _Broker:
    """As aiida.brokers.broker.Broker, as far as the plugin uses it."""

    _config_fields: tuple[_Field, ...] = ()

    def __init__(self, profile):
        self._profile = profile

    @classmethod
    def get_default_config(cls):
        return {field.name: field.default for field in cls._config_fields}


class _Profile:
    def __init__(self, url=None, *, is_test_profile=False):
        self.name = "typed"
        self.uuid = uuid.uuid4().hex
        self.process_control_backend = "core.zeromq"
        self.process_control_config = {} if url is None else {"broker_url": url}
        self.is_test_profile = is_test_profile

    def set_process_controller(self, name, config):
        self.process_control_backend, self.process_control_config = name, config


class _Config:
    def __init__(self):
        self.profile = _Profile()
        self.default_profile_name = self.profile.name
        self.stored = 0

    def get_profile(self, name):
        assert name == self.profile.name
        return self.profile

    def update_profile(self, profile):
        assert profile is self.profile
        return self

    def store(self):
        self.stored += 1


def _serialize(body, encoding=None):
    assert encoding == "utf-8"
    return b"aiida:" + repr(body).encode()


def _deserialize(text):
    text = bytes(text)
    assert text.startswith(b"aiida:"), text
    return ast.literal_eval(text[6:].decode())


@pytest.fixture
def aiida(monkeypatch):
    """The plugin, on modules that stand for AiiDA's; ``config`` is AiiDA's configuration."""
    config = _Config()
    contents = {
        "aiida": {},
        "aiida.brokers": {},
        "aiida.brokers.broker": {"Broker": _Broker, "BrokerConfigField": _Field},
        "aiida.common": {},
        "aiida.common.log": {"AIIDA_LOGGER": logging.getLogger("aiida")},
        "aiida.manage": {},
        "aiida.manage.configuration": {
            "get_config_option": {"daemon.worker_process_slots": 3}.__getitem__,
            "get_config": lambda: config,
        },
        "aiida.orm": {},
        "aiida.orm.utils": {
            "serialize": types.SimpleNamespace(serialize=_serialize, deserialize_unsafe=_deserialize)
        },
    }
    for name, members in contents.items():
        module = types.ModuleType(name)
        module.__path__ = []
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "homing.aiida", raising=False)
    import homing.aiida as plugin

    yield types.SimpleNamespace(plugin=plugin, config=config)
    sys.modules.pop("homing.aiida", None)


@pytest.fixture
def url(broker):
    url, _ = broker
    return url


def test_it_needs_no_configuration(aiida):
    (field,) = aiida.plugin.HomingBroker._config_fields
    assert field.name == "broker_url" and field.default == "local:" and field.param_type == "non_empty_string"
    assert aiida.plugin.HomingBroker.get_default_config() == {"broker_url": "local:"}
    assert aiida.plugin.HomingBroker(_Profile()).url == "local:"
    # What an older configuration has, or one that somebody has edited.
    assert aiida.plugin.HomingBroker(_Profile("")).url == "local:"


def test_what_is_no_profile_is_a_type_error_with_the_name(aiida):
    with pytest.raises(TypeError, match=r"profile must be a profile of AiiDA, not str"):
        aiida.plugin.HomingBroker("profile")


def test_secrets_are_hidden(aiida, caplog, capsys):
    secret = f"amqp://ada:{PASSWORD}@127.0.0.1:1/x,amqp://ada:{PASSWORD}@127.0.0.1:2"
    broker = aiida.plugin.HomingBroker(_Profile(secret))
    assert str(broker) == "homing @ amqp://ada:***@127.0.0.1:1/x,amqp://ada:***@127.0.0.1:2"
    status = broker.probe_service_status()
    assert status["connected"] is False
    aiida.plugin.main(["--broker-url", secret])
    shown = repr(broker) + str(broker) + repr(status) + caplog.text + capsys.readouterr().out
    assert PASSWORD not in shown and "127.0.0.1:1" in shown


def test_a_broker_that_is_not_there_is_reported_and_not_raised(aiida):
    broker = aiida.plugin.HomingBroker(_Profile("amqp://127.0.0.1:1"))
    status = broker.probe_service_status()
    assert status["connected"] is False and "127.0.0.1:1" in status["error"]
    assert broker.check_service_reachable() is False
    with pytest.raises(ConnectionError):
        broker.get_communicator()
    broker.close()


def test_the_status_of_a_broker(aiida, url):
    broker = aiida.plugin.HomingBroker(_Profile(url, is_test_profile=True))
    status = broker.probe_service_status()
    assert status["connected"] is True and status["product"] and status["version"], status
    json.dumps(status)
    # A probe leaves no connection behind, and does not close one that is used.
    assert broker._open.communicator is None
    communicator = broker.get_communicator()
    assert broker.check_service_reachable() is True
    assert broker.get_communicator() is communicator and not communicator.is_closed()
    broker.close()
    assert communicator.is_closed()
    broker.close()
    again = broker.get_communicator()
    assert again is not communicator and not again.is_closed()
    broker.close()


def test_bodies_are_aiidas(aiida, url):
    broker = aiida.plugin.HomingBroker(_Profile(url, is_test_profile=True))
    communicator = broker.get_communicator()
    communicator.add_rpc_subscriber(lambda _, message: [message, "answered"], "7")
    assert communicator.rpc_send("7", {"a": (1, 2j)}).result(timeout=30) == [{"a": (1, 2j)}, "answered"]
    broker.close()


def test_the_tasks_that_wait_are_there_after_a_look_at_them(aiida, url):
    profile = _Profile(url, is_test_profile=True)
    # As several commands of AiiDA's, one after the other, each with a communicator of its own. The first one stays, as a daemon.
    daemon = aiida.plugin.HomingBroker(profile)
    for pid in range(3):
        daemon.get_communicator().task_send({"task": "continue", "args": {"pid": pid}}, no_reply=True)

    def command(*, ends=None, looks=1):
        broker = aiida.plugin.HomingBroker(profile)
        try:
            for _ in range(looks):
                seen = []
                for task in broker.iterate_tasks():
                    seen.append(task.body["args"]["pid"])
                    if seen[-1] == ends:
                        with task.processing() as outcome:
                            outcome.set_result(False)
                yield sorted(seen)
        finally:
            broker.close()

    # `verdi process repair` looks twice, and ends those that belong to no process.
    assert list(command(looks=2)) == [[0, 1, 2], [0, 1, 2]]
    assert list(command(ends=1)) == [[0, 1, 2]]
    assert list(command()) == [[0, 2]]
    daemon.close()


def test_a_broker_that_nobody_closes_closes_when_it_goes(aiida, memory):
    broker = aiida.plugin.HomingBroker(_Profile(memory))
    communicator = broker.get_communicator()
    del broker
    assert communicator.is_closed()


def test_a_profile_is_turned_over(aiida, capsys):
    aiida.plugin.main([])
    profile = aiida.config.profile
    assert (profile.process_control_backend, profile.process_control_config) == ("homing", {"broker_url": "local:"})
    assert aiida.config.stored == 1
    assert capsys.readouterr().out == "typed: the broker is homing @ local:; it was core.zeromq\n"
    aiida.plugin.main(["typed", "--broker-url", "memory:x"])
    assert profile.process_control_config == {"broker_url": "memory:x"}


# With AiiDA


#: How long one command of AiiDA's may take, and the whole, in seconds, on a machine that does much else.
COMMAND, WHOLE = 120, 900


class _Aiida:
    """A folder of AiiDA's with one profile. All that runs for it ends with the test."""

    def __init__(self, python, folder):
        self.python = python
        self.folder = folder
        installed = folder / "installed"
        self.environment = {
            **os.environ,
            "AIIDA_PATH": str(folder),
            # `local:` is in a folder of the user's.
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / "data"),
            "PATH": os.pathsep.join([str(pathlib.Path(python).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(installed), str(PYTHON.parent / "tests" / "peers")]),
            "PYTHONWARNINGS": "ignore",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._install(installed)

    @staticmethod
    def _install(folder):
        """The package as pip would install it: with the entry points of its metadata."""
        import homing

        metadata = folder / "homing-0.1.0.dist-info"
        metadata.mkdir(parents=True)
        (folder / "homing").symlink_to(pathlib.Path(homing.__file__).parent)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: homing\nVersion: 0.1.0\n")
        project = (PYTHON / "pyproject.toml").read_text()
        section = project.split('[project.entry-points."aiida.brokers"]\n')[1].split("\n\n")[0]
        points = [line.split(" = ") for line in section.splitlines()]
        (metadata / "entry_points.txt").write_text(
            "[aiida.brokers]\n" + "".join(f"{name} = {ast.literal_eval(place)}\n" for name, place in points)
        )

    def run(self, *command, code=0):
        # A daemon inherits what the command has open, so not pipes.
        output = self.folder / "output"
        with output.open("w") as file:
            done = subprocess.run(
                [str(part) for part in command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=COMMAND,
                cwd=self.folder,
            )
        text = output.read_text()
        assert done.returncode == code, f"{command}: {done.returncode}\n{text}"
        return text

    def verdi(self, *arguments, code=0):
        return self.run(pathlib.Path(self.python).with_name("verdi"), *arguments, code=code)

    def left_running(self):
        mark = f"AIIDA_PATH={self.folder}".encode()
        found = []
        for environment in pathlib.Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environment.read_bytes().split(b"\0"):
                    found.append(int(environment.parent.name))
        return found


@pytest.fixture
def live(tmp_path):
    python = os.environ.get("HOMING_TEST_AIIDA")
    if not python:
        pytest.skip("HOMING_TEST_AIIDA is not set: tests/run --full sets it")
    # It takes longer than other tests may.
    faulthandler.cancel_dump_traceback_later()
    faulthandler.dump_traceback_later(WHOLE, exit=True)
    one = _Aiida(python, tmp_path)
    try:
        yield one
    finally:
        for pid in one.left_running():
            print(f"process {pid} of AiiDA's is killed")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(tmp_path, ignore_errors=True)


class _Peer:
    """AiiDA's own library, at work on the profile."""

    def __init__(self, one):
        script = PYTHON.parent / "tests" / "peers" / "aiida_peer.py"
        self.child = subprocess.Popen(
            [one.python, str(script)],
            env=one.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=one.folder,
        )

    def ask(self, **request):
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        assert line, f"{request}: the peer has ended"
        answer = json.loads(line)
        assert "ok" in answer, (request, answer)
        return answer["ok"]

    def until(self, pk, **wanted):
        """Waits until AiiDA's storage has this of a process."""
        end = time.monotonic() + COMMAND
        while True:
            found = self.ask(do="look", pk=pk)
            if wanted.items() <= found.items():
                return
            assert time.monotonic() < end, f"process {pk} is {found}, and not {wanted}"
            time.sleep(0.05)

    def close(self):
        self.child.stdin.close()
        self.child.wait(timeout=COMMAND)


def test_a_live_aiida_runs_on_it_in_full(live):
    live.verdi("presto", "--non-interactive", "--profile-name", "acc", "--use-zeromq")
    turned = live.run(live.python, "-m", "homing.aiida")
    assert turned == "acc: the broker is homing @ local:; it was core.zeromq\n"
    live.verdi(
        "code", "create", "core.code.installed", "--non-interactive", "--label", "add", "--computer", "localhost",
        "--default-calc-job-plugin", "core.arithmetic.add", "--filepath-executable", "/bin/bash",
    )  # fmt: skip
    live.verdi("daemon", "start", "1", "--timeout", "60")
    status = live.verdi("status")
    assert "homing @ local:" in status and "Daemon is running" in status, status
    peer = _Peer(live)
    try:
        # A job, and one that lasts.
        job = peer.ask(do="job", x=3, y=4)
        peer.until(job, state="finished", exit_status=0)
        assert "7" in live.verdi("calcjob", "outputcat", job)

        # A process is paused, played and killed.
        first, second = (peer.ask(do="submit", seconds=0.0, **{"class": "Waits"}) for _ in range(2))
        for pk in (first, second):
            peer.until(pk, state="waiting", paused=False)
        live.verdi("process", "pause", first, second, "--timeout", "60")
        for pk in (first, second):
            peer.until(pk, state="waiting", paused=True)
        live.verdi("process", "play", first, "--timeout", "60")
        peer.until(first, state="waiting", paused=False)
        assert peer.ask(do="look", pk=second)["paused"]
        # The task of a process that is killed while it is paused ends with the worker: plumpy goes on waiting for a play.
        live.verdi("process", "play", second, "--timeout", "60")
        peer.until(second, state="waiting", paused=False)
        live.verdi("process", "kill", first, second, "--timeout", "60")
        for pk in (first, second):
            peer.until(pk, state="killed")

        # The daemon goes, with the broker in it or not, and comes again: what it had in hand goes on.
        third = peer.ask(do="submit", seconds=0.0, **{"class": "Waits"})
        peer.until(third, state="waiting")
        live.verdi("daemon", "stop", "--timeout", "60")
        # Its task waits at the broker for a daemon to come, and belongs to a process that goes on.
        assert "No inconsistencies" in live.verdi("process", "repair", "--dry-run")
        fourth = peer.ask(do="submit", seconds=0.0, **{"class": "Sleeps"})
        live.verdi("daemon", "start", "1", "--timeout", "60")
        peer.until(fourth, state="finished", exit_status=0)
        live.verdi("process", "kill", third, "--timeout", "60")
        peer.until(third, state="killed")
    finally:
        peer.close()
    live.verdi("daemon", "stop", "--timeout", "60")
    end = time.monotonic() + 10
    while live.left_running():
        assert time.monotonic() < end, f"the daemon has left {live.left_running()} running"
        time.sleep(0.05)

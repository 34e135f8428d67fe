"""The wheels that ``python/build`` makes, in a virtual environment that has nothing else."""

from __future__ import annotations

import faulthandler
import os
import pathlib
import re
import subprocess
import sys

import pytest

PYTHON = pathlib.Path(__file__).resolve().parent.parent
ROOT = PYTHON.parent
#: An optimised build of all, in seconds.
BUILD = 1400


def run(*command, environment=None, limit=300):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=limit, env=environment, cwd="/"
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.skipif(os.environ.get("HOMING_TEST_FULL") != "1", reason="full: an optimised build; tests/run --full")
def test_the_wheels_are_built_installed_and_used_in_full(tmp_path):
    faulthandler.cancel_dump_traceback_later()
    faulthandler.dump_traceback_later(BUILD + 60, exit=True)
    wheels = tmp_path / "wheels"
    # Not the interpreter that runs the tests, whose variables are for what lies beside them.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CARGO", "RUST", "LD_"))}
    clean.update(
        {name: os.environ[name] for name in ("CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN") if name in os.environ}
    )
    printed = run(PYTHON / "build", wheels, environment=clean, limit=BUILD)
    (ours, standin) = sorted(wheels.iterdir(), key=lambda wheel: wheel.name)
    for wheel in (ours, standin):
        assert re.search(rf"^{re.escape(str(wheel))}  {wheel.stat().st_size} bytes$", printed, re.M), printed
    assert re.fullmatch(r"homing-[\d.]+-cp310-abi3-[\w.]+\.whl", ours.name), ours.name
    if sys.platform == "linux":
        assert "manylinux_2_17_" in ours.name, ours.name
    assert re.fullmatch(r"kiwipy-0\.9\.0\+homing\.\d+-py3-none-any\.whl", standin.name), standin.name
    assert ours.stat().st_size < 8_000_000 and standin.stat().st_size < 100_000

    folder = tmp_path / "venv"
    run(sys.executable, "-m", "venv", folder, environment=clean)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "-q", ours, standin, environment=clean)
    # `local:` is in a folder of the user's.
    clean.update(HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path / "data"))
    example = re.search(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.M | re.S)[1]
    for url in ("memory:", "local:"):
        program = example.replace('"memory:"', repr(url))
        assert url in program
        assert run(python, "-X", "dev", "-W", "error", "-c", program, environment=clean) == "42\n"
    stands_in = "import kiwipy, kiwipy.rmq; print(kiwipy.rmq.RmqThreadCommunicator.__module__)"
    assert run(python, "-c", stands_in, environment=clean) == "homing.kiwipy.rmq\n"
    files = run(python, "-m", "pip", "--disable-pip-version-check", "show", "-f", "homing", environment=clean)
    for name in ("homing/py.typed", "homing/_native.pyi", "homing/_native.abi3.so", "entry_points.txt"):
        assert name in files, files

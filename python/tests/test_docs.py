"""The examples of the documentation, each as a program of its own."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = ("docs/python.md", "python/README.md")
PRINTED = {
    ("docs/python.md", 0): "42\n",
    ("docs/python.md", 1): "hello Ada\na name is a string ValueError\n",
    ("docs/python.md", 2): "42\n",
    ("docs/python.md", 3): "49\n",
    ("docs/python.md", 4): "4 state_changed.running.finished\n",
    ("docs/python.md", 5): "42\n",
    ("docs/python.md", 6): "42\n",
    ("docs/python.md", 7): "(3+3j)\n",
    ("python/README.md", 0): "42\n",
}
EXAMPLES = [
    (page, number, example)
    for page in PAGES
    for number, example in enumerate(re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S))
]


def test_every_example_is_here():
    assert {(page, number) for page, number, _ in EXAMPLES} == set(PRINTED)


@pytest.mark.parametrize(("page", "number", "example"), EXAMPLES, ids=lambda part: str(part)[:20])
def test_an_example_runs(page, number, example):
    done = subprocess.run([sys.executable, "-X", "dev", "-c", example], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    printed = PRINTED[page, number]
    assert done.stdout.startswith(printed), (done.stdout, done.stderr)
    assert "not closed" not in done.stderr and "never" not in done.stderr

"""Copies of one process find what a new interpreter would find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.forks import ForkServer
from tests.shrinking.export.conftest import GUARD


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    made = ForkServer("import json", {"A_NAME": "1"})
    yield made
    made.close()


def test_code_has_a_folder_and_names_of_its_own(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("value = 3\n")
    code = "import os, beside\nprint(os.getcwd(), beside.value, os.environ['A_NAME'])\nown = 1"
    assert server.run(code, tmp_path) == f"{tmp_path} 3 1\n"
    with pytest.raises(AssertionError, match="name 'own' is not defined"):
        server.run("own", tmp_path)
    with pytest.raises(AssertionError, match="name 'json' is not defined"):
        server.run("json", tmp_path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "-9"),
        (f"import criticalmass{GUARD}", "line 3, in <module>\nAssertionError"),
    ],
)
def test_code_that_fails_is_noticed(
    server: ForkServer, tmp_path: Path, code: str, words: str
) -> None:
    with pytest.raises(AssertionError, match=words):
        server.run(code, tmp_path)
    assert server.run(f"print(2){GUARD}", tmp_path) == "2\n"

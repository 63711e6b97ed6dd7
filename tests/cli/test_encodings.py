"""No command ends in a UnicodeEncodeError, whatever the terminal or pipe can show."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from criticalmass.cli.main import main

NAMES = ("té", "中文", "x→y")
OPTIONS = ("--measure", "ridge", "--measure", "cka", "--fraction", "0.5", "--fraction", "1")


def run(encoding: str, *words: object) -> tuple[int, str, str]:
    """Run a command whose output has an encoding; return its exit code, stdout and stderr."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for _ in range(2)]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams
    try:
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
    finally:
        sys.stdout, sys.stderr = before
    texts = [stream.buffer.getvalue() for stream in streams]  # type: ignore[attr-defined]
    return int(str(left.value.code)), *(text.decode("utf-8", "replace") for text in texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and a run whose classes and dataset have letters of several alphabets."""
    folder = tmp_path_factory.mktemp("encodings")
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = rng.normal(size=(3, 12))[y] + rng.normal(size=(90, 12))
    np.savez(folder / "→中.npz", x=x.astype(np.float32), y=np.array(NAMES)[y])
    assert run("utf-8", "import", folder / "→中.npz", "--out", folder / "f")[0] == 0
    sweep = ("sweep", folder / "f", "--out", folder / "r", "--seeds", 2, *OPTIONS)
    assert run("utf-8", *sweep)[0] == 0
    return folder


COMMANDS = (
    ("redundancy", "r"),
    ("fairness", "r"),
    ("info", "r"),
    ("info", "f"),
    ("list", "measures"),
    ("explain", "f"),
    ("sweep", "f", "--out", "r", "--seeds", "2", *OPTIONS),
    ("import", "→中.npz", "--out", "g中"),
    ("sweep", "--help"),
    ("--help",),
)
MISTAKES = (("redundancy", "→中"), ("list", "中"), ("import", "→.npz", "--out", "x"), ("→",))


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_every_command_writes_in_every_encoding(
    folder: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for words in COMMANDS:
        code, _, err = run(encoding, *words)
        assert code == 0, (words, err)
    for words in MISTAKES:
        code, _, err = run(encoding, *words)
        assert code == 2, (words, err)
        assert err.count("error: ") == 1


def test_tables_are_spelled_in_ascii(folder: Path) -> None:
    _, wide, _ = run("utf-8", "redundancy", folder / "r")
    _, narrow, _ = run("ascii", "redundancy", folder / "r")
    assert "█" in wide
    assert narrow.isascii()
    assert narrow.replace("8", "█").count("█") >= wide.count("█")
    digits = [word for word in wide.split() if word.replace(".", "").isdigit()]
    assert all(digit in narrow for digit in digits)


@pytest.mark.parametrize("form", ["json", "csv"])
def test_what_programs_read_is_utf8(folder: Path, form: str) -> None:
    forms = {
        encoding: run(encoding, "fairness", folder / "r", "--format", form)[1]
        for encoding in ("utf-8", "cp1252")
    }
    assert forms["utf-8"] == forms["cp1252"]
    if form == "json":
        assert "→中" in {row["dataset"] for row in json.loads(forms["cp1252"])}


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text here")
def test_a_name_that_is_no_utf8_is_one_line(folder: Path, tmp_path: Path) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/v\xff.npz")
    np.savez(name, x=np.random.default_rng(0).normal(size=(40, 4)))
    code, _, err = run("utf-8", "import", name, "--out", tmp_path / "f")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: the name of a file or folder is not UTF-8")
    assert r"\udcff" in err


def test_a_process_with_another_encoding(folder: Path) -> None:
    """The streams of a real process: the terminal's encoding is set before the program starts."""
    done = subprocess.run(
        [sys.executable, "-c", "from criticalmass.cli.main import main; main()", "info", "r"],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"kind" in done.stdout
    done.stdout.decode("cp1252")

"""Containers whose installation and home are read-only or missing, and users without a home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from criticalmass.core import compilation, progress
from criticalmass.errors import DataUnavailableError
from criticalmass.extraction.cache import cache_folder, make_cache_folder

# numba finds no folder for its cache: neither beside the sources nor in a home can be written.
PROGRAM = """
import sys
from numba.core import caching
for implementation in (caching.CacheImpl, *caching.CacheImpl.__subclasses__()):
    implementation._locator_classes = []
from criticalmass.cli.main import main
main(sys.argv[1:])
"""


def run(folder: Path, home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    unset = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")
    variables = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        cwd=folder, env={**variables, "HOME": str(home)},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.fixture
def no_home(tmp_path: Path) -> Path:
    """The path of a home that can neither be read nor be made."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "home"


def test_a_run_and_a_figure_without_any_cache(tmp_path: Path, no_home: Path) -> None:
    y = np.arange(60) % 2
    x = np.random.default_rng(0).normal(size=(60, 6)) + 9.0 * y[:, None]
    np.savez(tmp_path / "v.npz", x=x, y=y)
    assert run(tmp_path, no_home, "import", "v.npz", "--out", "f", "-q").returncode == 0
    options = ("--measure", "ridge", "--seeds", "1", "--fraction", "0.5", "--fraction", "1")
    swept = run(tmp_path, no_home, "sweep", "f", "--out", "r", *options)
    assert swept.returncode == 0, swept.stderr
    lines = swept.stderr.splitlines()
    assert [line for line in lines if "cache" in line] == lines[:1]
    assert "set NUMBA_CACHE_DIR to a folder" in lines[0]
    drawn = run(tmp_path, no_home, "figure", "value", "r", "--out", "v.svg", "-q")
    assert (drawn.returncode, drawn.stderr) == (0, "")


def test_without_a_home_no_folder_of_that_name_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``~`` stays ``~`` for a user that the system does not know."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    compilation._write_note.cache_clear()

    def plus_one(number: float) -> float:
        return number + 1.0

    with progress.display():
        assert compilation.njit()(plus_one)(2.0) == 3.0
        assert compilation.njit("f8(f8)")(plus_one)(2.0) == 3.0
    assert capsys.readouterr().err.count("is not cached") == 1
    assert not list(tmp_path.iterdir())


def test_downloads_that_cannot_be_stored_name_the_variable(
    tmp_path: Path, no_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRITICALMASS_CACHE", raising=False)
    for folder in (str(no_home / "cache"), "~/.cache/criticalmass"):
        monkeypatch.setattr("platformdirs.user_cache_dir", lambda _, folder=folder: folder)
        with pytest.raises(DataUnavailableError, match="set CRITICALMASS_CACHE to a folder"):
            make_cache_folder(cache_folder() / "debian")
    assert not (tmp_path / "~").exists()
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path / "cache"))
    make_cache_folder(cache_folder() / "debian")
    assert (tmp_path / "cache" / "debian").is_dir()

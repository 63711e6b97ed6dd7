"""Full disks, read-only folders and two writers: an error names them, and no file is partial."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from criticalmass.cli.main import main
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run

SWEEP = ("--fraction", "0.1", "--fraction", "1", "--seeds", "2", "--measure", "ridge")


def run_command_line(capsys: pytest.CaptureFixture[str], *command: object) -> tuple[int, str]:
    """Run a command; return its exit code and stderr."""
    with pytest.raises(SystemExit) as left:
        main([str(part) for part in command])
    return int(str(left.value.code)), capsys.readouterr().err


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    x, y = load_digits(return_X_y=True)
    path = tmp_path / "digits.npz"
    np.savez(path, X=x.astype(np.float32), y=y)
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB; only a superuser can."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mount.returncode:
        pytest.skip(f"no small disk can be mounted here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def enlarge(disk: Path, options: str = "size=64m") -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_an_import_continues_after_a_full_disk(
    small_disk: Path,
    vectors: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The space may be gone only after it was checked."""
    out = small_disk / "features"
    usage = shutil.disk_usage(vectors.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 40))
    code, err = run_command_line(capsys, "import", vectors, "-q", "--out", out)
    assert code == 2
    assert "No space left" in err
    assert "free some" in err
    assert str(out) in err
    assert err.count("error: ") == 1
    assert not list(small_disk.rglob(".*.part"))
    enlarge(small_disk)
    assert run_command_line(capsys, "import", vectors, "-q", "--out", out)[0] == 0
    stored = np.concatenate(
        [FeatureStore.open(out).features(split).array() for split in ("train", "test")]
    )
    np.testing.assert_allclose(stored.sum(), np.load(vectors)["X"].sum())


def test_an_import_that_cannot_fit_is_refused_before_it_writes(
    vectors: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, array = tmp_path / "features", tmp_path / "x.npy"
    np.save(array, np.load(vectors)["X"])
    n_bytes = array.stat().st_size
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=n_bytes // 2))
    code, err = run_command_line(capsys, "import", array, "-q", "--out", out)
    assert code == 2
    assert err.count("\n") == 1
    assert f"takes {n_bytes / 1e9:.3g} GB" in err
    assert "use --link" in err
    assert not out.exists()
    assert run_command_line(capsys, "import", array, "-q", "--out", out, "--link")[0] == 0
    table = tmp_path / "x.csv"
    np.savetxt(table, np.load(array), delimiter=",")
    code, err = run_command_line(capsys, "import", table, "-q", "--out", tmp_path / "other")
    assert code == 2
    assert "--link" not in err
    assert "free some space" in err


def test_a_sweep_continues_after_a_full_disk(
    small_disk: Path, vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = tmp_path / "features", small_disk / "run"
    run_command_line(capsys, "import", vectors, "-q", "--out", store)
    # Leave space for a few files, so that the sweep stops in the middle.
    (small_disk / "other").write_bytes(bytes(216 * 1024))
    code, err = run_command_line(capsys, "sweep", store, "--out", out, *SWEEP)
    assert code == 2
    assert "No space left" in err
    assert str(out) in err
    assert not [path for path in out.rglob(".*") if path.is_file()]
    enlarge(small_disk)
    assert run_command_line(capsys, "sweep", store, "--out", out, *SWEEP)[0] == 0
    assert run_command_line(capsys, "sweep", store, "--out", tmp_path / "whole", *SWEEP)[0] == 0
    continued, complete = (
        Run.open(p).frame().drop(columns="seconds") for p in (out, tmp_path / "whole")
    )
    assert continued.to_dict("records") == complete.to_dict("records")


def test_a_disk_that_cannot_be_written(
    small_disk: Path, vectors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enlarge(small_disk, "ro")
    code, err = run_command_line(capsys, "import", vectors, "-q", "--out", small_disk / "features")
    assert code == 2
    assert "Read-only file system" in err
    assert "choose another path" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES])
def test_an_error_of_the_system_is_one_line(
    number: int,
    vectors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a small disk: writing the third file fails."""
    written = []
    original_open = Path.open

    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            super().write(content[: len(content) // 2])
            raise OSError(number, os.strerror(number))

    def open_or_fail(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if mode == "wb":
            written.append(path)
        is_full = mode == "wb" and len(written) >= 3
        return Full(path, "w") if is_full else original_open(path, mode, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", open_or_fail)
        code, err = run_command_line(capsys, "import", vectors, "-q", "--out", tmp_path / "out")
    assert code == 2
    assert os.strerror(number) in err
    assert str(tmp_path / "out") in err
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob(".*.part"))
    assert run_command_line(capsys, "import", vectors, "-q", "--out", tmp_path / "out")[0] == 0


def test_two_processes_on_one_run(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = tmp_path / "features", tmp_path / "run"
    run_command_line(capsys, "import", vectors, "-q", "--out", store)
    run_command_line(capsys, "sweep", store, "--out", out, *SWEEP)
    before = Run.open(out).frame()
    writer = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(out)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "held\n"
        code, err = run_command_line(capsys, "sweep", store, "--out", out, *SWEEP, "--seeds", "3")
        assert code == 2
        assert f"process {writer.pid}" in err
        assert Run.open(out).frame().equals(before)
    finally:
        writer.kill()
        writer.communicate()
    # The system has freed the lock of the killed process; what it wrote of itself is replaced.
    assert (out / "writer.json").exists()
    assert run_command_line(capsys, "sweep", store, "--out", out, *SWEEP, "--seeds", "3")[0] == 0
    assert not (out / "writer.json").exists()
    assert len(Run.open(out).frame()) > len(before)


_HOLD = """
import sys, time
from criticalmass.storage.run import Run
with Run.open(sys.argv[1]).writer():
    print("held", flush=True)
    time.sleep(600)
"""

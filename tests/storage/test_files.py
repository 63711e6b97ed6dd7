"""Files are written whole or not at all, by one function; manifests are read by one function."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.figure
import pandas as pd
import pytest

import criticalmass
from criticalmass.errors import CriticalMassError, RunError, StoreError
from criticalmass.reporting.tables import write_table
from criticalmass.shrinking.export.torch_folder import TORCH_FOLDER
from criticalmass.shrinking.slim_model import SLIM_MODEL
from criticalmass.storage.files import (
    STORE,
    FolderKind,
    read_manifest,
    scratch_path,
    write_atomically,
    write_json,
    write_manifest,
)
from criticalmass.storage.run import RUN

SOURCES = Path(criticalmass.__file__).parent
# These move whole folders or downloads, and write into a temporary folder before.
MOVERS = {
    "storage/files.py",
    "shrinking/export/folder.py",
    "extraction/datasets/debian_packages.py",
    "extraction/datasets/demo_images.py",
    "extraction/packages.py",
}
WRITES = re.compile(
    r"\.write_(text|bytes)\(|os\.(replace|rename|link)\(|open\([^)]*[\"'][wx]b?[\"']"
    r"|\.to_(parquet|csv)\((?!index|buffer|file)|\.savefig\((?!buffer|file)"
)


def test_nobody_else_writes_files() -> None:
    """Other code calls `storage.files`, or hands it a function that fills an open file."""
    writers = {
        str(path.relative_to(SOURCES))
        for path in SOURCES.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if WRITES.search(line) and "os.fdopen(" not in line
    }
    assert writers == MOVERS


def table(path: Path) -> None:
    write_table(pd.DataFrame({"a": range(9)}), form="csv", out=path)


def drawing(path: Path) -> None:
    plot = matplotlib.figure.Figure()
    write_atomically(path, lambda file: plot.savefig(file, format="svg"), durable=False)


def json_file(path: Path) -> None:
    write_json(path, list(range(99)))


@pytest.mark.parametrize("write", [table, drawing, json_file])
def test_a_full_disk_leaves_the_earlier_file(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("earlier", encoding="utf-8")
    original_open = Path.open

    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            super().write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_full(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        return Full(path, "w") if mode == "wb" else original_open(path, mode, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", open_full)
        with pytest.raises(OSError, match="No space left") as error:
            write(path)
    assert str(path) in str(error.value)
    assert path.read_text(encoding="utf-8") == "earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    write(path)
    assert path.read_text(encoding="utf-8") != "earlier"


def test_temporary_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".f.99999999.part").touch()
    (tmp_path / f".f.{os.getppid()}.part").touch()
    scratch_path(tmp_path / "f")
    assert [entry.name for entry in tmp_path.iterdir()] == [f".f.{os.getppid()}.part"]


KINDS = pytest.mark.parametrize("kind", [STORE, RUN, SLIM_MODEL, TORCH_FOLDER])


def write(folder: Path, kind: FolderKind, **changes: Any) -> None:
    manifest = {"format": kind.format, "format_version": kind.newest, "n": 7, **changes}
    write_manifest(folder, manifest)
    (folder / "manifest.json").rename(folder / kind.file)


@KINDS
def test_every_kind_of_folder_is_read_by_the_same_rules(tmp_path: Path, kind: FolderKind) -> None:
    def says(text: str) -> None:
        with pytest.raises(CriticalMassError, match=text) as error:
            read_manifest(tmp_path, kind)
        assert type(error.value) is kind.error
        assert "\n" not in str(error.value)

    says(f"no {kind.noun} at .* make one with: criticalmass {kind.command}")
    write(tmp_path, kind)
    assert read_manifest(tmp_path, kind)["n"] == 7
    path = tmp_path / kind.file
    content = path.read_text(encoding="utf-8")
    for damage in (content[:9], "", "[" * 100_000, "\ufeff{}"):
        path.write_text(damage, encoding="utf-8")
        says("is not readable JSON .* restore it, or delete")
    path.write_bytes(b"\xff\xfe{")
    says("is not readable JSON")
    path.write_text(content.replace('"n": 7', '"n": 8'), encoding="utf-8")
    says("is damaged .* restore it, or delete")
    for other in ("[]", "7", '{"format": "x", "format_version": 1}'):
        path.write_text(other, encoding="utf-8")
        says(f"holds no {kind.noun}")
    write(tmp_path, kind, format_version=kind.newest + 1)
    says(f"has format version {kind.newest + 1} but .* up to {kind.newest}; update criticalmass")
    for version in (0, None, "1"):
        write(tmp_path, kind, format_version=version)
        says("has the format version")


def test_both_names_of_the_version_are_read_and_no_digest_is_no_damage(tmp_path: Path) -> None:
    """Manifests of runs call it ``version``; those of before digests were written have none."""
    for key in ("version", "format_version"):
        manifest = {"format": RUN.format, key: 1, "n": 7}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert read_manifest(tmp_path, RUN) == manifest


def test_errors_of_runs_and_stores_differ(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        read_manifest(tmp_path, RUN)
    with pytest.raises(StoreError):
        read_manifest(tmp_path, STORE)

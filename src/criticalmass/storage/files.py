"""Files of a feature store: atomic writes, digests, and the guard on a manifest's paths."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import StoreError
from criticalmass.storage.digests import opened, sealed

MANIFEST = "manifest.json"
FORMAT = "criticalmass-features"
FORMAT_VERSION = 2
"""The newest version that is read."""
PLAIN_VERSION, LINKED_VERSION = 1, 2
"""What is written: stores of shards alone stay readable to older versions of the package."""


def scratch_beside(path: Path, ending: str = "part") -> Path:
    """Name the temporary place beside a file or folder that is about to be written.

    What processes that died left of the same file is removed.

    Raises
    ------
    StoreError: the place has no name, as "/" and ".".
    """
    if not path.name:
        raise StoreError(f"{str(path)!r} is no name of a file or folder that could be written")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.{ending}"):
        pid = left.name.removesuffix(f".{ending}").rpartition(".")[2]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.{ending}")


def is_alive(pid: int) -> bool:
    """Whether a process of this host exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an error of the system that names none, as that of a full disk."""
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
    """Write a file under a temporary name in its folder, then move it into place.

    Parameters
    ----------
    path: where the file shall stand; its folder is made.
    fill: writes the content to the open file.
    temporary: the temporary name; one with the number of this process by default.
    durable: wait until the content is on the disk before the file takes its place. Not needed
        where a digest tells a damaged file, which is then made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path):
            with temporary.open("wb") as file:
                fill(file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> str:
    """Write a file so that it is either whole or absent; see `write_atomically`.

    Returns
    -------
    The SHA-256 digest of what was written, in hex.
    """
    scratch = scratch_beside(path)
    write_atomically(path, lambda file: file.write(content), temporary=scratch, durable=durable)
    return hashlib.sha256(content).hexdigest()


def remove_temporary(folder: Path) -> None:
    """Remove what a killed writer left half-written in a folder, one of version 0.1 (.tmp) too."""
    for pattern in (".*.part", ".*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def write_array(path: Path, array: NDArray[Any]) -> str:
    """Write an array as ``.npy``; the same contract as :func:`write_bytes`."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return write_bytes(path, buffer.getvalue())


def write_json(path: Path, content: object, *, indent: int = 1, durable: bool = False) -> str:
    """Write readable JSON, keys in the order given; the same contract as `write_bytes`."""
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    return write_bytes(path, text.encode(), durable=durable)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a folder's manifest with its seal; the same contract as :func:`write_bytes`."""
    write_json(folder / MANIFEST, sealed(manifest))


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(folder: Path, name: object) -> Path:
    """Resolve a path that a manifest names; it may not leave the store's folder.

    Raises
    ------
    StoreError: the path is absolute, climbs out, or goes through a link that does.
    """
    if isinstance(name, str) and name:
        path = (folder / name).resolve()
        if path.is_relative_to(folder.resolve()):
            return path
    raise StoreError(
        f"manifest of {str(folder)!r} names {name!r}, which is outside the folder; "
        "the store was tampered with, extract it again"
    )


def checked(folder: Path, entry: Mapping[str, Any], *, verify: bool) -> Path:
    """Return the path of a file of the manifest, compared with its digest if asked.

    Raises
    ------
    StoreError: the file is missing, or is not what was written (truncated, flipped bits).
    """
    path = inside(folder, entry.get("path"))
    if not path.is_file():
        raise StoreError(f"{str(path)!r} is missing from its folder; make it again")
    if verify and file_digest(path) != entry.get("sha256"):
        raise StoreError(
            f"{str(path)!r} is damaged (its digest is not the manifest's); "
            "delete it and run the same command again"
        )
    return path


def read_manifest(
    folder: Path,
    kind: str = FORMAT,
    newest: int = FORMAT_VERSION,
    what: str = "feature store",
) -> dict[str, Any]:
    """Read a folder's manifest and check that this version of the package understands it.

    Parameters
    ----------
    folder: where it should be.
    kind: the format it must say it is of.
    newest: version of that format that this package knows.
    what: the folder in words, for messages.

    Raises
    ------
    StoreError: no such folder, not JSON, another kind of folder, or a newer format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise StoreError(f"no {what} at {str(folder)!r} (it has no {MANIFEST})")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{str(path)!r} is not readable JSON ({error}); delete {str(folder)!r} and make "
            f"the {what} again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != kind:
        raise StoreError(f"{str(folder)!r} is no {what} (its manifest says otherwise)")
    version = manifest.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise StoreError(f"{str(path)!r} has the format version {version!r}; make the {what} again")
    if version > newest:
        raise StoreError(
            f"{str(folder)!r} is of format {version}, this criticalmass reads up to "
            f"{newest}; update criticalmass"
        )
    whole = opened(manifest)
    if whole is None:
        raise StoreError(
            f"{str(path)!r} is damaged (it is not what was written); restore it, or delete "
            f"{str(folder)!r} and make the {what} again"
        )
    return whole

"""Vectors in files of ``torch.save``: a tensor, or a dictionary of tensors. No code is run."""

from __future__ import annotations

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from criticalmass.core.arrays import as_numpy, is_tensor
from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.vectors.archives import ArrayInfo, open_archive
from criticalmass.extraction.vectors.source import VectorRequest, Vectors, VectorSource
from criticalmass.storage.untrusted import check_unpacked, check_zip

_STORED_BYTES = 4


def open_torch(path: Path, request: VectorRequest) -> Vectors:
    """Open a file of ``torch.save``; see ``open_vectors``.

    Dictionaries in dictionaries are read too: ``{"train": {"x": ...}}`` holds ``train/x``.

    Raises
    ------
    MissingExtraError: torch is not installed.
    CriticalMassError: the file is not readable, contains code, or holds no tensors.
    """
    content = _load(path)
    if is_tensor(content):
        if request.column is not None:
            raise CriticalMassError(
                f"{str(path)!r} holds one tensor; leave out column={request.column!r}"
            )
        source = _tensor_source(content, f"the tensor in {str(path)!r}", path)
        return Vectors(path.name, {"all": source}, files=(path,), origin="a tensor")
    if isinstance(content, (list, tuple)):
        content = {str(index): value for index, value in enumerate(content)}
    tensors = _flatten(content) if isinstance(content, Mapping) else {}
    if not tensors:
        raise CriticalMassError(
            f"{str(path)!r} holds {type(content).__name__} and no tensors; save the vectors with "
            "torch.save(x, path) or torch.save({'x': x, 'y': y}, path)"
        )
    return open_archive(_TensorArchive(path, tensors), request)


class _TensorArchive:
    """The tensors and lists of a dictionary; a tensor is converted when it is read."""

    unit = "tensor"

    def __init__(self, path: Path, tensors: Mapping[str, Any]) -> None:
        self.path, self.tensors = path, tensors
        self.arrays: Mapping[str, ArrayInfo] = {
            name: _info(value) for name, value in tensors.items()
        }

    def source(self, name: str) -> VectorSource:
        """Return a matrix of vectors, which is read later."""
        what = f"tensor {name!r} of {str(self.path)!r}"
        if not is_tensor(self.tensors[name]):
            raise CriticalMassError(f"{what} is a list; the vectors must be a tensor")
        return _tensor_source(self.tensors[name], what, self.path)

    def load(self, name: str) -> Any:
        """Read an array of labels."""
        check_unpacked(self.path, _STORED_BYTES * math.prod(self.arrays[name].shape))
        return self.tensors[name]


def _tensor_source(tensor: Any, name: str, path: Path) -> VectorSource:
    # An expanded or sparse tensor has few values in the file, whatever its shape.
    check_unpacked(path, _STORED_BYTES * math.prod(tensor.shape))
    return VectorSource.from_array(as_numpy(tensor, name), name)


def _info(value: Any) -> ArrayInfo:
    if not is_tensor(value):
        return ArrayInfo((len(value),), type(value).__name__, is_real=False)
    kind = str(value.dtype).removeprefix("torch.")
    is_real = not (value.is_complex() or kind == "bool")
    return ArrayInfo(tuple(value.shape), kind, is_real)


def _flatten(content: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return name -> tensor, or list of labels, of dictionaries in dictionaries."""
    arrays: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if is_tensor(value):
            arrays[name] = value
        elif isinstance(value, Mapping):
            arrays.update(_flatten(value, f"{name}/"))
        elif isinstance(value, (list, tuple)):
            arrays[name] = value
    return arrays


def _load(path: Path) -> Any:
    check_zip(path)
    torch = import_package("torch", "torch")
    try:
        with warnings.catch_warnings():
            # torch warns of pickle protocols that it reads nonetheless.
            warnings.simplefilter("ignore", UserWarning)
            # Tensors of a memory-mapped file take memory only when they are read.
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported (?:class|type) ([\w.]+)", str(error))
        if code is None:
            raise _unreadable_error(path) from error
        raise CriticalMassError(
            f"{str(path)!r} contains {code[1] or code[2]}, which is refused because reading it "
            "could run code; save tensors only: torch.save({'x': x, 'y': y}, path)"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AssertionError, OSError) as error:
        raise _unreadable_error(path) from error


def _unreadable_error(path: Path) -> CriticalMassError:
    return CriticalMassError(
        f"{str(path)!r} is damaged or is not a file of torch.save; save the tensors again"
    )

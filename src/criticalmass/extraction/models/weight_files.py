"""Weights from a file: what is in it, out of its wrappers. No file's code is ever run."""

from __future__ import annotations

import importlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.optional_imports import import_torch
from criticalmass.storage.untrusted import check_zip

if TYPE_CHECKING:
    from torch import Tensor

# Where training scripts put the state dict in a checkpoint, in the order of preference.
_HOLDERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
# What DataParallel, torch.compile, Lightning and the like put before every name.
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.")
# MadryLab's robustness keeps the attacker's copy of the network beside it, and the scaling.
_ATTACKER, _NORMALIZER = "attacker.", "normalizer."


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Attributes
    ----------
    path: the file.
    state: name -> weight.
    mean, std: of values in 0..1 per channel, where the file says how images were scaled.
    """

    path: Path
    state: Mapping[str, Tensor]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def readings(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield the weights as they are named, then with one wrapper's prefix less each time."""
        state = self.state
        yield state
        while (prefix := _shared_prefix(state)) is not None:
            state = {name.removeprefix(prefix): value for name, value in state.items()}
            yield state


def read_weights(path: Path) -> WeightFile:
    """Read ``.safetensors``, ``.npz`` or a file of ``torch.save``.

    Raises
    ------
    CriticalMassError: no such file, it holds no weights, or they are wrapped in pickled code.
    """
    if not path.is_file():
        raise CriticalMassError(f"no weight file {str(path)!r}")
    if path.suffix == ".npz":
        return WeightFile(path, _read_npz(path))
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _out_of_the_attacker(WeightFile(path, _state_dict(path, content)))


def _read_safetensors(path: Path) -> Any:
    safetensors = importlib.import_module("safetensors")
    try:
        return importlib.import_module("safetensors.torch").load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    check_zip(path)
    torch = import_torch()
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise refused(path, "objects") from error
        raise _unreadable(path, error) from error
    return {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in arrays.items()}


def _read_torch(path: Path) -> Any:
    check_zip(path)
    torch = import_torch()
    # Checkpoints hold accuracies as NumPy numbers; to make these runs no code.
    numbers = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    scalar = np.float64(0.0).__reduce__()[0]
    allowed = [*numbers, scalar, (scalar, "numpy.core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            # It warns of pickle protocols that it reads nonetheless.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported (?:class|type) ([\w.]+)", str(error))
        if code is None:
            raise _unreadable(path, ValueError("it is no file of torch.save")) from error
        raise refused(path, code[1] or code[2]) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AssertionError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CriticalMassError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return CriticalMassError(f"{str(path)!r} holds no readable weights: {reason}")


def refused(path: str | Path, what: str) -> CriticalMassError:
    """Word the refusal of a file, or of a folder with one, that holds pickled code."""
    return CriticalMassError(
        f"{str(path)!r} holds pickled code ({what}), which is refused and was not run; save the "
        "weights alone: model.state_dict(), best as safetensors"
    )


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    torch = import_torch()
    while isinstance(content, Mapping):
        holder = next((key for key in _HOLDERS if isinstance(content.get(key), Mapping)), None)
        if holder is None:
            break
        content = content[holder]
    if not isinstance(content, Mapping) or not content:
        raise CriticalMassError(f"{str(path)!r} holds no state dict (name -> tensor)")
    weights = {name: one for name, one in content.items() if torch.is_tensor(one)}
    if len(weights) < len(content):
        other = next(str(name) for name in content if name not in weights)
        raise CriticalMassError(
            f"{str(path)!r} holds no state dict (name -> tensor); {other!r} is none"
        )
    return weights


def _shared_prefix(state: Mapping[str, Any]) -> str | None:
    return next((one for one in _PREFIXES if all(name.startswith(one) for name in state)), None)


def _out_of_the_attacker(file: WeightFile) -> WeightFile:
    """Keep the network of an ``AttackerModel``, and how it scales its input."""
    for state in file.readings():
        scaling = {part: state.get(f"{_NORMALIZER}new_{part}") for part in ("mean", "std")}
        if any(name.startswith(_ATTACKER) for name in state) or None not in scaling.values():
            kept = {
                name: value
                for name, value in state.items()
                if not name.startswith((_ATTACKER, _NORMALIZER))
            }
            mean, std = (
                None if one is None else tuple(round(float(v), 6) for v in one.flatten())
                for one in scaling.values()
            )
            return WeightFile(file.path, kept, mean, std)
    return file

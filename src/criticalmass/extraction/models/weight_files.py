"""Read weights from a file and remove the wrappers of training scripts. No code is ever run."""

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
from criticalmass.extraction.models.frozen import error_reason
from criticalmass.extraction.models.optional_imports import import_torch
from criticalmass.storage.untrusted import check_zip

if TYPE_CHECKING:
    from torch import Tensor

# Keys under which training scripts store the state dict in a checkpoint, in order of preference.
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
# Prefixes that DataParallel, torch.compile, Lightning and similar libraries add to every name.
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.")
# MadryLab's robustness also stores the attacker's copy of the network, and the scaling of images.
_ATTACKER, _NORMALIZER = "attacker.", "normalizer."


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Attributes
    ----------
    path: the file.
    state: name -> weight.
    mean, std: mean and standard deviation per channel of images with values in 0..1; None if the
        file does not hold them.
    """

    path: Path
    state: Mapping[str, Tensor]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def unwrapped_states(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield the weights under their own names, then with one shared prefix less each time."""
        state = self.state
        yield state
        while (prefix := _common_prefix(state)) is not None:
            state = {name.removeprefix(prefix): value for name, value in state.items()}
            yield state


def read_weights(path: Path) -> WeightFile:
    """Read ``.safetensors``, ``.npz`` or a file of ``torch.save``.

    Raises
    ------
    CriticalMassError: the file does not exist, holds no weights, or contains pickled code.
    """
    if not path.is_file():
        raise CriticalMassError(f"no weight file {str(path)!r}")
    if path.suffix == ".npz":
        return WeightFile(path, _read_npz(path))
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _strip_attacker(WeightFile(path, _state_dict(path, content)))


def _read_safetensors(path: Path) -> Any:
    safetensors = importlib.import_module("safetensors")
    try:
        return importlib.import_module("safetensors.torch").load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable_error(path, error) from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    check_zip(path)
    torch = import_torch()
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise pickled_code_error(path, "objects") from error
        raise _unreadable_error(path, error) from error
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _read_torch(path: Path) -> Any:
    check_zip(path)
    torch = import_torch()
    # Checkpoints hold accuracies as NumPy numbers, and making these runs no code.
    numbers = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]
    scalar = np.float64(0.0).__reduce__()[0]
    allowed = [*numbers, scalar, (scalar, "numpy.core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            # torch warns of pickle protocols that it reads nonetheless.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported (?:class|type) ([\w.]+)", str(error))
        if code is None:
            reason = ValueError("it is not a file of torch.save")
            raise _unreadable_error(path, reason) from error
        raise pickled_code_error(path, code[1] or code[2]) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AssertionError) as error:
        raise _unreadable_error(path, error) from error


def _unreadable_error(path: Path, error: Exception) -> CriticalMassError:
    return CriticalMassError(f"{str(path)!r} holds no readable weights: {error_reason(error)}")


def pickled_code_error(path: str | Path, content: str) -> CriticalMassError:
    """Make the error for a file, or a folder with a file, that contains pickled code."""
    return CriticalMassError(
        f"{str(path)!r} contains pickled code ({content}), which is refused and was not run; save "
        "only the weights, model.state_dict(), preferably as safetensors"
    )


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    torch = import_torch()
    while isinstance(content, Mapping):
        key = next((key for key in _STATE_DICT_KEYS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CriticalMassError(f"{str(path)!r} holds no state dict (name -> tensor)")
    weights = {name: value for name, value in content.items() if torch.is_tensor(value)}
    if len(weights) < len(content):
        other = next(str(name) for name in content if name not in weights)
        raise CriticalMassError(
            f"{str(path)!r} holds no state dict (name -> tensor); {other!r} is not a tensor"
        )
    return weights


def _common_prefix(state: Mapping[str, Any]) -> str | None:
    return next(
        (prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in state)), None
    )


def _strip_attacker(file: WeightFile) -> WeightFile:
    """Extract the network of an ``AttackerModel``, and the mean and deviation of its input."""
    for state in file.unwrapped_states():
        scaling = {part: state.get(f"{_NORMALIZER}new_{part}") for part in ("mean", "std")}
        if any(name.startswith(_ATTACKER) for name in state) or None not in scaling.values():
            network = {
                name: value
                for name, value in state.items()
                if not name.startswith((_ATTACKER, _NORMALIZER))
            }
            mean, std = (
                None
                if value is None
                else tuple(round(float(number), 6) for number in value.flatten())
                for value in scaling.values()
            )
            return WeightFile(file.path, network, mean, std)
    return file

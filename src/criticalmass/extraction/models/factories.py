"""Models that the user's own code makes: ``module:package.module:factory``."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.models.frozen import FrozenModel, find_classifier, state_digest
from criticalmass.extraction.models.image_models import image_model, scaled_like
from criticalmass.extraction.models.optional_imports import import_torch
from criticalmass.extraction.models.preprocess import ImagePreprocess, VectorPreprocess
from criticalmass.extraction.models.weight_files import WeightFile, read_weights
from criticalmass.extraction.models.weight_names import load_into
from criticalmass.extraction.specs import Spec, choice_option, integer_option

if TYPE_CHECKING:
    from torch import nn

_MODALITIES = ("image", "vector")


def load_factory(spec: Spec, weights: Path | None) -> FrozenModel:
    """Call a factory that takes no argument and returns a torch module, or a ``FrozenModel``.

    A module that takes images gets RGB of ``px`` pixels (default 224, bicubic), scaled with mean
    and deviation 0.5; with ``?modality=vector`` it gets the vectors as float32.

    Parameters
    ----------
    spec: ``module:package.module:factory``; the package is also looked for in the working folder.
    weights: a state dict to load into the module, strictly.

    Raises
    ------
    CriticalMassError: nothing importable of that name, or it returns something else.
    """
    torch = import_torch()
    package, colon, name = spec.name.rpartition(":")
    if not colon or not package or not name:
        raise CriticalMassError(f"model {spec.text!r} must be module:package.module:factory")
    made = _factory(spec, package, name)()
    if isinstance(made, FrozenModel):
        return dataclasses.replace(made, spec=spec.text)
    if not isinstance(made, torch.nn.Module):
        raise CriticalMassError(
            f"{spec.name!r} returned {type(made).__name__}; it must return a torch.nn.Module"
        )
    file = None if weights is None else read_weights(weights)
    if file is not None:
        load_into(made, file, name)
    made.eval().requires_grad_(False)
    source = (f"file {weights.name}" if weights else f"as {spec.name} made it", state_digest(made))
    return _freeze(spec, made, file, source)


def _factory(spec: Spec, package: str, name: str) -> Callable[[], Any]:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
        raise CriticalMassError(
            f"no module {package!r} for model {spec.text!r}; it must be importable from here"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    factory = getattr(module, name, None)
    if not callable(factory):
        public = [key for key, value in vars(module).items() if callable(value)]
        raise unknown_name(f"factory in {package!r}", name, public)
    found: Callable[[], Any] = factory
    return found


def _freeze(
    spec: Spec, made: nn.Module, file: WeightFile | None, source: tuple[str, str]
) -> FrozenModel:
    name = spec.name.rpartition(":")[2]
    if choice_option(spec, "modality", "image", _MODALITIES) == "image":
        pixels = integer_option(spec, "px", 224)
        half = (0.5, 0.5, 0.5)
        preprocess = ImagePreprocess(pixels, pixels, "bicubic", mean=half, std=half)
        return image_model(spec, name, made, scaled_like(preprocess, file), source)
    return FrozenModel(
        spec=spec.text,
        name=name,
        modality="vector",
        module=made,
        root=made,
        preprocess=VectorPreprocess(),
        weights=source[0],
        weights_digest=source[1],
        penultimate=find_classifier(made, spec.text),
    )

"""Models that the user's own code makes: ``module:package.module:factory``."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.models.frozen import (
    FrozenModel,
    WeightSource,
    state_digest,
)
from criticalmass.extraction.models.image_models import image_model, with_file_scaling
from criticalmass.extraction.models.optional_imports import import_torch, import_torchvision
from criticalmass.extraction.models.penultimate import find_penultimate, input_width
from criticalmass.extraction.models.preprocess import ImagePreprocess, VectorPreprocess
from criticalmass.extraction.models.weight_files import WeightFile, read_weights
from criticalmass.extraction.models.weight_names import load_into
from criticalmass.extraction.specs import Spec, choice_option, integer_option

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

_MODALITIES = ("image", "vector")
_DEFAULT_PIXELS = 224


def load_factory(spec: Spec, weights: Path | None) -> FrozenModel:
    """Call a factory that takes no argument and returns a torch module or a ``FrozenModel``.

    A module for images gets RGB images of ``px`` pixels (default 224, bicubic), scaled with mean
    and standard deviation 0.5. With ``?modality=vector`` a module gets vectors as float32.

    Parameters
    ----------
    spec: ``module:package.module:factory``; the package may lie in the working directory.
    weights: a state dict to load into the module, strictly.

    Raises
    ------
    CriticalMassError: the factory cannot be imported, or it returns something else.
    """
    torch = import_torch()
    package, colon, name = spec.name.rpartition(":")
    if not colon or not package or not name:
        raise CriticalMassError(f"model {spec.text!r} must be module:package.module:factory")
    model = _import_factory(spec, package, name)()
    if isinstance(model, FrozenModel):
        return dataclasses.replace(model, spec=spec.text)
    if not isinstance(model, torch.nn.Module):
        raise CriticalMassError(
            f"{spec.name!r} returned {type(model).__name__}; it must return a torch.nn.Module"
        )
    file = None if weights is None else read_weights(weights)
    if file is not None:
        load_into(model, file, name)
    model.eval().requires_grad_(False)
    description = f"file {weights.name}" if weights else f"as {spec.name} made it"
    return _freeze(spec, model, file, WeightSource(description, state_digest(model)))


def _import_factory(spec: Spec, package: str, name: str) -> Callable[[], Any]:
    working_directory = str(Path.cwd())
    is_added = working_directory not in sys.path
    if is_added:
        sys.path.insert(0, working_directory)
    try:
        module = _import_user_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        if not (isinstance(error, ModuleNotFoundError) and _is_part(error.name or "", package)):
            raise CriticalMassError(
                f"module {package!r} of model {spec.text!r} cannot be imported: "
                f"{type(error).__name__}: {error}; python -c 'import {package}' shows where"
            ) from error
        raise CriticalMassError(
            f"no module {package!r} for model {spec.text!r}; it must be importable from the "
            "working directory"
        ) from error
    finally:
        if is_added:
            sys.path.remove(working_directory)
    attribute = getattr(module, name, None)
    if not callable(attribute):
        callables = [key for key, value in vars(module).items() if callable(value)]
        raise unknown_name(f"factory in {package!r}", name, callables)
    factory: Callable[[], Any] = attribute
    return factory


def _is_part(name: str, package: str) -> bool:
    """Whether a name is that of a package, or of one around it."""
    return f"{package}.".startswith(f"{name}.")


def _import_user_module(package: str) -> ModuleType:
    """Import the user's module; repair a torchvision that does not fit the torch, and try again."""
    try:
        return importlib.import_module(package)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import_torchvision()
    return importlib.import_module(package)


def _freeze(
    spec: Spec, module: nn.Module, file: WeightFile | None, source: WeightSource
) -> FrozenModel:
    name = spec.name.rpartition(":")[2]
    if choice_option(spec, "modality", "image", _MODALITIES) == "image":
        pixels = integer_option(spec, "px", _DEFAULT_PIXELS)
        half = (0.5, 0.5, 0.5)
        preprocess = ImagePreprocess(pixels, pixels, "bicubic", mean=half, std=half)
        return image_model(spec, name, module, with_file_scaling(preprocess, file), source)
    return FrozenModel(
        spec=spec.text,
        name=name,
        modality="vector",
        module=module,
        root=module,
        preprocess=VectorPreprocess(),
        weights=source.description,
        weights_digest=source.digest,
        penultimate=find_penultimate(module, lambda: _run_vectors(module)),
    )


def _run_vectors(module: nn.Module) -> Any:
    """Run a network on two vectors of the width that its first matrix takes."""
    return module(import_torch().zeros(2, input_width(module) or 1))

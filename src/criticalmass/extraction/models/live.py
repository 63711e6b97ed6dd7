"""Models that the user holds: torch modules, among them those of sentence-transformers."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import write_line
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.frozen import (
    FrozenModel,
    Modality,
    WeightSource,
    error_reason,
    evaluation_mode,
    state_digest,
)
from criticalmass.extraction.models.hf_models import with_processor
from criticalmass.extraction.models.image_models import image_model, timm_preprocess
from criticalmass.extraction.models.optional_imports import import_after_torchvision, import_torch
from criticalmass.extraction.models.penultimate import (
    MODEL_OUTPUT,
    find_penultimate,
    input_width,
)
from criticalmass.extraction.models.preprocess import (
    ImagePreprocess,
    TensorPreprocess,
    VectorPreprocess,
)
from criticalmass.extraction.models.text_models import encoder_model
from criticalmass.extraction.specs import LIVE, Spec

if TYPE_CHECKING:
    from torch import nn

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MOST_LETTERS = 500


def is_live(value: Any) -> bool:
    """Whether a value is a torch module; torch is not imported."""
    return hasattr(value, "named_modules") and hasattr(value, "forward")


def load_live(
    model: nn.Module, preprocess: Callable[[Any], Any] | None, device: str
) -> FrozenModel:
    """Describe a module of the user, which stays as it is, where it is.

    Weights of another type than float32 are computed with in a float32 copy.

    Parameters
    ----------
    model: the module; the module inside one of torch.compile or DataParallel is read.
    preprocess: function of one sample that returns the module's input; or the tokenizer or image
        processor of a model of transformers, or the processor of both, with which a model of two
        towers (CLIP) is read in its joint space.
    device: ``"auto"``, or the device that the module must be on.

    Raises
    ------
    CriticalMassError: the module is on another device, or its weights cannot be read.
    """
    torch = import_torch()
    for name in ("_orig_mod", "module"):
        inside = getattr(model, name, None)
        if isinstance(inside, torch.nn.Module) and len(list(model.children())) == 1:
            model = inside
    kind = type(model)
    place = getattr(next(model.parameters(), None), "device", torch.device("cpu"))
    if device != "auto" and torch.device(device).type != place.type:
        raise CriticalMassError(
            f"model {kind.__name__} is on {str(place)!r}, not on {device!r}; move it with "
            f"model.to({device!r}), or leave out device="
        )
    others = {str(w.dtype) for w in model.parameters() if w.is_floating_point()} - {"torch.float32"}
    if others or getattr(getattr(model, "config", None), "mask_ratio", None):
        model = copy.deepcopy(model).float()
        write_line(f"{kind.__name__}: computed in a float32 copy ({', '.join(sorted(others))})")
    try:
        digest = state_digest(model)
    except Exception as error:
        raise CriticalMassError(
            f"the weights of {kind.__name__} cannot be read ({error_reason(error)}); run one batch "
            "through it, or load its weights, first"
        ) from error
    source = WeightSource(f"live object of {kind.__module__}.{kind.__qualname__}", digest)
    with evaluation_mode(model):
        frozen = _describe(model, preprocess, source)
    text_tower = frozen.text_tower
    if text_tower is not None:
        text_tower = dataclasses.replace(text_tower, live=model)
    return dataclasses.replace(frozen, live=model, text_tower=text_tower)


def _describe(
    model: Any, preprocess: Callable[[Any], Any] | None, source: WeightSource
) -> FrozenModel:
    kind = type(model).__name__
    spec = Spec(f"{LIVE}:{kind}", LIVE, kind, {})
    bases = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(model).mro()}
    if "sentence_transformers.SentenceTransformer" in bases:
        if preprocess is not None:
            raise CriticalMassError(f"{kind} has its own preprocessing; leave out preprocess=")
        path = getattr(getattr(model[0], "auto_model", None), "name_or_path", "")
        return encoder_model(spec, _short_name(path) or kind, model, source)
    config = getattr(model, "config", None)
    is_processor = hasattr(preprocess, "save_pretrained")
    if "transformers.PreTrainedModel" in bases and is_processor:
        frozen = with_processor(spec, model, preprocess, source)
        return dataclasses.replace(
            frozen, name=_short_name(getattr(config, "_name_or_path", "")) or kind
        )
    if preprocess is not None and not callable(preprocess):
        raise CriticalMassError(
            f"preprocess={preprocess!r} must be a function of one sample that returns the input of "
            f"{kind}"
        )
    architecture = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    return FrozenModel(
        spec=spec.text,
        name=str(architecture or kind),
        modality="tensor",
        module=model,
        root=model,
        preprocess=(
            TensorPreprocess()
            if preprocess is None
            else TensorPreprocess(preprocess, _describe_function(preprocess))
        ),
        weights=source.description,
        weights_digest=source.digest,
        penultimate=MODEL_OUTPUT,
    )


def _short_name(path: str) -> str:
    return str(path).rstrip("/").rpartition("/")[2]


def _describe_function(function: Callable[[Any], Any]) -> str:
    """Describe a function in one line that is the same in another process."""
    name = getattr(function, "__qualname__", None)
    text = f"{function.__module__}.{name}" if name else repr(function)
    return " ".join(_ADDRESS.sub("", text).split())[:_MOST_LETTERS]


def fit_to_data(model: FrozenModel, modality: Modality, items: Any) -> FrozenModel:
    """Choose how a live module gets the samples of a dataset, and find its penultimate layer.

    Parameters
    ----------
    model: from `load_live`, in evaluation mode; a model with a tokenizer or an image processor is
        returned unchanged, and of two towers the one that takes the samples.
    modality: of the dataset.
    items: some samples of the dataset.

    Raises
    ------
    CriticalMassError: the samples are not what the module takes.
    """
    preprocess = model.preprocess
    if model.text_tower is not None and modality == "text":
        return model.text_tower
    if not isinstance(preprocess, TensorPreprocess):
        return model
    if preprocess.function is None and modality in ("image", "text", "audio"):
        return _ready_made(model, modality)
    if preprocess.function is None and modality == "vector":
        return _with_penultimate(
            dataclasses.replace(model, modality=modality, preprocess=VectorPreprocess()), items
        )
    batch = next(iter(preprocess.batches(items, len(items))))[1]
    names = _accepted_names(model, batch)
    shapes = {tuple(part.shape[1:]) for _, part in preprocess.batches(items, len(items))}
    if names:
        preprocess = dataclasses.replace(preprocess, names=names)
    elif len(shapes) == 1:
        preprocess = dataclasses.replace(
            preprocess, shape=shapes.pop(), dtype=str(_only_field(batch).dtype)
        )
    model = dataclasses.replace(model, modality=modality, preprocess=preprocess)
    return _with_penultimate(_with_named_inputs(model), items)


def _ready_made(model: FrozenModel, modality: Modality) -> FrozenModel:
    """Use the preprocessing that a network of timm has for images."""
    if modality == "image" and getattr(model.root, "pretrained_cfg", None):
        timm = import_after_torchvision("timm", "torch")
        spec = Spec(model.spec, LIVE, model.name, {})
        return _with_images(model, timm_preprocess(timm, model.root, spec))
    what = {
        "image": "images, e.g. a transform of torchvision",
        "text": "texts, e.g. a tokenizer",
        "audio": "sounds, e.g. a spectrogram of sound.samples",
    }
    units = "sounds" if modality == "audio" else f"{modality}s"
    raise CriticalMassError(
        f"model {model.name!r} takes tensors and the data are {units}; give "
        f"preprocess=, the function that makes its input of one sample ({what[modality]}), or a "
        "DataLoader that yields its inputs"
    )


def _with_images(model: FrozenModel, preprocess: ImagePreprocess) -> FrozenModel:
    spec = Spec(model.spec, LIVE, model.name, {})
    source = WeightSource(model.weights, model.weights_digest)
    frozen = image_model(spec, model.name, model.root, preprocess, source)
    weight = next(model.root.parameters(), None)
    if weight is not None:
        frozen.module.to(weight.device)
    return dataclasses.replace(frozen, live=model.live, pool=model.pool)


def _accepted_names(model: FrozenModel, batch: NDArray[Any]) -> tuple[str, ...]:
    """Choose the fields of a batch that a module takes by name; none for a single input."""
    fields = batch.dtype.names or ()
    if not fields:
        return ()
    parameters = inspect.signature(model.root.forward).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return tuple(fields)
    accepted = tuple(name for name in fields if name in {one.name for one in parameters})
    if not accepted:
        raise CriticalMassError(
            f"{model.name}.forward takes {', '.join(repr(one.name) for one in parameters)}, the "
            f"data have {', '.join(map(repr, fields))}; give the inputs these names"
        )
    others = [name for name in fields if name not in accepted]
    if others:
        write_line(f"{model.name}: not read: {', '.join(others)}")
    return accepted


def _only_field(batch: NDArray[Any]) -> NDArray[Any]:
    return batch[batch.dtype.names[0]] if batch.dtype.names else batch


def _with_named_inputs(model: FrozenModel) -> FrozenModel:
    from criticalmass.extraction.models.wrappers import NamedInputs

    if not getattr(model.preprocess, "names", ()):
        return model
    module = NamedInputs(model.root)
    module.training = False
    return dataclasses.replace(model, module=module)


def _with_penultimate(model: FrozenModel, items: Any) -> FrozenModel:
    """Find the penultimate layer with one batch of some samples."""
    from criticalmass.extraction.models.wrappers import as_tensors

    if getattr(model.root, "base_model", None) is model.root:
        # A model of transformers without a head: its last hidden states, as for hf:.
        return dataclasses.replace(model, penultimate=MODEL_OUTPUT)
    torch = import_torch()
    weight = next(model.module.parameters(), None)
    device = "cpu" if weight is None else str(weight.device)
    batches: Iterator[Any] = model.preprocess.batches(items, len(items))
    batch = next(batches)[1]

    def run_example() -> Any:
        with torch.inference_mode():
            return model.module(as_tensors(batch, device))

    return dataclasses.replace(model, penultimate=find_penultimate(model.root, run_example))


def as_recorded(model: FrozenModel, settings: Mapping[str, Any]) -> FrozenModel:
    """Return a detached copy of a live model, on the CPU, that takes the inputs of a store.

    Parameters
    ----------
    model: from `load_live`.
    settings: the preprocessing that the store of its features records.

    Raises
    ------
    CriticalMassError: the store does not record one shape of all inputs.
    """
    live, module, root = copy.deepcopy((model.live, model.module, model.root))
    for part in (live, module):
        part.cpu().eval().requires_grad_(False)
    model = dataclasses.replace(model, live=live, module=module, root=root)
    if not isinstance(model.preprocess, TensorPreprocess):
        return model
    if "centre_crop" in settings:
        return _with_images(model, ImagePreprocess.from_settings(settings))
    if "cast" in settings:
        return fit_to_data(model, "vector", np.zeros((2, input_width(live) or 1), np.float32))
    if "shape" not in settings:
        raise CriticalMassError(
            f"model {model.name!r} takes several inputs or inputs of several shapes, which no "
            "graph has; use model='none' and run the graph on its outputs"
        )
    shape = tuple(map(int, settings["shape"]))
    model = dataclasses.replace(model, preprocess=TensorPreprocess())
    return fit_to_data(model, "tensor", np.zeros((2, *shape), settings["dtype"]))

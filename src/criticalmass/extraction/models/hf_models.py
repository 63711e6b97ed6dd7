"""Models of transformers, for images and texts: from a folder, or the hub if there is internet."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.models.frozen import PENULTIMATE, FrozenModel, Tap, state_digest
from criticalmass.extraction.models.hub import hub, offline
from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.extraction.models.preprocess import ImagePreprocess, TextPreprocess
from criticalmass.extraction.models.text_models import folder_digest
from criticalmass.extraction.models.weight_files import refused
from criticalmass.extraction.specs import Spec, choice_option, integer_option

if TYPE_CHECKING:
    from torch import nn

MODALITIES = ("image", "text")
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_NO_LIMIT = 10**6
_TOKENS = 512
_CROPPED_BELOW = 384


def load_hf(spec: Spec) -> FrozenModel:
    """Load a model of transformers; ``penultimate`` is its last hidden states, pooled.

    Of a model with two towers (CLIP) one is taken: images, unless ``modality=text`` is asked for.
    Code that comes with a model is not run.

    Parameters
    ----------
    spec: ``hf:FOLDER_OR_ID``, optionally with ``modality`` and ``px``.

    Raises
    ------
    CriticalMassError: a folder that holds no such model, or one of neither images nor texts.
    DataUnavailableError: not a folder, and the hub cannot be reached.
    MissingExtraError: transformers is not installed.
    """
    transformers = import_after_torchvision("transformers", "text")
    folder = Path(spec.name)
    with offline() if folder.is_dir() else hub():
        model = _open(transformers, spec, "AutoModel")
        modality = _modality(spec, model)
        net = _tower(model, modality)
        preprocess = (
            _image_preprocess(spec, _open(transformers, spec, "AutoImageProcessor"))
            if modality == "image"
            else _text_preprocess(spec, net, _open(transformers, spec, "AutoTokenizer"))
        )
    if folder.is_dir():
        source = (f"folder {folder.name}", folder_digest(folder))
    else:
        source = ("Hugging Face hub", state_digest(net))
    return _freeze(spec, net, preprocess, source)


def _freeze(
    spec: Spec,
    net: nn.Module,
    preprocess: ImagePreprocess | TextPreprocess,
    source: tuple[str, str],
) -> FrozenModel:
    from criticalmass.extraction.models.wrappers import HiddenStates, ScaledInput

    net.eval().requires_grad_(False)
    if isinstance(preprocess, ImagePreprocess):
        states = HiddenStates(net, "pixel_values")
        module: nn.Module = ScaledInput(states, preprocess.mean, preprocess.std)
    else:
        module = HiddenStates(net, "input_ids")
    return FrozenModel(
        spec=spec.text,
        name=Path(spec.name).name,
        modality="image" if isinstance(preprocess, ImagePreprocess) else "text",
        module=module.eval(),
        root=net,
        preprocess=preprocess,
        weights=source[0],
        weights_digest=source[1],
        penultimate=Tap(PENULTIMATE, "", "output"),
    )


def _open(transformers: Any, spec: Spec, what: str) -> Any:
    """Open one part of a model: the network, its image processor or its tokenizer."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return getattr(transformers, what).from_pretrained(spec.name, trust_remote_code=False)
    except pickle.UnpicklingError as error:
        raise refused(spec.name, "in the place of weights") from error
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        kind = CriticalMassError if Path(spec.name).is_dir() else DataUnavailableError
        raise kind(f"{what} of {spec.text!r} cannot be loaded: {reason}") from error
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _modality(spec: Spec, model: Any) -> str:
    is_image = getattr(model, "main_input_name", "") == "pixel_values"
    two_towers = hasattr(model, "vision_model") and hasattr(model, "text_model")
    found = "image" if is_image or two_towers else "text"
    asked = choice_option(spec, "modality", found, MODALITIES)
    if asked != found and not two_towers:
        raise CriticalMassError(f"{spec.text!r} takes {found}s; leave out modality={asked}")
    return asked


def _tower(model: Any, modality: str) -> Any:
    """Take the part of a model that encodes one kind of input."""
    name = {"image": "vision_model", "text": "text_model"}[modality]
    if hasattr(model, "vision_model") and hasattr(model, "text_model"):
        return getattr(model, name)
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()
    return model


def _text_preprocess(spec: Spec, net: Any, tokenizer: Any) -> TextPreprocess:
    limit = int(min(tokenizer.model_max_length, _NO_LIMIT))
    if limit == _NO_LIMIT:
        limit = int(getattr(net.config, "max_position_embeddings", _TOKENS) or _TOKENS)
    return TextPreprocess(tokenizer, limit, stages=("last hidden states",))


def _image_preprocess(spec: Spec, processor: Any) -> ImagePreprocess:
    """Read how a processor of transformers prepares an image.

    Raises
    ------
    CriticalMassError: in a way that cannot be followed here.
    """
    size = _sizes(processor)
    crop: Mapping[str, int] = dict(getattr(processor, "crop_size", None) or {})
    crops = bool(getattr(processor, "do_center_crop", False)) and bool(crop)
    short = size.get("shortest_edge")
    height, width = size.get("height", short), size.get("width", short)
    share = getattr(processor, "crop_pct", None)
    if short and share and short < _CROPPED_BELOW:
        # ConvNeXt's way, ResNet's too: its size is that of the crop.
        crop, crops = {"height": short, "width": short}, True
        height = width = int(short / share)
    elif short and share:
        short = None
    if not height or height != width or (crops and crop["height"] != crop["width"]):
        raise CriticalMassError(
            f"{spec.text!r} prepares images as size={size}, crop={crop}; only squares are supported"
        )
    if not getattr(processor, "do_rescale", True) or not _is_byte_scale(processor):
        raise CriticalMassError(f"{spec.text!r} does not scale its images to 0..1")
    side = int(crop["height"]) if crops else int(height)
    pixels = integer_option(spec, "px", side)
    scaled = bool(getattr(processor, "do_normalize", True))
    return ImagePreprocess(
        pixels,
        round(int(height) * pixels / side),
        _INTERPOLATIONS[int(getattr(processor, "resample", 2))],
        mean=tuple(processor.image_mean) if scaled else (0.0,) * 3,
        std=tuple(processor.image_std) if scaled else (1.0,) * 3,
        stretch=short is None,
    )


def _sizes(processor: Any) -> dict[str, int]:
    size = getattr(processor, "size", None) or {}
    return {key: int(size[key]) for key in ("height", "width", "shortest_edge") if size.get(key)}


def _is_byte_scale(processor: Any) -> bool:
    return abs(float(getattr(processor, "rescale_factor", 1 / 255)) * 255 - 1) < 1e-3

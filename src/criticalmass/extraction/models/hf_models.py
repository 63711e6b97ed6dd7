"""Models of transformers, for images, texts and sounds: from a folder, or from the hub."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.models.audio_inputs import AudioPreprocess, ExtractorFrontEnd
from criticalmass.extraction.models.frozen import (
    PENULTIMATE,
    FrozenModel,
    Modality,
    Tap,
    WeightSource,
    error_reason,
    state_digest,
)
from criticalmass.extraction.models.hub import hub_or_cache, offline, progress_bars_hidden
from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.extraction.models.preprocess import ImagePreprocess, TextPreprocess
from criticalmass.extraction.models.text_models import folder_digest
from criticalmass.extraction.models.weight_files import pickled_code_error
from criticalmass.extraction.specs import Spec, choice_option, integer_option

if TYPE_CHECKING:
    from torch import nn

_MODALITIES = ("image", "text")
_TOWER, _JOINT = _SPACES = ("tower", "joint")
_INPUTS_OF_SOUNDS = ("input_values", "input_features")
_MODALITY_OF: Mapping[type, Modality] = {
    ImagePreprocess: "image",
    TextPreprocess: "text",
    AudioPreprocess: "audio",
}
Preprocess = ImagePreprocess | TextPreprocess | AudioPreprocess
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# A tokenizer without a limit reports a number far above this one.
_NO_LIMIT = 10**6
_DEFAULT_MAX_TOKENS = 512
# Names of the modules that hold one embedding per position.
_POSITION_TABLES = ("position_embeddings", "position_embedding", "wpe")
# Image processors with crop_pct crop only images smaller than this.
_CROPPED_BELOW = 384


def load_hf(spec: Spec) -> FrozenModel:
    """Load a model of transformers; ``penultimate`` is its last hidden states, pooled.

    Of a model with two towers (CLIP), the image tower is loaded unless ``modality=text``. Of an
    encoder-decoder (T5), the encoder is loaded. With ``space=joint`` the layer ``penultimate`` of
    a model with two towers is the tower's projection to the joint space, in which images and texts
    are compared (``get_image_features`` and ``get_text_features``). The default pooling is the
    mean, and of a causal model (a decoder such as GPT-2 or Llama) the last token, which alone has
    seen the whole text. Weights are computed with in float32, also if they are stored in fewer
    bits. Code that comes with a model is not run.

    Parameters
    ----------
    spec: ``hf:FOLDER_OR_ID``, optionally with ``modality``, ``space`` and ``px``.

    Raises
    ------
    CriticalMassError: the folder holds no such model, or its input is neither images nor texts nor
        sounds.
    DataUnavailableError: there is no such folder, and the hub cannot be reached.
    MissingExtraError: transformers is not installed.
    """
    transformers = import_after_torchvision("transformers", "text")
    folder = Path(spec.name)
    with offline() if folder.is_dir() else hub_or_cache():
        model = _open_part(transformers, spec, "AutoModel")
        modality = _modality(spec, model)
        net = _tower(model, modality).float()
        preprocess: Preprocess
        if modality == "image":
            processor = _open_part(transformers, spec, "AutoImageProcessor")
            preprocess = _image_preprocess(spec, processor)
        elif modality == "audio":
            extractor = _open_part(transformers, spec, "AutoFeatureExtractor")
            preprocess = _audio_preprocess(spec, net, extractor)
        else:
            tokenizer = _open_part(transformers, spec, "AutoTokenizer")
            preprocess = _text_preprocess(net, tokenizer)
        is_joint = choice_option(spec, "space", _TOWER, _SPACES) == _JOINT
        model = model.float() if is_joint else model
    if folder.is_dir():
        source = WeightSource(f"folder {folder.name}", folder_digest(folder))
    else:
        source = WeightSource("Hugging Face hub", state_digest(net))
    net.eval().requires_grad_(False)
    if not is_joint:
        return transformer_model(spec, net, preprocess, source)
    if not _has_joint_space(model):
        raise CriticalMassError(
            f"{spec.text!r} has no joint space of images and texts (CLIP, SigLIP); leave out "
            "space=joint"
        )
    if not folder.is_dir():
        source = replace(source, digest=state_digest(model))
    frozen = _joint_model(spec, model, net, preprocess, source)
    frozen.module.requires_grad_(False)
    return frozen


def _has_joint_space(model: Any) -> bool:
    return hasattr(model, "get_image_features") and hasattr(model, "get_text_features")


def _joint_model(
    spec: Spec, model: Any, net: nn.Module, preprocess: Preprocess, source: WeightSource
) -> FrozenModel:
    """Describe a tower whose penultimate layer is its projection to the joint space.

    Parameters
    ----------
    spec: of the description.
    model: the model of both towers.
    net: its tower.
    preprocess, source: of the tower.
    """
    frozen = transformer_model(spec, net, preprocess, source)
    module = _joint_space(spec, model, frozen.modality, preprocess).eval()
    return replace(frozen, module=module, pool="mean", is_causal=False)


def _joint_space(spec: Spec, model: Any, modality: Modality, preprocess: Preprocess) -> nn.Module:
    """Return the tower of a model with its projection to the joint space."""
    from criticalmass.extraction.models.wrappers import JointSpace, ScaledInput

    if isinstance(preprocess, ImagePreprocess):
        tower: nn.Module = JointSpace(model, "pixel_values")
        return ScaledInput(tower, preprocess.mean or (0.0,) * 3, preprocess.std or (1.0,) * 3)
    if not isinstance(preprocess, TextPreprocess):
        raise CriticalMassError(f"{spec.text!r}: space=joint is for images and texts")
    config = _tower(model, modality).config
    # SigLIP reads the vector of the last position, and was trained on texts of one length.
    is_padded = str(config.model_type).startswith("siglip")
    length = int(config.max_position_embeddings) if is_padded else 0
    padding = getattr(preprocess.tokenizer, "pad_token_id", None)
    padding = padding if padding is not None else int(getattr(config, "pad_token_id", None) or 0)
    return JointSpace(model, "input_ids", length=length, padding=padding)


def with_processor(spec: Spec, model: Any, processor: Any, source: WeightSource) -> FrozenModel:
    """Describe a model of transformers in evaluation mode, with its tokenizer or image processor.

    As for ``hf:``, ``penultimate`` is the last hidden states of the model without its heads. With
    the processor of both towers (``CLIPProcessor``) it is the joint space, and ``text_tower`` is
    set.

    Raises
    ------
    CriticalMassError: its input is no images, texts or sounds, or the processor does not fit it.
    """
    base = getattr(model, "base_model", model)
    if _has_joint_space(base) and _is_of_both_towers(processor):
        return _both_towers(spec, base, processor, source)
    modality = _modality(spec, base)
    net = _tower(base, modality)
    if modality == "text" and hasattr(processor, "model_max_length"):
        return transformer_model(spec, net, _text_preprocess(net, processor), source)
    if modality == "image" and hasattr(processor, "image_mean"):
        return transformer_model(spec, net, _image_preprocess(spec, processor), source)
    if modality == "audio" and hasattr(processor, "sampling_rate"):
        return transformer_model(spec, net, _audio_preprocess(spec, net, processor), source)
    units, kind = {
        "text": ("texts", "tokenizer"),
        "image": ("images", "image processor"),
        "audio": ("sounds", "feature extractor"),
    }[modality]
    raise CriticalMassError(
        f"{spec.name} takes {units}; give its {kind} as preprocess=, got {type(processor).__name__}"
    )


def _is_of_both_towers(processor: Any) -> bool:
    return hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")


def _both_towers(spec: Spec, model: Any, processor: Any, source: WeightSource) -> FrozenModel:
    """Describe the image tower in the joint space, and as ``text_tower`` the other one."""

    def tower(modality: Modality) -> FrozenModel:
        net = _tower(model, modality)
        preprocess: Preprocess
        if modality == "image":
            preprocess = _image_preprocess(spec, processor.image_processor)
        else:
            preprocess = _text_preprocess(net, processor.tokenizer)
        text = f"{spec.text}?space={_JOINT}&modality={modality}"
        return _joint_model(replace(spec, text=text), model, net, preprocess, source)

    return replace(tower("image"), text_tower=tower("text"))


def transformer_model(
    spec: Spec, net: nn.Module, preprocess: Preprocess, source: WeightSource
) -> FrozenModel:
    """Describe a model of transformers in evaluation mode; texts have no padding."""
    from criticalmass.extraction.models.wrappers import (
        HiddenStates,
        ScaledInput,
        SoundFrames,
        is_causal,
    )

    config: Any = net.config
    if getattr(config, "mask_ratio", None):
        # A masked autoencoder would leave out a random part of every image.
        config.mask_ratio = 0.0
    is_decoder = isinstance(preprocess, TextPreprocess) and is_causal(net)
    if isinstance(preprocess, ImagePreprocess):
        states = HiddenStates(net, "pixel_values")
        module: nn.Module = ScaledInput(states, preprocess.mean, preprocess.std)
    elif isinstance(preprocess, AudioPreprocess):
        front_end = cast(ExtractorFrontEnd, preprocess.front_end)
        module = HiddenStates(net, front_end.argument)
        if front_end.marks_frames:
            module = SoundFrames(module)
    else:
        module = HiddenStates(net, "input_ids", with_mask=is_decoder)
    return FrozenModel(
        spec=spec.text,
        name=Path(spec.name).name,
        modality=_MODALITY_OF[type(preprocess)],
        module=module.eval(),
        root=net,
        preprocess=preprocess,
        weights=source.description,
        weights_digest=source.digest,
        penultimate=Tap(PENULTIMATE, "", "output"),
        pool="last" if is_decoder else "mean",
        is_causal=is_decoder,
    )


def _open_part(transformers: Any, spec: Spec, auto_class: str) -> Any:
    """Open one part of a model: the network, its image processor or its tokenizer.

    Parameters
    ----------
    transformers: the library.
    spec: spec of the model.
    auto_class: name of the library's class that opens the part.
    """
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    try:
        with progress_bars_hidden():
            logging.set_verbosity_error()
            return getattr(transformers, auto_class).from_pretrained(
                spec.name, trust_remote_code=False
            )
    except pickle.UnpicklingError as error:
        raise pickled_code_error(spec.name, "instead of weights") from error
    except Exception as error:
        # The code of each architecture, and the libraries that it imports, raise their own errors.
        kind = CriticalMassError if Path(spec.name).is_dir() else DataUnavailableError
        raise kind(
            f"{auto_class} of {spec.text!r} cannot be loaded: {error_reason(error)}"
        ) from error
    finally:
        logging.set_verbosity(level)


def _modality(spec: Spec, model: Any) -> Modality:
    main_input = getattr(model, "main_input_name", "input_ids")
    is_image = main_input == "pixel_values"
    has_two_towers = hasattr(model, "vision_model") and hasattr(model, "text_model")
    if main_input in _INPUTS_OF_SOUNDS and not has_two_towers:
        if spec.options.get("modality", "audio") != "audio":
            raise CriticalMassError(f"{spec.text!r} takes sounds; leave out modality=")
        return "audio"
    if main_input not in ("pixel_values", "input_ids") and not has_two_towers:
        raise CriticalMassError(
            f"{spec.text!r} takes {main_input!r}; only models of images, texts and sounds are "
            "supported"
        )
    default = "image" if is_image or has_two_towers else "text"
    requested = cast(Modality, choice_option(spec, "modality", default, _MODALITIES))
    if requested != default and not has_two_towers:
        raise CriticalMassError(f"{spec.text!r} takes {default}s; leave out modality={requested}")
    return requested


def _tower(model: Any, modality: str) -> Any:
    """Return the part of a model that encodes one kind of input."""
    name = {"image": "vision_model", "text": "text_model"}.get(modality, "")
    if hasattr(model, "vision_model") and hasattr(model, "text_model"):
        return getattr(model, name)
    # The folder of T5's encoder alone does not say that the class is an encoder-decoder.
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        return model.get_encoder()
    return model


def _text_preprocess(net: Any, tokenizer: Any) -> TextPreprocess:
    limit = int(min(tokenizer.model_max_length, _NO_LIMIT))
    if limit == _NO_LIMIT:
        # XLNet says -1: its positions have no end.
        n_positions = int(getattr(net.config, "max_position_embeddings", None) or 0)
        limit = n_positions if n_positions > 0 else _DEFAULT_MAX_TOKENS
    limit = min(limit, _n_positions(net) or limit)
    return TextPreprocess(tokenizer, limit, stages=("last hidden states",))


def _audio_preprocess(spec: Spec, net: Any, extractor: Any) -> AudioPreprocess:
    """Use a feature extractor of transformers, such as Whisper's log-mel spectrogram.

    Waveforms (wav2vec 2.0, HuBERT) keep their lengths. A spectrogram is continued to the length
    that its network takes; the frames of Whisper's are marked, so that its last states are
    averaged over the sound alone.

    Raises
    ------
    CriticalMassError: the network's input is not what the extractor makes.
    """
    argument = net.main_input_name
    if argument not in _INPUTS_OF_SOUNDS or not hasattr(extractor, "sampling_rate"):
        raise CriticalMassError(
            f"{spec.text!r}: a {type(extractor).__name__} does not make {argument!r} of sounds, "
            "which is not supported"
        )
    is_wave = argument == "input_values" and not hasattr(extractor, "num_mel_bins")
    shortest = 1
    layers = (getattr(net.config, name, None) or () for name in ("conv_kernel", "conv_stride"))
    for kernel, stride in reversed([*zip(*layers, strict=True)]):
        shortest = (shortest - 1) * stride + kernel
    front_end = ExtractorFrontEnd(
        extractor,
        argument,
        shortest=shortest if is_wave else 0,
        marks_frames=hasattr(extractor, "chunk_length") and not is_wave,
    )
    rate = int(extractor.sampling_rate)
    return AudioPreprocess(rate, front_end, front_end.description, any_length=is_wave)


def _n_positions(net: nn.Module) -> int | None:
    """Return the number of positions that a table of position embeddings has; None without one.

    RoBERTa and its descendants count positions from the index of the padding, so that the first
    rows of their table stay unused.
    """
    from torch import nn

    for name, module in net.named_modules():
        is_table = name.rpartition(".")[2] in _POSITION_TABLES
        if is_table and isinstance(module, nn.Embedding):
            n_unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - n_unused
    return None


def _image_preprocess(spec: Spec, processor: Any) -> ImagePreprocess:
    """Translate the settings of an image processor of transformers.

    Raises
    ------
    CriticalMassError: the processor prepares images in a way that is not supported.
    """
    size = _sizes(processor)
    crop: Mapping[str, int] = dict(getattr(processor, "crop_size", None) or {})
    is_cropped = bool(getattr(processor, "do_center_crop", False)) and bool(crop)
    short = size.get("shortest_edge")
    height, width = size.get("height", short), size.get("width", short)
    crop_share = getattr(processor, "crop_pct", None)
    if short and crop_share and short < _CROPPED_BELOW:
        # ConvNeXt's and ResNet's processors: the size is that of the crop.
        crop, is_cropped = {"height": short, "width": short}, True
        height = width = int(short / crop_share)
    elif short and crop_share:
        short = None
    if not height or height != width or (is_cropped and crop["height"] != crop["width"]):
        raise CriticalMassError(
            f"{spec.text!r} prepares images as size={size}, crop={crop}; only squares are supported"
        )
    if not getattr(processor, "do_rescale", True) or not _scales_bytes(processor):
        raise CriticalMassError(
            f"{spec.text!r} does not scale its images to 0..1, which is not supported"
        )
    side = int(crop["height"]) if is_cropped else int(height)
    pixels = integer_option(spec, "px", side)
    is_normalised = bool(getattr(processor, "do_normalize", True))
    return ImagePreprocess(
        pixels,
        round(int(height) * pixels / side),
        _INTERPOLATIONS[int(getattr(processor, "resample", 2))],
        mean=tuple(processor.image_mean) if is_normalised else (0.0,) * 3,
        std=tuple(processor.image_std) if is_normalised else (1.0,) * 3,
        stretch=short is None,
    )


def _sizes(processor: Any) -> dict[str, int]:
    size = getattr(processor, "size", None) or {}
    return {key: int(size[key]) for key in ("height", "width", "shortest_edge") if size.get(key)}


def _scales_bytes(processor: Any) -> bool:
    """Whether the processor divides 8-bit values by 255."""
    return abs(float(getattr(processor, "rescale_factor", 1 / 255)) * 255 - 1) < 1e-3

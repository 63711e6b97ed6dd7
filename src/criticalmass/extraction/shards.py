"""Compute the shards of an extraction, in this process or in worker processes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.backends import Backend, map_in_order
from criticalmass.core.progress import Progress
from criticalmass.core.threads import limit_libraries
from criticalmass.errors import StoreError
from criticalmass.extraction.datasets import Dataset, load_dataset
from criticalmass.extraction.datasets.dataset import UNITS
from criticalmass.extraction.datasets.splits import take_items
from criticalmass.extraction.engines import Engine, TappedLayer, inspect_layers, make_engine
from criticalmass.extraction.layers import LayerSelection
from criticalmass.extraction.models import FrozenModel, fingerprint, load_model
from criticalmass.storage.features_writer import ShardPlan, StoreWriter, describe_differences

_CHECK_SAMPLES = 16
_LIBRARIES = ("criticalmass", "numpy", "pillow")


@dataclass(frozen=True)
class ExtractionOptions:
    """How features are computed and stored.

    Attributes
    ----------
    dtype: stored type.
    engine: name of the engine, or ``"auto"``.
    precision: precision of the computation.
    batch_size: samples per batch; None for the choice of the preprocessing.
    """

    dtype: str
    engine: str
    precision: str
    batch_size: int | None


@dataclass(frozen=True, eq=False)
class Extraction:
    """One extraction, ready to run.

    Attributes
    ----------
    model: the loaded model.
    dataset: the loaded dataset.
    engine: runs the model.
    layers: every layer that the engine reads.
    selection: the layers to read and to store.
    batch_size: samples per batch; None for the choice of the preprocessing.
    header: the part of the store's manifest that names everything the features depend on.
    """

    model: FrozenModel
    dataset: Dataset
    engine: Engine
    layers: Sequence[TappedLayer]
    selection: LayerSelection
    batch_size: int | None
    header: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Name of the task for progress."""
        return f"features of {self.dataset.name} in {self.model.name}"

    @property
    def unit(self) -> str:
        """Plural name of the samples for progress."""
        return UNITS[self.dataset.modality]

    def write_missing(self, writer: StoreWriter) -> None:
        """Compute and write every missing shard."""
        plans = list(writer.missing())
        with Progress(self.label, _count_rows(plans), self.unit) as bar:
            for plan in plans:
                writer.put(plan, self.compute_shard(plan, bar))

    def compute_shard(
        self, plan: ShardPlan, bar: Progress | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Compute one shard of every stored layer, each (rows of the plan, n_neurons)."""
        rows = np.arange(plan.start, plan.stop)
        items = take_items(self.dataset.splits[plan.split].items, rows)
        out = {
            layer.tap.layer: np.empty((len(rows), layer.width), dtype=np.float32)
            for layer in self.layers
        }
        # The small products of the preprocessing gain nothing from more BLAS threads, and BLAS
        # threads that wait by spinning take the cores from the engine.
        blas = limit_libraries(1)
        # Closed even if the engine fails, so that no thread keeps preparing unused batches.
        with blas, closing(self.model.preprocess.batches(items, self.batch_size)) as batches:
            self.engine.run(batches, out, bar.advance if bar else lambda _: None)
        return self.selection.assemble(out)


@dataclass(frozen=True, eq=False)
class ShardTask:
    """The picklable task of an extraction; a worker process calls it to compute a shard.

    Attributes
    ----------
    model, dataset: specs, or objects, which are then pickled.
    skip_broken, device: as in `criticalmass.extract`.
    options: as requested.
    selection: the layers to read and to store.
    header: the header that the worker's own extraction must have.
    """

    model: str | FrozenModel
    dataset: str | Dataset
    skip_broken: bool
    device: str
    options: ExtractionOptions
    selection: LayerSelection = field(default_factory=lambda: LayerSelection((), ()))
    header: Mapping[str, Any] = field(default_factory=dict)

    def write_missing(self, writer: StoreWriter, backend: Backend, label: str, unit: str) -> None:
        """Compute every missing shard on a backend, and write the shards in order.

        Parameters
        ----------
        writer: writer of the store.
        backend: where the shards are computed.
        label, unit: name and unit of the task for progress.
        """
        plans = list(writer.missing())
        with Progress(label, _count_rows(plans), unit) as bar:
            for plan, features in zip(plans, map_in_order(backend, self, plans), strict=True):
                writer.put(plan, features)
                bar.advance(plan.stop - plan.start)

    def __call__(self, plan: ShardPlan) -> dict[str, NDArray[np.float32]]:
        """Compute one shard; a worker loads model and dataset for its first shard only.

        Raises
        ------
        StoreError: this process would compute other features than the header describes.
        """
        return self._extraction.compute_shard(plan)

    @cached_property
    def _extraction(self) -> Extraction:
        """The extraction of the process that computes shards."""
        model = load_model(self.model, device=self.device)
        dataset = load_dataset(self.dataset, skip_broken=self.skip_broken)
        samples = sample_batches(model, next(iter(dataset.splits.values())).items)
        # "auto" may select another engine in this process; the header names the one to use.
        options = replace(self.options, engine=self.header["engine"]["name"])
        extraction = prepare_extraction(model, dataset, self.selection, samples, options)
        changes = describe_differences(self.header, extraction.header)
        if changes:
            raise StoreError(
                f"a worker on {os.uname().nodename} would compute other features: "
                f"{'; '.join(changes)}; use the same libraries and hardware on every machine of "
                "the cluster"
            )
        return extraction


def prepare_extraction(
    model: FrozenModel,
    dataset: Dataset,
    selection: LayerSelection,
    samples: Sequence[NDArray[Any]],
    options: ExtractionOptions,
) -> Extraction:
    """Make the engine of an extraction, and the header of its manifest.

    Parameters
    ----------
    model: the loaded model.
    dataset: the loaded dataset.
    selection: the layers to read and to store.
    samples: input batches from `sample_batches`.
    options: how features are computed and stored.

    Raises
    ------
    CriticalMassError: a layer cannot be read, or the engine cannot run the model.
    """
    layers = inspect_layers(model, selection.read, samples[0])
    taps = [layer.tap for layer in layers]
    engine = make_engine(options.engine, model, taps, samples, options.precision)
    header = {
        "model": model_entry(model),
        "dataset": dataset_entry(dataset),
        "layers": selection.manifest_entries(layers, options.dtype, list(dataset.splits)),
        "engine": {**engine.info, "batch_size": options.batch_size},
        "versions": {**{name: version(name) for name in _LIBRARIES}, **engine.versions},
    }
    return Extraction(model, dataset, engine, layers, selection, options.batch_size, header)


def _count_rows(plans: Sequence[ShardPlan]) -> int:
    return sum(plan.stop - plan.start for plan in plans)


def model_entry(model: str | FrozenModel) -> dict[str, Any]:
    """Describe a model for the manifest; a spec is described without loading the model."""
    if isinstance(model, str):
        return {"spec": model, "weights_digest": fingerprint(model)}
    return {
        "spec": model.spec,
        "name": model.name,
        "modality": model.modality,
        "weights": model.weights,
        "weights_digest": model.weights_digest,
        "preprocessing": dict(model.preprocessing),
        # The default is left out, so that stores written before this option existed still match.
        **({} if model.pool == "mean" else {"pool": model.pool}),
    }


def dataset_entry(dataset: Dataset) -> dict[str, Any]:
    """Describe a dataset for the manifest."""
    return {
        "spec": dataset.spec,
        "name": dataset.name,
        "modality": dataset.modality,
        "digest": dataset.digest,
        "class_names": list(dataset.class_names),
        "notes": dict(dataset.notes),
    }


def first_items(items: Any) -> Any:
    """Return the first samples of a split."""
    return take_items(items, np.arange(min(_CHECK_SAMPLES, len(items))))


def sample_batches(model: FrozenModel, items: Any) -> list[NDArray[Any]]:
    """Prepare one or two input batches, to convert and to check an engine with.

    Texts give the batch of the shortest and the batch of the longest texts, so that a conversion
    that holds for one length only is detected. A batch has at least two rows: a conversion may
    take a batch axis of length 1 for a constant.
    """
    samples = first_items(items)
    batches = [batch for _, batch in model.preprocess.batches(samples, _CHECK_SAMPLES)]
    selected = batches[:1] if len(batches) == 1 else [batches[-1], batches[0]]
    return [np.repeat(batch, 2, axis=0) if len(batch) == 1 else batch for batch in selected]

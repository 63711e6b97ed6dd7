"""The work of an extraction: shards of features, computed here or by other processes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from criticalmass.core.backends import Backend, map_in_order
from criticalmass.core.progress import Progress, track
from criticalmass.errors import StoreError
from criticalmass.extraction.datasets import Dataset, load_dataset
from criticalmass.extraction.datasets.splits import take_items
from criticalmass.extraction.engines import Engine, Layer, inspect, make_engine
from criticalmass.extraction.layers import Choice
from criticalmass.extraction.models import FrozenModel, fingerprint, load_model
from criticalmass.storage.features_writer import ShardPlan, StoreWriter, differences

UNITS = {"image": "images", "text": "texts", "vector": "vectors"}
_CHECK_SAMPLES = 16
_LIBRARIES = ("criticalmass", "numpy", "pillow")


@dataclass(frozen=True, eq=False)
class Work:
    """One extraction, ready to run.

    Attributes
    ----------
    header: of the store's manifest: all that the features depend on.
    """

    model: FrozenModel
    data: Dataset
    engine: Engine
    layers: Sequence[Layer]
    choice: Choice
    batch_size: int | None
    header: Mapping[str, Any]

    @property
    def label(self) -> tuple[str, str]:
        """What progress shows: the work, and the unit it counts."""
        return f"features of {self.data.name} in {self.model.name}", UNITS[self.data.modality]

    def into(self, writer: StoreWriter) -> None:
        """Compute and write every missing shard."""
        plans = list(writer.missing())
        with track(self.label[0], _rows(plans), self.label[1]) as bar:
            for plan in plans:
                writer.put(plan, self.shard(plan, bar))

    def shard(self, plan: ShardPlan, bar: Progress | None = None) -> dict[str, NDArray[np.float32]]:
        """Compute one shard of every stored layer, each (plan's rows, n_neurons)."""
        rows = np.arange(plan.start, plan.stop)
        items = take_items(self.data.splits[plan.split].items, rows)
        out = {
            layer.tap.layer: np.empty((len(rows), layer.width), dtype=np.float32)
            for layer in self.layers
        }
        # The small products of the preprocessing gain nothing from more threads, and threads that
        # wait by spinning take the cores from the engine.
        blas = threadpool_limits(1, user_api="blas")
        # Closed at once whatever happens, so that no thread goes on preparing what nobody reads.
        with blas, closing(self.model.preprocess.batches(items, self.batch_size)) as batches:
            self.engine.run(batches, out, bar.advance if bar else lambda _: None)
        return self.choice.stored(out)


@dataclass(frozen=True, eq=False)
class Recipe:
    """What another process needs to do the same work; called there, it makes a shard.

    Attributes
    ----------
    model, dataset: specs, or objects, which then travel.
    skip_broken, device, choice: as the extraction was asked for, or decided.
    asked: dtype, engine, precision and batch_size.
    header: what its work must come out as.
    """

    model: str | FrozenModel
    dataset: str | Dataset
    skip_broken: bool
    device: str
    choice: Choice
    asked: Mapping[str, Any]
    header: Mapping[str, Any]

    def into(self, writer: StoreWriter, place: Backend, label: tuple[str, str]) -> None:
        """Have every missing shard computed elsewhere, and write them in order."""
        plans = list(writer.missing())
        with track(label[0], _rows(plans), label[1]) as bar:
            for plan, features in zip(plans, map_in_order(place, self, plans), strict=True):
                writer.put(plan, features)
                bar.advance(plan.stop - plan.start)

    def __call__(self, plan: ShardPlan) -> dict[str, NDArray[np.float32]]:
        """Compute one shard, with the model that this process has loaded for its first one.

        Raises
        ------
        StoreError: this process would compute other features than the header says.
        """
        key = repr(self.header)
        if key not in _LOADED:
            _LOADED.clear()
            _LOADED[key] = self._load()
        return _LOADED[key].shard(plan)

    def _load(self) -> Work:
        model = load_model(self.model, device=self.device)
        data = load_dataset(self.dataset, skip_broken=self.skip_broken)
        samples = check_batches(model, next(iter(data.splits.values())).items)
        # "auto" may come out as another engine here: it is to be the one of the header.
        asked = {**self.asked, "engine": self.header["engine"]["name"]}
        work = prepared(model, data, self.choice, samples, asked)
        found = differences(self.header, work.header)
        if found:
            raise StoreError(
                f"a worker on {os.uname().nodename} would compute other features: "
                f"{'; '.join(found)}; make the machines of the cluster alike"
            )
        return work


# What this process has loaded for the extraction that it works for, by the header.
_LOADED: dict[str, Work] = {}


def prepared(
    model: FrozenModel,
    data: Dataset,
    choice: Choice,
    samples: Sequence[NDArray[Any]],
    asked: Mapping[str, Any],
) -> Work:
    """Convert a model, and describe what it will give.

    Parameters
    ----------
    samples: input batches, as `check_batches` makes them.
    asked: dtype, engine, precision and batch_size.

    Raises
    ------
    CriticalMassError: a layer that cannot be read, or an engine that does not do.
    """
    found = inspect(model, choice.read, samples[0])
    taps = [layer.tap for layer in found]
    engine = make_engine(asked["engine"], model, taps, samples, asked["precision"])
    header = {
        "model": model_entry(model),
        "dataset": dataset_entry(data),
        "layers": dict(choice.entries(found, asked["dtype"], list(data.splits))),
        "engine": {**engine.info, "batch_size": asked["batch_size"]},
        "versions": {**{name: version(name) for name in _LIBRARIES}, **engine.versions},
    }
    return Work(model, data, engine, found, choice, asked["batch_size"], header)


def _rows(plans: Sequence[ShardPlan]) -> int:
    return sum(plan.stop - plan.start for plan in plans)


def model_entry(model: str | FrozenModel) -> dict[str, Any]:
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


def dataset_entry(data: Dataset) -> dict[str, Any]:
    """Describe a dataset."""
    return {
        "spec": data.spec,
        "name": data.name,
        "modality": data.modality,
        "digest": data.digest,
        "class_names": list(data.class_names),
        "notes": dict(data.notes),
    }


def check_batches(model: FrozenModel, items: Any) -> list[NDArray[Any]]:
    """Prepare a few samples, to convert and to check the engine with.

    Of texts the shortest and the longest batch, so that a conversion which holds for one length
    only is found out. A batch has two rows at least: one alone may be taken for a constant.
    """
    few = take_items(items, np.arange(min(_CHECK_SAMPLES, len(items))))
    batches = [batch for _, batch in model.preprocess.batches(few, _CHECK_SAMPLES)]
    chosen = batches[:1] if len(batches) == 1 else [batches[-1], batches[0]]
    return [np.repeat(batch, 2, axis=0) if len(batch) == 1 else batch for batch in chosen]

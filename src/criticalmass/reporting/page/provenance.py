"""What a run's own record says: how it was measured, and what could be wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from criticalmass.measures.registry import is_similarity
from criticalmass.reporting.formatting import _counts, _duration, _listed, percent
from criticalmass.storage.features import UNLABELLED

if TYPE_CHECKING:
    import pandas as pd

#: Fewer seeds than this say little about the spread over subsets.
ENOUGH_SEEDS = 5
#: With fewer test samples an accuracy is known to no better than about a point.
ENOUGH_TEST_SAMPLES = 2000
_SHOWN = 3
ENGINES = {"openvino": "OpenVINO", "torch": "PyTorch", "imported": "imported vectors"}
MEASURES = {
    "logistic": "logistic regression on standardised neurons; its strength of regularisation is "
    "chosen on a validation part of the training split, the score is accuracy on the test split",
    "lda": "linear discriminant analysis, scored by accuracy on the test split",
    "ridge": "ridge regression onto the classes, scored by accuracy on the test split",
    "knn": "nearest neighbours, scored by accuracy on the test split",
    "centroid": "nearest class centroid, scored by accuracy on the test split",
    "sgd": "the paper's protocol (a linear probe trained by gradient descent), scored by accuracy "
    "on the test split",
    "cka": "linear centred kernel alignment of the subset with its whole layer, on the test split",
    "cka-debiased": "debiased linear CKA of the subset with its whole layer, on the test split",
    "procrustes": "orthogonal Procrustes similarity of the subset with its whole layer (nuclear "
    "norm of their cross-covariance over the product of their norms), on the test split",
    "mutual-knn": "share of the 10 nearest test samples (Euclidean distance on raw features) that "
    "the subset has in common with its whole layer; at most 4,096 test samples ask",
    "retrieval": "nDCG@10 of the test samples that the subset retrieves by cosine on raw vectors, "
    "where the whole layer's 10 nearest are relevant, the nearest most (10, 9, ..., 1); at most "
    "4,096 test samples ask",
    "retrieval-recall": "share of the whole layer's 10 nearest test samples, by cosine on raw "
    "vectors, that the subset retrieves among its 10 nearest; at most 4,096 test samples ask",
}


@dataclass(frozen=True)
class Fact:
    """One line of how it was measured: a term and what it was."""

    term: str
    text: str


@dataclass(frozen=True)
class Caveat:
    """One thing that could be wrong; ``grave`` ones can change the answer."""

    title: str
    text: str
    grave: bool


def facts(manifest: Mapping[str, Any], frame: pd.DataFrame) -> list[Fact]:
    """List how a run was measured, from its manifest and its long table.

    Parameters
    ----------
    manifest: the run's manifest, with what it copied from the feature store's.
    frame: the run's long table, one row per cell.
    """
    lines = [*_material(manifest, frame), *_protocol(frame), *_circumstances(manifest, frame)]
    return [fact for fact in lines if fact.text]


_SCORED = {
    "logistic": "logistic probes",
    "lda": "linear discriminant probes",
    "ridge": "ridge probes",
    "knn": "nearest neighbours",
    "centroid": "nearest class centroids",
    "sgd": "linear probes trained by gradient descent",
}


def in_short(frame: pd.DataFrame, row: pd.Series | None) -> str:
    """Say in a sentence or two how the answer was measured, for those who read no list.

    Parameters
    ----------
    frame: the run's long table.
    row: the row of the redundancy table that the answer is about, or None.
    """
    if row is None:
        return ""
    measure, selector = str(row["measure"]), str(row["selector"])
    mine = frame[(frame["measure"] == measure) & (frame["selector"] == selector)]
    sizes, seeds = mine["n_kept"].nunique(), int(row["n_seeds"])
    drawn = f"{seeds} random draws of" if seeds > 1 else "one choice of"
    subsets = f"{sizes} sizes, {drawn} neurons at each"
    if is_similarity(measure):
        return f"How like the whole layer subsets are ({measure}) was measured at {subsets}."
    counts = frame.loc[frame["measure"] == measure, ["n_train", "n_test"]].max()
    trained = "" if counts["n_train"] != counts["n_train"] else _trained(counts["n_train"])
    probes = _SCORED.get(measure, f"{measure} probes")
    return (
        f"For {subsets}, {probes} were fitted{trained} and scored on "
        f"{int(counts['n_test']):,} others, like the whole layer."
    )


def _trained(count: float) -> str:
    return f" to {int(count):,} samples"


def caveats(frame: pd.DataFrame, table: pd.DataFrame) -> list[Caveat]:
    """List what could be wrong with a run, gravest first.

    Parameters
    ----------
    frame: the run's long table, one row per cell.
    table: its redundancy table at the deltas of the report.
    """
    found = [*_cell_caveats(frame), *_sample_caveats(frame), *_grid_caveats(frame, table)]
    return sorted(found, key=lambda caveat: not caveat.grave)


def _material(manifest: Mapping[str, Any], frame: pd.DataFrame) -> Iterator[Fact]:
    """Say what was measured: model, layers, data."""
    digest = str(manifest.get("weights_digest") or "").removeprefix("sha256:")
    name, spec = _listed(frame["model"]), manifest.get("model_spec")
    about = [str(spec)] if spec and spec != name else []
    about += [f"weights {digest[:12]}"] if digest else []
    told = f" ({', '.join(about)})" if about else ""
    yield Fact("Model", name + told)
    sizes = frame.drop_duplicates("layer").set_index("layer")["n_neurons"]
    yield Fact("Layer", ", ".join(f"{layer} ({size:,} neurons)" for layer, size in sizes.items()))
    classes = tuple(manifest.get("class_names") or ())
    count = "no labels" if classes == UNLABELLED else f"{len(classes):,} classes"
    spec = manifest.get("dataset_spec")
    about = [str(spec)] if spec else []
    about += [count] if classes else []
    told = f" ({', '.join(about)})" if about else ""
    yield Fact("Dataset", _listed(frame["dataset"]) + told)
    held = (manifest.get("validation") or {}).get("n_rows")
    inner = f" ({held:,} of them choose the regularisation)" if held else ""
    trained = f"{_counts(frame['n_train'])} to train the probes{inner}, "
    trained = trained if frame["n_train"].notna().any() else ""
    yield Fact("Samples", f"{trained}{_counts(frame['n_test'])} test")
    yield from _notes(manifest.get("dataset_notes") or {})
    engine = str(manifest.get("engine") or "")
    parts = (ENGINES.get(engine, engine), str(manifest.get("precision") or ""))
    yield Fact("Features", " in ".join(part for part in parts if part))


def _notes(notes: Mapping[str, Any]) -> Iterator[Fact]:
    """Say how the dataset was split or sampled, and what was left out of it."""
    if "split" in notes:
        split = notes["split"]
        parts = split.items() if isinstance(split, Mapping) else ()
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in parts)
        yield Fact("Split", told or str(split))
    sample = notes.get("sample")
    if isinstance(sample, Mapping):
        text = f"{sample.get('train', 0):,} of {sample.get('of', 0):,} training samples, stratified"
        yield Fact("Sample", f"{text}, seed {sample.get('seed')}")
    skipped = notes.get("skipped")
    if isinstance(skipped, Mapping):
        named = ", ".join(str(image.get("id")) for image in skipped.get("images", ())[:_SHOWN])
        more = ", ..." if skipped.get("count", 0) > _SHOWN else ""
        count = skipped.get("count", 0)
        noun = "image" if count == 1 else "images"
        yield Fact("Left out", f"{count:,} {noun} that cannot be decoded: {named}{more}")


def _protocol(frame: pd.DataFrame) -> Iterator[Fact]:
    """Say how it was measured: measures, subsets, probes."""
    for measure in sorted(frame["measure"].unique(), key=is_similarity):
        text = MEASURES.get(measure, "")
        fits = frame[frame["measure"] == measure]
        if fits["l2"].notna().any():
            low, high = fits["l2"].min(), fits["l2"].max()
            text += f"; l2 {low:.2g}" if low == high else f"; l2 between {low:.2g} and {high:.2g}"
        if fits["gap"].notna().any():
            text += f"; every fit certified to a relative gap of {fits['gap'].max():.1g}"
        yield Fact(f"Measure {measure}", text)
    subsets = frame[frame["selector"] != "full"]
    for selector, rows in subsets.groupby("selector", sort=False):
        seeds, sizes = rows["seed"].nunique(), sorted(rows["n_kept"].unique())
        kept = f"{len(sizes)} sizes from {sizes[0]:,} to {sizes[-1]:,} neurons"
        runs = f"{seeds} seeds, nested subsets of " if seeds > 1 else ""
        yield Fact(f"Selector {selector}", runs + kept)


def _circumstances(manifest: Mapping[str, Any], frame: pd.DataFrame) -> Iterator[Fact]:
    """Say where and how long."""
    seconds = frame["seconds"].sum()
    if seconds > 0:
        yield Fact("Computing", f"{_duration(float(seconds))} for {len(frame):,} cells")
    versions = {**(manifest.get("extraction_versions") or {}), **(manifest.get("versions") or {})}
    if versions:
        yield Fact("Software", ", ".join(f"{name} {value}" for name, value in versions.items()))
    yield Fact("Measured on", str(manifest.get("created") or "")[:10])


def _cell_caveats(frame: pd.DataFrame) -> Iterator[Caveat]:
    """Find cells that failed or fits that did not converge."""
    failed = frame[frame["status"] == "failed"]
    if len(failed):
        first = str(failed["error"].dropna().iloc[0]) if failed["error"].notna().any() else ""
        yield Caveat(
            f"{len(failed):,} of {len(frame):,} cells failed",
            "They are left out of every mean." + (f" The first says: {first}" if first else ""),
            True,
        )
    unfinished = int((frame["status"] == "not_converged").sum())
    if unfinished:
        yield Caveat(
            f"{unfinished:,} of {len(frame):,} fits did not converge",
            "Their values count, but a longer fit may move them.",
            True,
        )


def _sample_caveats(frame: pd.DataFrame) -> Iterator[Caveat]:
    """Find too few seeds or test samples."""
    drawn = frame[frame["selector"].isin(["random", "projection-gaussian", "projection-uniform"])]
    if len(drawn):
        seeds = int(drawn.groupby("selector")["seed"].nunique().min())
        if seeds < ENOUGH_SEEDS:
            title = "Only one seed" if seeds == 1 else f"Only {seeds} seeds"
            text = (
                "How much random subsets differ can hardly be told; intervals are widened for it."
            )
            yield Caveat(title, f"{text} Repeat with --seeds {ENOUGH_SEEDS} or more.", True)
        elif seeds < 2 * ENOUGH_SEEDS:
            text = f"The spread over subsets rests on {seeds} draws; its own size is roughly known."
            yield Caveat(f"{seeds} seeds", text, False)
    scored = frame[~frame["measure"].map(is_similarity).astype(bool) & frame["value_full"].notna()]
    tests = frame["n_test"].dropna()
    if len(tests) and tests.min() < ENOUGH_TEST_SAMPLES:
        n_test = int(tests.min())
        text = "The intervals hold this uncertainty, but not that of the choice of the test split."
        if len(scored):
            share = float(scored["value_full"].iloc[0])
            error = (max(0.0, share * (1 - share)) / n_test) ** 0.5
            known = f"±\N{NO-BREAK SPACE}{2 * error:.3f}"
            text = f"An accuracy of {share:.2f} is known to {known} from so few. {text}"
        yield Caveat(f"Small test set: {n_test:,} samples", text, n_test < ENOUGH_TEST_SAMPLES / 2)


def _grid_caveats(frame: pd.DataFrame, table: pd.DataFrame) -> Iterator[Caveat]:
    """Find what the grid of tested sizes leaves open."""
    known = table[table["critical_mass"].notna()]
    at_floor, reached = known["at_floor"].astype(bool), known["reached"].astype(bool)
    floor = known[at_floor]
    if len(floor):
        where = ", ".join(
            f"{measure} at {' and '.join(percent(delta) for delta in rows['delta'].unique())}"
            for measure, rows in floor.groupby("measure", sort=False)
        )
        text = f"Even the smallest tested subset passes for {where}: DR is a lower bound there."
        yield Caveat("Lower bounds", text, False)
    never = known[~reached]
    if len(never):
        bars = ", ".join(
            f"{row.selector}, {row.measure} at {percent(row.delta)}" for row in never.itertuples()
        )
        yield Caveat("Bars that no smaller subset reaches", f"DR stands as 0 for {bars}.", False)
    yield from _step_caveat(frame, known[reached & ~at_floor])


def _step_caveat(frame: pd.DataFrame, inside: pd.DataFrame) -> Iterator[Caveat]:
    """Say which sizes beside a critical mass were not tested, for the delta nearest to 0.9."""
    inside = inside[inside["estimator"] == "strict"]
    if inside.empty:
        return
    row = inside.loc[(inside["delta"] - 0.9).abs().sort_values(kind="stable").index[0]]
    same = (frame["selector"] == row["selector"]) & (frame["layer"] == row["layer"])
    below = [size for size in frame.loc[same, "n_kept"].unique() if size < row["critical_mass"]]
    if below and row["critical_mass"] - max(below) > 1:
        text = (
            f"{row['measure']}: {max(below):,} neurons miss {percent(row['delta'])}, "
            f"{round(row['critical_mass']):,} pass; sizes between were not tested, "
            "so the critical mass may be smaller."
        )
        yield Caveat("Steps between tested sizes", text, False)

"""Provenance of a run: how it was measured, and what could be wrong, from its own record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from criticalmass.analysis.training_sets import training_set_note
from criticalmass.core.engines import engine_label
from criticalmass.measures.registry import MEASURES, compares_with_layer, is_similarity
from criticalmass.reporting.formatting import (
    count_of,
    distinct_counts,
    distinct_names,
    duration,
    integer,
    is_missing,
    percent,
)
from criticalmass.selectors.registry import SELECTORS
from criticalmass.storage.features import UNLABELLED

if TYPE_CHECKING:
    import pandas as pd

#: Fewer seeds say little about the spread over subsets.
ENOUGH_SEEDS = 5
#: With fewer test samples the error of an accuracy is about a percentage point or more.
ENOUGH_TEST_SAMPLES = 2000
_MAX_NAMED_IMAGES = 3


@dataclass(frozen=True)
class Fact:
    """One fact about how a run was measured."""

    term: str
    text: str


@dataclass(frozen=True)
class Caveat:
    """One thing that could be wrong; a ``severe`` one can change the headline."""

    title: str
    text: str
    severe: bool


def facts(manifest: Mapping[str, Any], frame: pd.DataFrame) -> list[Fact]:
    """List the facts about how a run was measured.

    Parameters
    ----------
    manifest: the run's manifest, which includes entries of the feature store's manifest.
    frame: the run's long table, one row per cell.
    """
    entries = [*_data_facts(manifest, frame), *_protocol_facts(frame)]
    entries += _computing_facts(manifest, frame)
    return [fact for fact in entries if fact.text]


def method_summary(frame: pd.DataFrame, row: pd.Series | None) -> str:
    """Write in a sentence how the values of the headline were measured.

    Parameters
    ----------
    frame: the run's long table.
    row: row of the redundancy table that the headline is about, or None.
    """
    if row is None:
        return ""
    import pandas as pd

    measure, selector = str(row["measure"]), str(row["selector"])
    rows = frame[(frame["measure"] == measure) & (frame["selector"] == selector)]
    n_seeds, sizes = int(row["n_seeds"]), count_of(rows["n_kept"].nunique(), "size")
    kind = "random subset" if selector == "random" else "subset"
    subsets = f"{count_of(n_seeds, kind)} at each of {sizes}"
    counts = frame.loc[frame["measure"] == measure, ["n_train", "n_test"]].max()
    if compares_with_layer(measure):
        return f"The similarity to the whole layer ({measure}) was measured for {subsets}."
    if is_similarity(measure):
        return (
            f"{integer(counts['n_test'])} queries searched {integer(counts['n_train'])} documents, "
            f"for {subsets} and for the whole layer."
        )
    reads = MEASURES[measure].reads if measure in MEASURES else ""
    if reads:
        scored = "The network's own classifier was" if reads == "classifier" else "Prompts were"
        return (
            f"{scored} scored on {integer(counts['n_test'])} samples, for {subsets} and for the "
            "whole layer."
        )
    n_train = "" if pd.isna(counts["n_train"]) else f" to {integer(counts['n_train'])} samples"
    probes = (MEASURES[measure].plural if measure in MEASURES else "") or f"{measure} probes"
    return (
        f"{probes} were fitted{n_train} and scored on {integer(counts['n_test'])} others, for "
        f"{subsets} and for the whole layer."
    )


def caveats(frame: pd.DataFrame, table: pd.DataFrame) -> list[Caveat]:
    """List what could be wrong with a run, severe entries first.

    Parameters
    ----------
    frame: the run's long table, one row per cell.
    table: its redundancy table at the deltas of the report.
    """
    entries = [*_cell_caveats(frame), *_sample_caveats(frame), *_grid_caveats(frame, table)]
    entries += _training_caveats(table)
    return sorted(entries, key=lambda caveat: not caveat.severe)


def _data_facts(manifest: Mapping[str, Any], frame: pd.DataFrame) -> Iterator[Fact]:
    """Describe model, layers, dataset, samples and features."""
    digest = str(manifest.get("weights_digest") or "").removeprefix("sha256:")
    name, spec = distinct_names(frame["model"]), manifest.get("model_spec")
    details = [str(spec)] if spec and spec != name else []
    details += [f"weights {digest[:12]}"] if digest else []
    yield Fact("Model", name + _in_parentheses(details))
    sizes = frame.drop_duplicates("layer").set_index("layer")["n_neurons"]
    yield Fact("Layer", ", ".join(f"{layer} ({size:,} neurons)" for layer, size in sizes.items()))
    classes = tuple(manifest.get("class_names") or ())
    count = "no labels" if classes == UNLABELLED else f"{len(classes):,} classes"
    spec = manifest.get("dataset_spec")
    details = [str(spec)] if spec else []
    details += [count] if classes else []
    yield Fact("Dataset", distinct_names(frame["dataset"]) + _in_parentheses(details))
    yield Fact("Samples", _samples_text(manifest, frame))
    halves = manifest.get("training_sets") or {}
    if halves:
        yield Fact("Training sets", f"{len(halves['names'])} {halves['rule']}, in the intervals")
    yield from _dataset_note_facts(manifest.get("dataset_notes") or {})
    engine = str(manifest.get("engine") or "")
    parts = (engine_label(engine), str(manifest.get("precision") or ""))
    yield Fact("Features", " in ".join(part for part in parts if part))


def _samples_text(manifest: Mapping[str, Any], frame: pd.DataFrame) -> str:
    """Write the numbers of training, validation and test samples, or of a collection."""
    if "collection" in (manifest.get("dataset_notes") or {}):
        return f"{manifest['n_train']:,} documents, {manifest['n_test']:,} queries"
    test = f"{distinct_counts(frame['n_test'])} to test"
    if not frame["n_train"].notna().any():
        return test
    n_validation = (manifest.get("validation") or {}).get("n_rows")
    validation = f" ({n_validation:,} of them to choose the regularisation)" if n_validation else ""
    return f"{distinct_counts(frame['n_train'])} to train the probes{validation}, {test}"


def _in_parentheses(details: list[str]) -> str:
    """Return `` (a, b)``, or nothing for an empty list."""
    return f" ({', '.join(details)})" if details else ""


def _dataset_note_facts(notes: Mapping[str, Any]) -> Iterator[Fact]:
    """Describe how the dataset was split or sampled, and what was left out."""
    if "split" in notes:
        split = notes["split"]
        parts = split.items() if isinstance(split, Mapping) else ()
        text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in parts)
        yield Fact("Split", text or str(split))
    if "collection" in notes:
        yield Fact("Collection", str(notes["collection"]))
    sample = notes.get("sample")
    if isinstance(sample, Mapping):
        text = f"{sample.get('train', 0):,} of {sample.get('of', 0):,} training samples, stratified"
        yield Fact("Sample", f"{text}, seed {sample.get('seed')}")
    skipped = notes.get("skipped")
    if isinstance(skipped, Mapping):
        count, images = skipped.get("count", 0), skipped.get("images", ())
        names = ", ".join(str(image.get("id")) for image in images[:_MAX_NAMED_IMAGES])
        more = ", ..." if count > _MAX_NAMED_IMAGES else ""
        yield Fact("Left out", f"{count_of(count, 'image')} that cannot be decoded: {names}{more}")


def _protocol_facts(frame: pd.DataFrame) -> Iterator[Fact]:
    """Describe measures and selectors."""
    for measure in sorted(frame["measure"].unique(), key=is_similarity):
        text = MEASURES[measure].description if measure in MEASURES else ""
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
        grid = f"{len(sizes)} sizes from {sizes[0]:,} to {sizes[-1]:,} neurons"
        prefix = f"{seeds} seeds, nested subsets of " if seeds > 1 else ""
        yield Fact(f"Selector {selector}", prefix + grid)


def _computing_facts(manifest: Mapping[str, Any], frame: pd.DataFrame) -> Iterator[Fact]:
    """Describe time, software and date."""
    seconds = frame["seconds"].sum()
    if seconds > 0:
        yield Fact("Computing", f"{duration(float(seconds))} for {len(frame):,} cells")
    versions = {**(manifest.get("extraction_versions") or {}), **(manifest.get("versions") or {})}
    if versions:
        yield Fact("Software", ", ".join(f"{name} {value}" for name, value in versions.items()))
    yield Fact("Measured on", str(manifest.get("created") or "")[:10])


def _cell_caveats(frame: pd.DataFrame) -> Iterator[Caveat]:
    """Report cells that failed and fits that did not converge."""
    failed = frame[frame["status"] == "failed"]
    if len(failed):
        first = str(failed["error"].dropna().iloc[0]) if failed["error"].notna().any() else ""
        yield Caveat(
            f"{len(failed):,} of {len(frame):,} cells failed",
            "They are excluded from every mean." + (f" The first error: {first}" if first else ""),
            True,
        )
    unfinished = int((frame["status"] == "not_converged").sum())
    if unfinished:
        yield Caveat(
            f"{unfinished:,} of {len(frame):,} fits did not converge",
            "Their values are included; longer fits may change them.",
            True,
        )


def _sample_caveats(frame: pd.DataFrame) -> Iterator[Caveat]:
    """Report too few seeds and too few test samples."""
    random_selectors = [name for name, info in SELECTORS.items() if info.is_random]
    rows = frame[frame["selector"].isin(random_selectors)]
    if len(rows):
        seeds = int(rows.groupby("selector")["seed"].nunique().min())
        if seeds < ENOUGH_SEEDS:
            text = (
                "So few seeds say little about the spread over random subsets; the intervals are "
                f"widened for that. Repeat with --seeds {ENOUGH_SEEDS} or more."
            )
            yield Caveat(f"Only {count_of(seeds, 'seed')}", text, True)
        elif seeds < 2 * ENOUGH_SEEDS:
            text = f"The spread over random subsets is known only roughly from {seeds} seeds."
            yield Caveat(f"{seeds} seeds", text, False)
    scored = frame[~frame["measure"].map(is_similarity).astype(bool) & frame["value_full"].notna()]
    tests = frame["n_test"].dropna()
    if len(tests) and tests.min() < ENOUGH_TEST_SAMPLES:
        n_test = int(tests.min())
        text = (
            "The intervals include this uncertainty, but not that of the choice of the test split."
        )
        if len(scored):
            share = float(scored["value_full"].iloc[0])
            error = (max(0.0, share * (1 - share)) / n_test) ** 0.5
            margin = f"±\N{NO-BREAK SPACE}{2 * error:.3f}"
            text = (
                f"With so few samples, an accuracy of {share:.2f} is uncertain by {margin}. {text}"
            )
        yield Caveat(f"Small test set: {n_test:,} samples", text, n_test < ENOUGH_TEST_SAMPLES / 2)


def _training_caveats(table: pd.DataFrame) -> Iterator[Caveat]:
    """Report that the training set is not in the intervals of the probes, or of some."""
    if (table["training_sets"] == 0).any():
        yield Caveat("The training set is not in the intervals", training_set_note(table), False)


def _grid_caveats(frame: pd.DataFrame, table: pd.DataFrame) -> Iterator[Caveat]:
    """Report what the tested sizes leave open."""
    table = table[table["critical_mass"].notna()]
    at_floor, reached = table["at_floor"].astype(bool), table["reached"].astype(bool)
    bounds = table[at_floor]
    if len(bounds):
        where = ", ".join(
            f"{measure} at {' and '.join(percent(delta) for delta in rows['delta'].unique())}"
            for measure, rows in bounds.groupby("measure", sort=False)
        )
        text = f"The smallest tested subset reaches delta for {where}; DR is a lower bound there."
        yield Caveat("Lower bounds", text, False)
    not_reached = table[~reached]
    if len(not_reached):
        where = "; ".join(
            f"{row.selector}, {row.measure} at {percent(row.delta)}"
            for row in not_reached.itertuples()
        )
        text = f"No subset reaches delta for {where}; DR is reported as 0."
        yield Caveat("Delta not reached", text, False)
    between = table[reached & ~at_floor]
    if len(between):
        nearest = (between["delta"] - 0.9).abs().sort_values(kind="stable").index[0]
        row = between.loc[nearest]
        yield from _subset_caveat(row)
        yield from _gap_caveat(row)


def _subset_caveat(row: pd.Series) -> Iterator[Caveat]:
    """Say that a critical mass is about random subsets on average, and what others keep."""
    if is_missing(row["pass_mass"]) or row["selector"] != "random":
        return
    text = (
        f"{row['measure']}: about half of the random subsets of {integer(row['critical_mass'])} "
        f"neurons miss {percent(row['delta'])}. With {integer(row['pass_mass'])} neurons "
        f"{percent(row['pass_share'])} of them pass, by the spread "
        f"{'of the law' if row['spread_source'] == 'law' else 'between the measured seeds'}."
    )
    if not is_missing(row["worst_ratio"]):
        text += (
            f" {integer(row['critical_mass'])} neurons chosen by {row['worst_selector']} keep "
            f"{percent(round(row['worst_ratio'], 2))}."
        )
    yield Caveat("Random subsets, on average", text, False)


def _gap_caveat(row: pd.Series) -> Iterator[Caveat]:
    """Report the gap between the tested sizes around a critical mass."""
    fails, passes = row["largest_failing"], row["smallest_passing"]
    if not is_missing(fails) and passes - fails > 1:
        text = (
            f"{row['measure']}: {integer(fails)} neurons do not reach {percent(row['delta'])}, "
            f"{integer(passes)} do. Sizes between were not tested: refining the run to "
            f"{percent(row['delta'])} tests them."
        )
        yield Caveat("Gap between tested sizes", text, False)

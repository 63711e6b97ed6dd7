"""The result of `shrink` in one paragraph, and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from criticalmass.measures.registry import MEASURES
from criticalmass.shrinking.data_parts import MAX_SELECTION_QUERIES
from criticalmass.shrinking.slim_model import SlimModel

_N_WORST_CLASSES = 5


def summarise(record: Mapping[str, Any]) -> str:
    """Return what is kept and what is promised, in plain words.

    Parameters
    ----------
    record: the record of a slim model.
    """
    promise, measured = record["promise"], record["measured"]
    share = f"{promise['keep']:.4g}"
    if not record["safe"]:
        return (
            f"Nothing smaller is safe: no tested subset of the {record['n_neurons']:,} "
            f"{_unit(record)} keeps {share} of the {record['value_name']} with "
            f"{promise['level']:.0%} confidence{_limits(record)}. All {_unit(record)} are "
            f"kept.{_failed_sentence(record)}{_majority_sentence(record)}"
        )
    classes = ""
    if promise["worst_class_drop"] is not None:
        classes = f" and no class loses {100 * promise['worst_class_drop']:.3g} points"
    return (
        f"Keep {record['n_kept']:,} of {record['n_neurons']:,} {_unit(record)} ("
        f"{record['selector']}, "
        f"{record['precision']}: {record['bytes_per_vector']:,} instead of "
        f"{record['bytes_full']:,} bytes per vector). With {promise['level']:.0%} confidence, at "
        f"least {share} of the {record['value_name']} is kept{classes}. Measured on "
        f"{record['n_judged']:,} held-out {_samples(record)}: {measured['ratio']:.4f} is kept "
        f"(lower confidence bound {promise['ratio_bound']:.4f}).{_failed_sentence(record)}"
        f"{_majority_sentence(record)}{_stored_sentence(record)}"
    )


def largest_failed(tests: pd.DataFrame, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the test that shows why no fewer are kept; None if nothing smaller was tested.

    Parameters
    ----------
    tests: one row per tested size, with ``n_kept``, ``value``, ``bound`` and ``holds``.
    record: the record of the slim model.
    """
    most = record["n_kept"] - 1 if record["safe"] else record["n_neurons"]
    if tests.empty:
        return None
    failed = tests[(tests["n_kept"] <= most) & ~tests["holds"].astype(bool)]
    if failed.empty:
        return None
    row = failed.loc[failed["n_kept"].idxmax()]
    full = record["measured"]["value_full"]
    return {
        "n_kept": int(row["n_kept"]),
        "ratio": float(row["value"]) / full if full else 0.0,
        "bound": float(row["bound"]),
    }


def _failed_sentence(record: Mapping[str, Any]) -> str:
    """Say why no fewer are kept, where more than half are; empty elsewhere."""
    failed, promise = record.get("failed"), record["promise"]
    if not failed:
        return ""
    if failed["bound"] >= promise["keep"]:
        reason = f"keep {failed['ratio']:.4f}, but a class may lose more than is allowed"
    else:
        reason = (
            f"keep {failed['ratio']:.4f}, of which the {record['n_judged']:,} {_samples(record)} "
            f"confirm no more than {failed['bound']:.4f}"
        )
        if failed["ratio"] >= promise["keep"]:
            reason += "; with more of them the promise may hold for fewer"
    return f" Why not fewer: {failed['n_kept']:,} {_unit(record)} {reason}."


def _unit(record: Mapping[str, Any]) -> str:
    """Return what is counted: dimensions of stored vectors, or neurons of a layer."""
    return "dimensions" if "front" in record else "neurons"


def _samples(record: Mapping[str, Any]) -> str:
    """Return what is scored: queries of a retrieval collection, or samples."""
    return "queries" if record.get("qrels") else "samples"


def _whole(record: Mapping[str, Any]) -> str:
    """Return what is compared with: vectors as they are, or the layer."""
    return "whole vectors" if "front" in record else "whole layer"


def _stored_sentence(record: Mapping[str, Any]) -> str:
    """Say how stored vectors are compared; empty for a layer."""
    stored = record.get("stored")
    if not stored:
        return ""
    listed = stored["rerank"] * stored["n_neighbours"]
    rest = f", and the best {listed:,} are re-ranked by whole vectors" if listed else ""
    return (
        " Short vectors are scaled to length 1 before they are stored and compared by inner "
        f"products{rest}; {stored['n_stored']:,} vectors were searched."
    )


def is_useless(record: Mapping[str, Any]) -> bool:
    """Whether the whole layer is not significantly more accurate than a constant answer."""
    majority = record["measured"].get("majority")
    return majority is not None and majority["p_value"] > 1.0 - record["promise"]["level"]


def _majority_sentence(record: Mapping[str, Any]) -> str:
    """Say that the whole layer is no better than a constant answer; empty if it is better."""
    if not is_useless(record):
        return ""
    majority, full = record["measured"]["majority"], record["measured"]["value_full"]
    return (
        f" But the {record['value_name']} of the whole layer, {full:.4f}, is not significantly "
        f"above that of always answering the largest class, {majority['accuracy']:.4f}: what is "
        "kept needs no neurons."
    )


def _limits(record: Mapping[str, Any]) -> str:
    limits = [
        f"{record['promise'][name]:,} {unit}"
        for name, unit in (("budget_bytes", "bytes"), ("max_dims", "dimensions"))
        if record["promise"][name] is not None
    ]
    return f" within {' and '.join(limits)}" if limits else ""


def format_model_card(slim: SlimModel, tests: pd.DataFrame) -> str:
    """Return the model card in Markdown.

    Parameters
    ----------
    slim: the kept subset with its record.
    tests: one row per size that was tested on the test split.
    """
    record = slim.record
    blocks = [
        f"# {escape(record['model'])}, slimmed: {slim.n_kept:,} of {slim.n_neurons:,} "
        f"{_unit(record)}",
        summarise(record),
        _subset_section(record),
        _promise_section(record),
        "## Measured on the test split\n\n"
        + _reference_lines(record)
        + _test_table(tests, _unit(record)),
        _class_section(record),
        _blind_spot_section(record),
        _front_section(record),
        _order_section(record),
        _untested_section(record),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _blind_spot_section(record: Mapping[str, Any]) -> str:
    numbers = record.get("blind_spots")
    if numbers is None:
        return ""
    rows = {
        "dropped values, median over images": f"{numbers['dropped_median']:.3f}",
        "dropped values, largest": f"{numbers['dropped_largest']:.3f}",
        "kept values, largest": f"{numbers['kept_largest']:.3f}",
        "images whose class changes, whole network": numbers["network_changes"],
        "images whose class changes, slim head": numbers["slim_changes"],
    }
    body = "\n".join(
        f"| {name} | {'–' if value is None else value} |" for name, value in rows.items()
    )
    return (
        f"## Warning: blind spots\n\n{numbers['sentence']}\n\n"
        "| change, relative to an unrelated image | |\n| --- | ---: |\n" + body
    )


def _subset_section(record: Mapping[str, Any]) -> str:
    rows = {
        "model": record["model_spec"],
        "weights digest": record["weights_digest"] or "unknown (imported vectors)",
        "layer": record["layer"],
        "dataset": record["dataset_spec"],
        "selector": f"{record['selector']} (seed {record['seed']})",
        "precision": record["precision"],
        "bytes per vector": f"{record['bytes_per_vector']:,} ({_whole(record)}, float32: "
        f"{record['bytes_full']:,})",
        "head": "linear, in coef.npy and intercept.npy" if record["has_head"] else "none",
    }
    body = "\n".join(f"| {name} | {escape(value)} |" for name, value in rows.items())
    return f"## Kept {_unit(record)}\n\n| | |\n| --- | --- |\n{body}"


def _promise_section(record: Mapping[str, Any]) -> str:
    promise, sizes = record["promise"], record["parts"]
    if not record["safe"]:
        return "## Promise\n\nNone: no smaller subset passed its tests."
    samples = _samples(record)
    whole = "whole vectors" if "front" in record else "the whole layer"
    chosen = (
        f"They were compared on {sizes['selected']:,} training samples, with probes fitted on "
        f"{sizes['fitted']:,} others. The test split"
    )
    if "front" in record:
        chosen = (
            f"They were compared on {min(MAX_SELECTION_QUERIES, sizes['selected']):,} training "
            f"vectors as queries, among {sizes['fitted']:,} others. The test split"
        )
    if record.get("qrels"):
        chosen = (
            f"They were fitted on {sizes['fitted']:,} documents and compared on "
            f"{sizes['selected']:,} queries. The {sizes['certified']:,} other queries"
        )
    return (
        "## Promise\n\n"
        f"{_relevance_sentence(record)}With {promise['level']:.0%} confidence, the "
        f"{record['value_name']} is at least "
        f"{promise['keep']:.4g} times that of {whole}, for {samples} like the "
        f"{record['n_judged']:,} scored {samples} of the test split. The lower confidence bound "
        f"of this factor is {promise['ratio_bound']:.4f}.\n\n"
        f"It was chosen from {record['n_candidates']:,} combinations of selector"
        f"{', precision and re-ranking' if 'front' in record else ' and precision'}. {chosen} "
        "took no part in the choice. Sizes were tested from the largest to the smallest, in a "
        "sequence fixed beforehand, up to the first failure."
    )


def _relevance_sentence(record: Mapping[str, Any]) -> str:
    """Say what counts as relevant to a query, and which vectors are searched; else nothing."""
    noun = "documents" if record.get("qrels") else "training vectors"
    relevance, searched = record.get("relevance"), f"{record['parts']['train']:,} {noun}"
    if relevance is None:
        return ""
    if relevance == "qrels":
        return (
            f"Each query searches all {searched}. Relevant are those that the qrels "
            f"{record['qrels']!r} name, with their grades.\n\n"
        )
    if relevance == "labels":
        return f"Each query searches the {searched}; those of its class are relevant.\n\n"
    return (
        f"Each query searches the {searched}. What whole float32 vectors find counts as right: "
        "this is agreement with the whole vectors, not relevance that people have judged.\n\n"
    )


def _reference_lines(record: Mapping[str, Any]) -> str:
    """State the values to compare with: the whole layer's, and that of a constant answer."""
    measured = record["measured"]
    lines = [f"- {_whole(record)}: {measured['value_full']:.4f}"]
    if "majority" in measured:
        majority = measured["majority"]
        lines.append(
            f"- always answering the largest class of the test split, "
            f"{escape(majority['class'])}: {majority['accuracy']:.4f} (p = "
            f"{majority['p_value']:.2g} that the whole layer is no better)"
        )
        lines.append(f"- chance among {record['n_classes']} classes: {1 / record['n_classes']:.4f}")
    return "\n".join(lines) + "\n\n"


def _class_section(record: Mapping[str, Any]) -> str:
    classes = record["measured"].get("classes") or []
    if not classes:
        return ""
    worst = sorted(classes, key=lambda row: -row["drop"])[:_N_WORST_CLASSES]
    body = "\n".join(
        f"| {escape(row['name'])} | {row['n_test']:,} | {row['accuracy_full']:.3f} | "
        f"{row['accuracy']:.3f} | {row['drop']:+.3f} | {row['drop_bound']:+.3f} |"
        for row in worst
    )
    return (
        "## Classes that lose most accuracy\n\n"
        "| class | samples | accuracy of the whole layer | accuracy of the subset | loss | "
        "upper bound of the loss |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n" + body
    )


def _order_section(record: Mapping[str, Any]) -> str:
    effect = record.get("verdict")
    return f"## Effect of the order of {_unit(record)}\n\n{effect['sentence']}" if effect else ""


_FRONT_COLUMNS = (
    ("dimensions", "{selector}, {n_kept:,}"),
    ("precision", "{precision}"),
    ("re-ranked", "{rerank} x 10"),
    ("bytes in the index", "{bytes:,}"),
    ("bytes in total", "{bytes_total:,}"),
    ("bytes stored once", "{bytes_once:,}"),
    ("cost of a query", "{cost:.3f}"),
    ("nDCG@10", "{ndcg:.4f}"),
    ("recall@10", "{recall:.4f}"),
    ("lower bound", "{bound:.4f}"),
    ("lower bound of all rows", "{bound_all:.4f}"),
    ("kept", "{mark}"),
)


def _front_section(record: Mapping[str, Any]) -> str:
    """Return the table of forms of stored vectors; empty for a layer."""
    front = record.get("front")
    if not front:
        return ""
    lines = ["| " + " | ".join(name for name, _ in _FRONT_COLUMNS) + " |"]
    lines.append("| --- " * len(_FRONT_COLUMNS) + "|")
    for row in front:
        cells = {**row, "mark": "yes" if row["chosen"] else ""}
        lines.append("| " + " | ".join(form.format(**cells) for _, form in _FRONT_COLUMNS) + " |")
    advice = " ".join(record.get("stored", {}).get("advice", []))
    return (
        f"## Other ways to store the vectors\n\n{advice}\n\nAll rows were fixed before the test "
        "split was read. The lower bound of a row holds for a row that is chosen without a look "
        "at this table, that of all rows for any row. Bytes in total include the whole vectors "
        "that re-ranking reads. Directions or indices, offsets and steps are stored once. The cost "
        "is in multiply-adds, as a share of those of an exact search with whole vectors.\n\n"
        + "\n".join(lines)
    )


def _untested_section(record: Mapping[str, Any]) -> str:
    uses_labels = MEASURES[record["measure"]].needs_labels or record.get("relevance") == "labels"
    classes = f", {record['n_classes']} classes" if uses_labels else ""
    lines = [
        "data from another source than the test split, or collected later",
        f"any task other than this one (measure {record['measure']}{classes})",
        "fine-tuning of the slimmed model",
    ]
    if record.get("relevance") == "neighbours":
        lines.append("relevance that people have judged")
    if record.get("qrels"):
        lines.append("other documents than these: more of them make every search harder")
    if record["precision"] not in ("float32", "float16"):
        lines.append("values outside the range of the training rows, which are clipped")
    return "## Not tested\n\n" + "\n".join(f"- {line}" for line in lines)


def _test_table(tests: pd.DataFrame, unit: str) -> str:
    if not len(tests):
        return "No smaller size was tested."
    body = "\n".join(
        f"| {row.n_kept:,} | {row.value:.4f} | {row.bound:.4f} | {'yes' if row.holds else 'no'} |"
        for row in tests.itertuples()
    )
    return (
        f"| {unit} | value | lower bound of the share kept | promise holds |\n"
        "| ---: | ---: | ---: | --- |\n" + body
    )


def escape(text: object) -> str:
    """Escape a name from data so that it does not act as Markdown or HTML."""
    flat = " ".join(str(text).split())
    for sign in "\\`*_[]<>|#":
        flat = flat.replace(sign, f"\\{sign}")
    return flat

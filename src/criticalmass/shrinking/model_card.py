"""The answer in a sentence, and the model card: what was kept, promised, measured, and was not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from criticalmass.shrinking.slim_model import SlimModel

_PAYING = 5


def sentence(record: Mapping[str, Any]) -> str:
    """Say in plain words what is kept and what is promised."""
    promise, measured = record["promise"], record["measured"]
    share = f"{promise['keep']:.4g}"
    if not record["safe"]:
        return (
            f"Nothing smaller is safe: no tested subset of the {record['n_neurons']:,} neurons "
            f"keeps {share} of the {record['value_name']} with {promise['level']:.0%} confidence"
            f"{_limits(record)}; all are kept."
        )
    classes = ""
    if promise["worst_class_drop"] is not None:
        classes = f", and that no class loses {100 * promise['worst_class_drop']:.3g} points"
    return (
        f"Keep {record['n_kept']:,} of {record['n_neurons']:,} neurons ({record['selector']}, "
        f"{record['precision']}: {record['bytes_per_vector']:,} instead of "
        f"{record['bytes_full']:,} bytes a vector): {promise['level']:.0%} confidence that they "
        f"keep at least {share} of the {record['value_name']}{classes}; on "
        f"{record['n_judged']:,} held-out samples they kept {measured['ratio']:.4f}, "
        f"at least {promise['ratio_bound']:.4f}."
    )


def _limits(record: Mapping[str, Any]) -> str:
    limits = [
        f"{record['promise'][name]:,} {unit}"
        for name, unit in (("budget_bytes", "bytes"), ("max_dims", "dimensions"))
        if record["promise"][name] is not None
    ]
    return f" within {' and '.join(limits)}" if limits else ""


def model_card(slim: SlimModel, tried: pd.DataFrame) -> str:
    """Write the model card in Markdown.

    Parameters
    ----------
    slim: what was kept, with its record.
    tried: sizes that were tested on held-out data.
    """
    record = slim.record
    blocks = [
        f"# {_plain(record['model'])}, slimmed: {slim.n_kept:,} of {slim.n_neurons:,} neurons",
        sentence(record),
        _kept(record),
        _promised(record),
        "## Measured on held-out data\n\n" + _table(tried),
        _classes(record),
        _verdict(record),
        _untested(record),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _kept(record: Mapping[str, Any]) -> str:
    rows = {
        "model": record["model_spec"],
        "weights digest": record["weights_digest"] or "not known (imported vectors)",
        "layer": record["layer"],
        "dataset": record["dataset_spec"],
        "selector": f"{record['selector']} (seed {record['seed']})",
        "precision": record["precision"],
        "bytes a vector": f"{record['bytes_per_vector']:,} (whole layer, float32: "
        f"{record['bytes_full']:,})",
        "head": "linear, in coef.npy and intercept.npy" if record["has_head"] else "none",
    }
    return "## What was kept\n\n" + _pairs(rows)


def _promised(record: Mapping[str, Any]) -> str:
    promise, sizes = record["promise"], record["parts"]
    if not record["safe"]:
        return "## Promised\n\nNothing: no smaller subset passed."
    return (
        "## Promised\n\n"
        f"With {promise['level']:.0%} confidence, on samples like the {record['n_judged']:,} of "
        f"the test split that were asked: the {record['value_name']} is at least "
        f"{promise['keep']:.4g} times that of the whole layer (lower bound found: "
        f"{promise['ratio_bound']:.4f}).\n\n"
        f"Chosen among {record['n_candidates']:,} combinations of selector and precision on "
        f"{sizes['selected']:,} training samples, with probes fitted on {sizes['fitted']:,}; the "
        "test split took no part in the choice. Sizes were tested from the largest downwards, in "
        "an order fixed beforehand, until the first that failed."
    )


def _classes(record: Mapping[str, Any]) -> str:
    classes = record["measured"].get("classes") or []
    if not classes:
        return ""
    worst = sorted(classes, key=lambda row: -row["drop"])[:_PAYING]
    body = "\n".join(
        f"| {_plain(row['name'])} | {row['n_test']:,} | {row['accuracy_full']:.3f} | "
        f"{row['accuracy']:.3f} | {row['drop']:+.3f} | {row['drop_bound']:+.3f} |"
        for row in worst
    )
    return (
        "## Which classes pay\n\n"
        "| class | samples | whole layer | subset | loss | loss at most |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n" + body
    )


def _verdict(record: Mapping[str, Any]) -> str:
    verdict = record.get("verdict")
    return f"## Does the order of neurons matter?\n\n{verdict['sentence']}" if verdict else ""


def _untested(record: Mapping[str, Any]) -> str:
    lines = [
        "data from another source than the test split, or drawn later;",
        f"any use but {record['measure']} on {record['n_classes'] or 'no'} classes;",
        "fine-tuning of the slimmed model;",
    ]
    if record["precision"] not in ("float32", "float16"):
        lines.append("values beyond the range of the training rows, which are clipped;")
    return "## Not tested\n\n" + "\n".join(f"- {line}" for line in lines)


def _pairs(rows: Mapping[str, str]) -> str:
    body = "\n".join(f"| {name} | {_plain(value)} |" for name, value in rows.items())
    return f"| | |\n| --- | --- |\n{body}"


def _table(frame: pd.DataFrame) -> str:
    if not len(frame):
        return "No smaller size was tested."
    body = "\n".join(
        f"| {row.n_kept:,} | {row.value:.4f} | {row.bound:.4f} | {'yes' if row.holds else 'no'} |"
        for row in frame.itertuples()
    )
    return (
        "| neurons | value | share kept, at least | promise holds |\n"
        "| ---: | ---: | ---: | --- |\n" + body
    )


def _plain(text: object) -> str:
    """Keep a name from data from acting as Markdown or HTML."""
    flat = " ".join(str(text).split())
    for sign in "\\`*_[]<>|#":
        flat = flat.replace(sign, f"\\{sign}")
    return flat

"""Tables as text for the terminal and as JSON, CSV or Parquet.

In the terminal, intervals are aligned (``214 [190, 242]``), and values that are equal in all rows
stand once above the table. The other formats hold every column unchanged.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from criticalmass.analysis.columns import CurveKey
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.reporting.formatting import MISSING, decimal, integer, is_missing
from criticalmass.storage.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("table", "json", "csv", "parquet")
_BLOCKS = "▁▂▃▄▅▆▇█"
_TEXT_WIDTH = 76
_LINE_SIZES = 16
_NUMBER = re.compile(r"[<>= ]*[-–\d][\d.,e+%-]*( \[.*\])?|not reached")
# Columns whose values need no column name when they stand above the table.
# Column that says why intervals are missing.
NO_INTERVAL = "no interval"
_SELF_EXPLANATORY = {*CurveKey._fields, "estimator", "level", "split", "status"}


def write_table(
    frame: pd.DataFrame,
    *,
    form: str = "table",
    out: str | os.PathLike[str] | None = None,
    view: pd.DataFrame | None = None,
    title: str = "",
) -> None:
    """Write a table to standard output, or to a file.

    Parameters
    ----------
    frame: the table.
    form: one of ``FORMATS``.
    out: file to write; standard output by default.
    view: the table in the form for the terminal, used if ``form`` is "table"; ``frame`` by
        default.
    title: line above the table in the terminal.

    Raises
    ------
    CriticalMassError: if the format is unknown, or Parquet would be written to a terminal.
    """
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    if form == "table":
        text = as_text(frame if view is None else view, title=title, colour=out is None)
        content = text.encode()
    else:
        content = as_bytes(frame, form)
    if out is not None:
        write_bytes(Path(out), content)
    elif form == "table":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        if form == "parquet" and sys.stdout.isatty():
            raise CriticalMassError(
                "--format parquet is binary; name a file with --out or redirect the output"
            )
        # What a program reads is UTF-8, whatever the encoding of the terminal.
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def as_bytes(frame: pd.DataFrame, form: str) -> bytes:
    """Encode a table as json (a list of rows), csv or parquet, without rounding."""
    if form == "csv":
        return str(frame.to_csv(index=False)).encode()
    if form == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    rows = [
        {name: _json_value(value) for name, value in row.items()}
        for row in frame.to_dict(orient="records")
    ]
    return (json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def as_text(frame: pd.DataFrame, *, title: str = "", colour: bool = True) -> str:
    """Write a table as text, with numbers aligned to the right.

    Parameters
    ----------
    frame: the table; columns with equal values in all rows stand once above it.
    title: line above the table.
    colour: whether to use bold and dim text if standard output is a terminal.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    common, rest = _split_common_columns(frame)
    terminal = colour and sys.stdout.isatty()
    buffer = io.StringIO()
    # Wider than any window, so that rich cuts no number; a narrow terminal wraps the lines.
    console = Console(file=buffer, force_terminal=terminal, no_color=not terminal, width=10_000)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in rest.columns:
        is_number = name != "curve" and _is_number_column(rest[name])
        table.add_column(
            Text(str(name)),
            justify="right" if is_number else "left",
            no_wrap=is_number or len(rest.columns) > 2,
            max_width=None if is_number or len(rest.columns) > 2 else _TEXT_WIDTH,
            overflow="fold",
        )
    for row in rest.itertuples(index=False):
        table.add_row(*(Text(_cell_text(value)) for value in row))
    if title:
        console.print(Text(title, style="bold"))
    if common:
        notes = [text for text in common if text.startswith(f"{NO_INTERVAL} ")]
        console.print(Text(" · ".join(t for t in common if t not in notes), style="dim"))
        for note in notes:
            console.print(Text(note.replace(NO_INTERVAL, f"{NO_INTERVAL}:", 1), style="dim"))
    if len(rest):
        console.print(table)
    else:
        console.print("no rows")
    return "\n".join(line.rstrip() for line in buffer.getvalue().split("\n"))


def redundancy_view(table: pd.DataFrame, curves: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return a redundancy table as text: intervals, bounds and a sparkline of each curve.

    Parameters
    ----------
    table: rows of `criticalmass.redundancy`; the accuracy of the largest class is shown if it is
        at least half of a whole layer's.
    curves: rows of `criticalmass.curves`, for the sparklines; none by default.

    Returns
    -------
    A frame of strings with one row per row of ``table``.
    """
    import pandas as pd

    table = probes_first(table)
    at_floor = table["at_floor"].fillna(False).astype(bool)
    key = list(CurveKey._fields)
    view = pd.DataFrame({name: table[name].astype(str) for name in key})
    view = _add_searched(view, table)
    if "estimator" in table:
        view["estimator"] = table["estimator"].astype(str)
    if "level" in table:
        view["level"] = level_texts(table)
    view["delta"] = [
        MISSING if is_missing(delta) else f"{delta:.3f}".rstrip("0").ljust(4, "0")
        for delta in table["delta"]
    ]
    if "bar_kind" in table and (table["bar_kind"] != "whole layer").any():
        view["delta of"] = [_reference_text(row) for row in table.to_dict("records")]
        view["value to reach"] = [decimal(bar, 3) for bar in table["bar"]]
    view["whole layer"] = [decimal(value, 3) for value in table["value_full"]]
    if "majority_accuracy" in table and _is_majority_close(table):
        view["majority class"] = [decimal(value, 3) for value in table["majority_accuracy"]]
    view["neurons"] = [integer(value) for value in table["n_neurons"]]
    view["k*"] = intervals(
        _critical_masses(table),
        table["critical_mass_low"],
        table["critical_mass_high"],
        marks=["<= " if is_bound else "" for is_bound in at_floor],
    )
    if "largest_failing" in table:
        view["tested"] = [tested_sizes_text(row) for row in table.to_dict("records")]
    if "pass_mass" in table and table["pass_mass"].notna().any():
        share = float(table["pass_share"].dropna().iloc[0])
        view[f"k for {share * 100:g} %"] = [integer(mass) for mass in table["pass_mass"]]
        if table["worst_ratio"].notna().any():
            view["worst selector"] = [_worst_text(row) for row in table.to_dict("records")]
    view["DR"] = intervals(
        table["dr"],
        table["dr_low"],
        table["dr_high"],
        digits=2,
        marks=[">= " if is_bound else "" for is_bound in at_floor],
    )
    view = view.assign(**_basis_texts(table), **interval_notes(table))
    if "reached" in table:
        view.loc[~table["reached"].fillna(True).astype(bool), "k*"] = "not reached"
    if curves is not None and len(curves):
        lines = {group: _curve_line(rows) for group, rows in curves.groupby(key, sort=False)}
        view["curve"] = [lines.get(tuple(row), "") for row in table[key].itertuples(index=False)]
    return view


def _critical_masses(table: pd.DataFrame) -> list[Any]:
    """Return the critical masses; that of the estimator "strict" is a range of sizes."""
    if "largest_failing" not in table:
        return list(table["critical_mass"])
    return [
        f"{int(row['largest_failing']) + 1:,} to {int(row['critical_mass']):,}"
        if row["estimator"] == "strict"
        and not is_missing(row["largest_failing"])
        and not is_missing(row["critical_mass"])
        and row["critical_mass"] - row["largest_failing"] > 1
        else row["critical_mass"]
        for row in table.to_dict("records")
    ]


def tested_sizes_text(row: Mapping[str, Any]) -> str:
    """Name the tested sizes on both sides of a critical mass: ``64 fails, 128 passes``.

    Parameters
    ----------
    row: of `criticalmass.redundancy`.
    """
    if is_missing(row["critical_mass"]):
        return ""
    fails, passes = row["largest_failing"], row["smallest_passing"]
    end = f"{integer(passes)} passes"
    return end if is_missing(fails) else f"{integer(fails)} fails, {end}"


def _reference_text(row: Mapping[str, Any]) -> str:
    """Name what delta is a share of."""
    kind, control = str(row["bar_kind"]), row["control"]
    if kind == "accuracy":
        return "(accuracy)"
    owner = "the whole layer" if is_missing(control) else f"the control {control}"
    return f"{owner}, above chance" if kind.endswith("above chance") else owner


def _worst_text(row: Mapping[str, Any]) -> str:
    """Name the worst selector and what it keeps."""
    if is_missing(row["worst_ratio"]):
        return ""
    return f"{row['worst_selector']} keeps {row['worst_ratio'] * 100:.0f} %"


def _basis_texts(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return the columns of compression and diffuseness that the table has; "" where missing."""
    texts: dict[str, list[str]] = {}
    if "compression" in table:
        names = ("compression", "best_projection", "compression_at_floor")
        texts["compression"] = [
            f"{'' if is_missing(at_floor) or not at_floor else '>= '}{decimal(ratio, 1)} ({name})"
            for ratio, name, at_floor in zip(*(table[name] for name in names), strict=True)
        ]
    if "diffuseness" in table:
        ends = (table[f"diffuseness{end}"] for end in ("", "_low", "_high"))
        texts["diffuseness"] = intervals(*ends, digits=2)
    return {
        name: [text if is_given else "" for text, is_given in zip(column, given, strict=True)]
        for name, column in texts.items()
        if (given := table[name].notna().tolist()) and any(given)
    }


def _is_majority_close(table: pd.DataFrame) -> bool:
    """Whether always answering the largest class has half of some whole layer's accuracy."""
    return bool((2.0 * table["majority_accuracy"] >= table["value_full"]).fillna(False).any())


def level_texts(table: pd.DataFrame) -> list[str]:
    """Return ``95 % intervals`` for each row, from its level."""
    return [f"{level * 100:g} % intervals" for level in table["level"]]


def _add_searched(view: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Name what the queries of each row search, if a measure of the table searches."""
    from criticalmass.measures.registry import MEASURES, gallery_name

    if not {"n_train", "n_test"} <= set(table):
        return view
    texts = []
    for row in table.to_dict("records"):
        entry = MEASURES.get(str(row["measure"]))
        gallery = gallery_name(row)
        count = row["n_train"] if gallery == "documents" else row["n_test"]
        is_search = entry is not None and entry.searches
        texts.append(f"{integer(count)} {gallery}" if is_search else "")
    return view.assign(searched=texts) if any(texts) else view


def probes_first(table: pd.DataFrame) -> pd.DataFrame:
    """Sort the measures that score a task before those that compare with the whole layer."""
    from criticalmass.measures.registry import is_similarity

    return table.sort_values(
        "measure", key=lambda names: names.map(is_similarity), kind="stable"
    ).reset_index(drop=True)


def intervals(
    centre: Iterable[Any],
    low: Iterable[Any],
    high: Iterable[Any],
    *,
    digits: int = 0,
    marks: Sequence[str] | None = None,
) -> list[str]:
    """Write ``centre [low, high]`` so that the parts of all texts have equal widths.

    Parameters
    ----------
    centre, low, high: (n,) numbers, or texts that stay as they are; a missing one is a dash.
    digits: decimals; 0 writes integers with commas between thousands.
    marks: (n,) text before each centre, such as ``">= "`` for a lower bound.
    """
    columns = [
        [
            value
            if isinstance(value, str)
            else decimal(value, digits)
            if digits
            else integer(value)
            for value in column
        ]
        for column in (centre, low, high)
    ]
    if marks is not None:
        columns[0] = [mark + text for mark, text in zip(marks, columns[0], strict=True)]
    aligned = [_pad_left(column) for column in columns]
    texts = [f"{mid} [{lo}, {hi}]" for mid, lo, hi in zip(*aligned, strict=True)]
    without = [lo == hi == MISSING for lo, hi in zip(*columns[1:], strict=True)]
    if all(without):
        return aligned[0]
    return [
        text.partition(" [")[0] if is_without else text
        for text, is_without in zip(texts, without, strict=True)
    ]


def interval_notes(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return the column that says why intervals are missing; no column if none is.

    Parameters
    ----------
    table: with the column ``interval_note`` or without it.
    """
    if "interval_note" not in table:
        return {}
    notes = ["" if is_missing(note) else str(note) for note in table["interval_note"]]
    return {NO_INTERVAL: notes} if any(notes) else {}


def _curve_line(rows: pd.DataFrame) -> str:
    """Draw a curve as a sparkline; of many sizes, as refining adds them, some are taken."""
    rows = rows.sort_values("n_kept")
    sizes = rows["n_kept"].to_numpy(float)
    if sizes.size > _LINE_SIZES:
        places = np.geomspace(sizes[0], sizes[-1], _LINE_SIZES)
        nearest = [int(np.abs(np.log(sizes / place)).argmin()) for place in places]
        rows = rows.iloc[sorted(set(nearest))]
    return sparkline(rows["mean"])


def sparkline(values: Iterable[Any]) -> str:
    """Draw numbers as a line of blocks of eight heights; a missing one is a space."""
    numbers = [None if is_missing(value) else float(value) for value in values]
    present = [number for number in numbers if number is not None]
    if not present:
        return ""
    low, spread = min(present), max(present) - min(present)
    return "".join(
        " "
        if number is None
        else _BLOCKS[round((number - low) / spread * (len(_BLOCKS) - 1)) if spread else -1]
        for number in numbers
    )


def _split_common_columns(frame: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """Return the texts of the columns with one value in several rows, and the other columns."""
    if len(frame) < 2:
        return [], frame
    same = [name for name in frame.columns if frame[name].nunique(dropna=False) == 1]
    if len(same) == len(frame.columns):
        same = same[:-1]
    texts = {name: _cell_text(frame[name].iloc[0]) for name in same if name != "curve"}
    labelled = [
        text if name in _SELF_EXPLANATORY else f"{name} {text}" for name, text in texts.items()
    ]
    return labelled, frame[[name for name in frame.columns if name not in texts]]


def _is_number_column(column: pd.Series) -> bool:
    """Whether a column holds only numbers, with or without intervals."""
    texts = [_cell_text(value) for value in column]
    return all(_NUMBER.fullmatch(text) for text in texts if text)


def _cell_text(value: Any) -> str:
    """Write one value; control characters are replaced, so that none reaches the terminal."""
    if is_missing(value):
        return MISSING
    if isinstance(value, float):
        return f"{value:.4g}"
    return "".join(c if c.isprintable() else "�" for c in str(value))


def _json_value(value: Any) -> Any:
    """Convert a value to a type of JSON; missing and non-finite values become null."""
    if is_missing(value):
        return None
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, float) and plain in (float("inf"), float("-inf")):
        return None
    return plain if isinstance(plain, (bool, int, float, str)) else str(plain)


def _pad_left(texts: list[str]) -> list[str]:
    """Pad texts on the left to the width of the widest."""
    width = max((len(text) for text in texts), default=0)
    return [text.rjust(width) for text in texts]

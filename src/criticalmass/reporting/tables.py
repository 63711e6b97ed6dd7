"""Tables for people and for machines: one DataFrame in, text out.

People get aligned intervals (``214 [190, 242]``) and what is the same in all rows said once,
above the table; machines get every column as it is, in JSON, CSV or Parquet.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.storage.files import scratch_beside

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("table", "json", "csv", "parquet")
_BLOCKS = "▁▂▃▄▅▆▇█"
_PROSE = 76
_NUMBER = re.compile(r"[<>= ]*[-–\d][\d.,e+%-]*( \[.*\])?|not reached")
_GROUP = ["model", "layer", "dataset", "selector", "measure"]


def write_table(
    frame: pd.DataFrame,
    *,
    form: str = "table",
    out: str | os.PathLike[str] | None = None,
    people: pd.DataFrame | None = None,
    title: str = "",
) -> None:
    """Write a table to standard output, or to a file.

    Parameters
    ----------
    frame: the table, for machines.
    form: one of ``FORMATS``.
    out: file to write; standard output by default.
    people: the same table as people read it; ``frame`` by default.
    title: line above the table for people.

    Raises
    ------
    CriticalMassError: unknown format, or Parquet asked for on a terminal.
    """
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    if form == "table":
        text = as_text(frame if people is None else people, title=title, colour=out is None)
        content = text.encode()
    else:
        content = as_bytes(frame, form)
    if out is not None:
        target = Path(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = scratch_beside(target)
        scratch.write_bytes(content)
        os.replace(scratch, target)
    elif form == "parquet":
        if sys.stdout.isatty():
            raise CriticalMassError(
                "--format parquet is binary; name a file with --out or redirect the output"
            )
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(content.decode())
        sys.stdout.flush()


def as_bytes(frame: pd.DataFrame, form: str) -> bytes:
    """Encode a table for machines: json (a list of rows), csv or parquet; nothing is rounded."""
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
    """Set a table for people: numbers to the right, colour only on a terminal.

    Columns that say the same in every row are said once, above the table.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    common, rest = _said_once(frame)
    terminal = colour and sys.stdout.isatty()
    buffer = io.StringIO()
    # Wider than any window: a number is never broken or cut, a narrow terminal folds lines itself.
    console = Console(file=buffer, force_terminal=terminal, no_color=not terminal, width=10_000)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for name in rest.columns:
        right = name != "curve" and _reads_from_the_right(rest[name])
        table.add_column(
            Text(str(name)),
            justify="right" if right else "left",
            no_wrap=right or len(rest.columns) > 2,
            max_width=None if right or len(rest.columns) > 2 else _PROSE,
            overflow="fold",
        )
    for row in rest.itertuples(index=False):
        table.add_row(*(Text(_cell(value)) for value in row))
    if title:
        console.print(Text(title, style="bold"))
    if common:
        console.print(Text(" · ".join(common), style="dim"))
    if len(rest):
        console.print(table)
    else:
        console.print("nothing to show")
    return "\n".join(line.rstrip() for line in buffer.getvalue().split("\n"))


def redundancy_for_people(table: pd.DataFrame, curves: pd.DataFrame | None = None) -> pd.DataFrame:
    """Turn a redundancy table into words: intervals, bounds and a sparkline of each curve.

    Parameters
    ----------
    table: rows of `criticalmass.redundancy`.
    curves: rows of `criticalmass.curves`, for the sparklines; none drawn without.

    Returns
    -------
    A frame of strings with one row per row of ``table``.
    """
    import pandas as pd

    table = probes_first(table)
    floor = table["at_floor"].fillna(False).astype(bool)
    shown = pd.DataFrame({name: table[name].astype(str) for name in _GROUP})
    if "estimator" in table:
        shown["estimator"] = table["estimator"].astype(str)
    if "level" in table:
        shown["level"] = [f"{level * 100:g} % intervals" for level in table["level"]]
    shown["delta"] = [f"{delta:.3f}".rstrip("0").ljust(4, "0") for delta in table["delta"]]
    shown["whole layer"] = [_decimal(value, 3) for value in table["value_full"]]
    shown["neurons"] = [_whole(value) for value in table["n_neurons"]]
    shown["k*"] = intervals(
        table["critical_mass"],
        table["critical_mass_low"],
        table["critical_mass_high"],
        marks=["<= " if bound else "" for bound in floor],
    )
    shown["DR"] = intervals(
        table["dr"],
        table["dr_low"],
        table["dr_high"],
        digits=2,
        marks=[">= " if bound else "" for bound in floor],
    )
    if "reached" in table:
        shown.loc[~table["reached"].fillna(True).astype(bool), "k*"] = "not reached"
    if curves is not None and len(curves):
        lines = {key: sparkline(rows["mean"]) for key, rows in curves.groupby(_GROUP, sort=False)}
        shown["curve"] = [
            lines.get(tuple(key), "") for key in table[_GROUP].itertuples(index=False)
        ]
    return shown


def probes_first(table: pd.DataFrame) -> pd.DataFrame:
    """Put the measures that score a task before those that compare with the whole layer."""
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
    """Set ``centre [low, high]`` one below the other so that every part is aligned.

    Parameters
    ----------
    centre, low, high: (n,) numbers; a missing one is a dash.
    digits: decimals; 0 sets whole numbers with thousands separated.
    marks: (n,) text before each centre, such as ``">= "`` for a lower bound.
    """
    columns = [
        [_decimal(value, digits) if digits else _whole(value) for value in column]
        for column in (centre, low, high)
    ]
    if marks is not None:
        columns[0] = [mark + text for mark, text in zip(marks, columns[0], strict=True)]
    aligned = [_right(column) for column in columns]
    return [f"{mid} [{lo}, {hi}]" for mid, lo, hi in zip(*aligned, strict=True)]


def sparkline(values: Iterable[Any]) -> str:
    """Draw numbers as a line of blocks, lowest to highest; a missing one is a gap."""
    numbers = [None if _missing(value) else float(value) for value in values]
    known = [number for number in numbers if number is not None]
    if not known:
        return ""
    low, spread = min(known), max(known) - min(known)
    return "".join(
        " "
        if number is None
        else _BLOCKS[round((number - low) / spread * (len(_BLOCKS) - 1)) if spread else -1]
        for number in numbers
    )


def _said_once(frame: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """Split off the columns that are the same in all of several rows."""
    if len(frame) < 2:
        return [], frame
    same = [name for name in frame.columns if frame[name].nunique(dropna=False) == 1]
    if len(same) == len(frame.columns):
        same = same[:-1]
    plain = {*_GROUP, "estimator", "level", "split", "status"}
    words = [
        _cell(frame[name].iloc[0]) if name in plain else f"{name} {_cell(frame[name].iloc[0])}"
        for name in same
        if name != "curve"
    ]
    return words, frame[[name for name in frame.columns if name not in same or name == "curve"]]


def _reads_from_the_right(column: pd.Series) -> bool:
    """Whether a column holds numbers, with or without an interval."""
    texts = [_cell(value) for value in column]
    return all(_NUMBER.fullmatch(text) for text in texts if text)


def _cell(value: Any) -> str:
    """Write one value for a person; control characters never reach the terminal."""
    if _missing(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "".join(c if c.isprintable() else "�" for c in str(value))


def _json_value(value: Any) -> Any:
    """Turn a value into what JSON can say; what is missing or not finite is null."""
    if _missing(value):
        return None
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, float) and plain in (float("inf"), float("-inf")):
        return None
    return plain if isinstance(plain, (bool, int, float, str)) else str(plain)


def _missing(value: Any) -> bool:
    """Whether a scalar is NA, NaN, NaT or None."""
    import pandas as pd

    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _whole(value: Any) -> str:
    """Write a count with its thousands apart."""
    return "–" if _missing(value) else f"{round(float(value)):,}"


def _decimal(value: Any, digits: int) -> str:
    """Write a number with a fixed count of decimals."""
    return "–" if _missing(value) else f"{float(value):.{digits}f}"


def _right(texts: list[str]) -> list[str]:
    """Pad to the widest, words to the right."""
    width = max((len(text) for text in texts), default=0)
    return [text.rjust(width) for text in texts]

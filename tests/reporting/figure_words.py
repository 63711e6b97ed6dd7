"""All words of a described figure, for tests that compare what the two renderers draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from criticalmass.reporting.plots import (
    Cells,
    Mark,
    Plot,
    Rule,
    Series,
    look,
    plain_axis,
    share_axis,
    unit_axis,
)


@dataclass(frozen=True)
class Words:
    """Words of a figure; ticks of the horizontal axis and of cells may be left out."""

    required: set[str]
    optional: set[str]


def described_words(spec: dict[str, Any]) -> Words:
    """Return the words of `Plot.spec`."""
    required = {text for text, _ in spec["legend"]}
    cells = spec["cells"]
    if cells:
        texts = {text for row in cells["texts"] for text in row}
        required |= {cells["label"], cells["column_label"], *(text for _, text in cells["ticks"])}
        return Words(required - {""}, {*cells["rows"], *cells["columns"], *texts} - {""})
    required |= {spec["x"]["label"], spec["y"]["label"], spec["x"]["ticks"][-1][1]}
    required |= {text for _, text in spec["y"]["ticks"]}
    required |= {part["label"] for part in (*spec["rules"], *spec["marks"])}
    required |= {text for series in spec["series"] for text in series["texts"]}
    return Words(required - {""}, {text for _, text in spec["x"]["ticks"]})


def example_plots() -> list[Plot]:
    """Describe figures that together use every part of a description."""
    table = pd.DataFrame({"a": [1]})
    x, y = [0.1, 0.5, 1.0], [0.2, 0.6, 0.9]
    low, high = [0.1, None, 0.8], [0.3, 0.7, 1.0]
    kinds = (
        Series("line $a$", x, y, low, high),
        Series("bare", x, y, low, high, style=1, shape="bare"),
        Series("steps", x, y, style=2, shape="steps", bounds=(0,)),
        Series("band", x, y, [0.1] * 3, [0.2] * 3, style=3, shape="band"),
        Series("points", x, y, low, high, [0.05] * 3, [0.6] * 3, style=8, shape="points",
               texts=("13", "", "77")),
        Series("star", [0.2], [0.5], colour="ink", shape="stars"),
        Series("unnamed", x, y, colour="grey", legend="", hollow=True),
    )  # fmt: skip
    marks = (Mark(0.5, 0.6, 0.3, 0.9, "90 %"),)
    rules = (
        Rule("y", 0.9, "whole layer 0.900", dashed=True, low=0.85, high=0.95),
        Rule("x", 0.3, "kept overall"),
    )
    many = tuple(Series(f"curve {n}", x, y, **look(n, 12)) for n in range(12))
    share = share_axis(0.1, 100)
    values, count = [[1.0, 0.25], [None, 0.5]], 30
    maps = (
        Cells(["a_1", "$b$"], ["1 %", "2 %"], values, "kappa", "neurons kept"),
        Cells([str(n) for n in range(count)], [f"{n} neurons" for n in range(count)],
              [[0.5] * count] * count, "kappa", "neurons kept"),
    )  # fmt: skip
    described = {
        "kinds": (share, plain_axis([-1.0, 1.0], "difference", form="percent"), kinds),
        "many": (share, unit_axis(y, "accuracy"), many),
    }
    plots = [
        Plot(name, name, "", "", table, *axes, rules=rules, marks=marks)
        for name, axes in described.items()
    ]
    cells = [Plot(f"map-{n}", "map", "", "", table, cells=one) for n, one in enumerate(maps)]
    return [*plots, *cells]

"""Draw the README's picture from the runs of the demo.

Usage: .venv/bin/python docs/images/render.py demo docs/images/demo-curves.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from criticalmass.analysis.redundancy import curves, redundancy
from criticalmass.reporting.figures.curves import mark_critical_mass, value_against_fraction


def render(demo: Path, out: Path) -> None:
    """Draw one accuracy curve per run of the demo, side by side.

    Parameters
    ----------
    demo: the folder that ``criticalmass demo --out`` wrote.
    out: the picture to write.
    """
    runs = sorted(path.parent for path in demo.glob("*/run/manifest.json"))
    figure = Figure(figsize=(4.4 * len(runs), 3.3), layout="constrained", facecolor="white")
    for run, ax in zip(runs, figure.subplots(1, len(runs), squeeze=False)[0], strict=True):
        lines = curves(run)
        value_against_fraction(lines, ax, measure="logistic")
        masses = redundancy(run, deltas=(0.9,))
        mark_critical_mass(masses[masses["measure"] == "logistic"], ax)
        ax.set_title(f"{lines['model'].iloc[0]} on {lines['dataset'].iloc[0]}", loc="left", size=10)
    figure.savefig(out, dpi=160)


if __name__ == "__main__":
    render(Path(sys.argv[1]), Path(sys.argv[2]))

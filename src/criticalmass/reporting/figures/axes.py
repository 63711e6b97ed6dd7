"""Axes of figures: fractions, counts and plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from criticalmass.reporting.formatting import is_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# 1, 2 and 5 times the powers of ten from 0.0001 to 1.
_FRACTION_TICKS = (*(m / 10**e for e in (4, 3, 2, 1) for m in (1, 2, 5)), 1.0)


@dataclass(frozen=True)
class Axis:
    """One axis of a figure of the page.

    Attributes
    ----------
    label: title of the axis.
    low, high: its ends.
    ticks: (position, text) pairs.
    log: whether it is logarithmic.
    form: how values are written: "percent", "count" or "number".
    neurons: number of neurons at the fraction 1, for the readout of an axis of fractions; 0 for
        other axes and where layers differ.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    form: str = "number"
    neurons: int = 0


def share_axis(smallest: float, neurons: int, label: str = "neurons kept") -> Axis:
    """Return the logarithmic axis of fractions, from the smallest one to the whole layer.

    Parameters
    ----------
    smallest: smallest fraction drawn, in (0, 1].
    neurons: of the whole layer, 0 where layers differ.
    label: title of the axis.
    """
    low = smallest * 0.88
    ticks = tuple((tick, f"{tick * 100:g} %") for tick in _FRACTION_TICKS if tick >= low)
    return Axis(label, low, 1.13, ticks, log=True, form="percent", neurons=neurons)


def count_axis(low: float, high: float, label: str) -> Axis:
    """Return a logarithmic axis of numbers of neurons from ``low`` to ``high``."""
    candidates = [m * 10**e for e in range(7) for m in (1, 2, 5)]
    ticks = tuple((tick, f"{tick:,}") for tick in candidates if low * 0.88 <= tick <= high * 1.13)
    return Axis(label, low * 0.88, high * 1.13, ticks, log=True, form="count")


def plain_axis(
    values: Iterable[Any], label: str, *, form: str = "number", top: float | None = None
) -> Axis:
    """Return a linear axis around values, with about five round ticks.

    Parameters
    ----------
    values: numbers that the axis covers; missing ones are ignored.
    label: title of the axis.
    form: as in `Axis`.
    top: largest upper end.
    """
    present = (float(value) for value in values if not is_missing(value))
    known = [value for value in present if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    spread = (high - low) or 0.1
    low, high = low - 0.05 * spread, high + 0.05 * spread
    if top is not None:
        high = min(high, top)
    if min(known) >= 0.0:
        low = max(low, 0.0 if low < 0.02 else low)
    step = _round_step((high - low) / 5)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) - (2 if form == "percent" else 0))
    positions = [round(n * step, 10) for n in range(first, last + 1)]
    texts = [
        f"{v * 100:.{digits}f} %" if form == "percent" else f"{v:.{digits}f}" for v in positions
    ]
    return Axis(label, low, high, tuple(zip(positions, texts, strict=True)), form=form)


def _round_step(rough: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough - 1e-12)


def set_fraction_axis(ax: Axes, smallest: float) -> None:
    """Set the logarithmic horizontal axis of fractions, labelled in per cent.

    Parameters
    ----------
    ax: whose axis.
    smallest: smallest fraction drawn, in (0, 1].
    """
    _set_x_axis(ax, share_axis(smallest, 0))


def set_count_axis(ax: Axes, smallest: float, largest: float) -> None:
    """Set the logarithmic horizontal axis of numbers of neurons.

    Parameters
    ----------
    ax: whose axis.
    smallest, largest: smallest and largest number drawn.
    """
    _set_x_axis(ax, count_axis(smallest, largest, "neurons or dimensions kept"))


def _set_x_axis(ax: Axes, axis: Axis) -> None:
    """Set a logarithmic horizontal axis of a matplotlib figure."""
    ax.set_xscale("log")
    ax.set_xlim(axis.low, axis.high)
    ax.set_xticks([at for at, _ in axis.ticks], [text for _, text in axis.ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel(axis.label)

"""Axes of figures: shares, counts and plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def fraction_axis(ax: Axes, smallest: float) -> None:
    """Lay the logarithmic axis of fractions, labelled in per cent."""
    ticks = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    ax.set_xscale("log")
    ax.set_xlim(smallest * 0.88, 1.13)
    shown = [tick for tick in ticks if tick >= smallest * 0.88]
    ax.set_xticks(shown, [f"{tick * 100:g} %" for tick in shown])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("neurons kept")


def _count_axis(ax: Axes, smallest: float, largest: float) -> None:
    """Lay the logarithmic axis of numbers of neurons."""
    ticks = [m * 10**e for e in range(6) for m in (1, 2, 5)]
    shown = [tick for tick in ticks if smallest * 0.88 <= tick <= largest * 1.13]
    ax.set_xscale("log")
    ax.set_xlim(smallest * 0.88, largest * 1.13)
    ax.set_xticks(shown, [f"{tick:,}" for tick in shown])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("neurons or dimensions kept")


_SHARES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Axis:
    """One axis: where it starts and ends, what it is called, and what is written along it.

    ``form`` says how a reader is told a value on it: "percent", "count" or "number";
    ``neurons`` turns a share into a number of neurons, 0 where it is none.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    form: str = "number"
    neurons: int = 0


def share_axis(smallest: float, neurons: int, label: str = "neurons kept") -> Axis:
    """Lay the logarithmic axis of fractions, from the smallest one to the whole layer."""
    low = smallest * 0.88
    ticks = tuple((tick, f"{tick * 100:g} %") for tick in _SHARES if tick >= low)
    return Axis(label, low, 1.13, ticks, log=True, form="percent", neurons=neurons)


def count_axis(low: float, high: float, label: str) -> Axis:
    """Lay a logarithmic axis of numbers of neurons."""
    places = [m * 10**e for e in range(7) for m in (1, 2, 5)]
    ticks = tuple((tick, f"{tick:,}") for tick in places if low * 0.88 <= tick <= high * 1.13)
    return Axis(label, low * 0.88, high * 1.13, ticks, log=True, form="count")


def plain_axis(
    values: Iterable[Any], label: str, *, form: str = "number", top: float | None = None
) -> Axis:
    """Lay a linear axis around values, with about five round ticks.

    Parameters
    ----------
    values: what has to fit; missing ones are ignored.
    label: its words.
    form: as in `Axis`.
    top: where it shall end at most.
    """
    known = [float(v) for v in values if v is not None and math.isfinite(float(v))] or [0.0, 1.0]
    low, high = min(known), max(known)
    spread = (high - low) or 0.1
    low, high = low - 0.05 * spread, high + 0.05 * spread
    if top is not None:
        high = min(high, top)
    if min(known) >= 0.0:
        low = max(low, 0.0 if low < 0.02 else low)
    step = _step((high - low) / 5)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) - (2 if form == "percent" else 0))
    places = [round(n * step, 10) for n in range(first, last + 1)]
    words = [f"{v * 100:.{digits}f} %" if form == "percent" else f"{v:.{digits}f}" for v in places]
    return Axis(label, low, high, tuple(zip(places, words, strict=True)), form=form)


def _step(rough: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough - 1e-12)

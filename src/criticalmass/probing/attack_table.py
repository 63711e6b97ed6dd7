"""The table of an attack: accuracies over images, paired differences, and signs of masking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticalmass.analysis.columns import (
    COUNT,
    FLOAT,
    TEXT,
    interval_columns,
    percentile_interval,
    typed_table,
)
from criticalmass.errors import CriticalMassError

MEMBER, HARD, SOFT = "one member", "hard vote", "soft vote"
ONE, WHOLE = "one probe", "whole layer"
DEFENCES = (MEMBER, HARD, SOFT, ONE, WHOLE)
ATTACK_COLUMNS: dict[str, str] = {
    **{"norm": TEXT, "radius": FLOAT, "defence": TEXT, "n_used": COUNT, "n_images": COUNT},
    **interval_columns("clean", "robust", "against_whole", "against_one_probe", "matched"),
    **{"level": FLOAT, "white_box": FLOAT, "transfer": FLOAT, "noise": FLOAT, "after_one": FLOAT},
    **{"after_fifth": FLOAT, "after_all": FLOAT, "zero_gradient": FLOAT, "large_ball": FLOAT},
    "checks": TEXT,
}
# Quantiles of distance between which images are compared.
_BINS = 5
# Share of images whose gradient is zero above which a table warns.
_ZERO_SHARE = 0.01
Array = NDArray[np.float64]


def summarise(
    images: pd.DataFrame, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Summarise the table per image.

    Parameters
    ----------
    images: one row per image, radius and defence, of `probing.attack`.
    level, resamples, seed: of the bootstrap over images; all defences of a radius share the draws.

    Returns
    -------
    One row per radius and defence, `ATTACK_COLUMNS`: ``clean`` and ``robust`` accuracy (right under
    every attack, also those made on the other defences), ``against_whole`` and
    ``against_one_probe`` are differences of robust accuracy on the same images; ``matched`` is the
    latter between images whose first-order distance to the boundary is alike. ``white_box`` is the
    accuracy under the attack on this defence alone, ``transfer`` under that on the whole layer's
    head, ``noise`` under random changes of the full radius. ``after_one``, ``after_fifth`` and
    ``after_all`` are accuracies after so many steps of the first loss; ``large_ball`` is the
    accuracy where the ball holds every image. ``checks`` says what is wrong; empty if nothing is.

    Raises
    ------
    CriticalMassError: the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise CriticalMassError(f"level={level:g} must be between 0 and 1")
    checks = images[images["is_check"]].groupby("defence")["robust"].mean()
    rows = []
    for radius, part in images[~images["is_check"]].groupby("radius"):
        by_defence = {name: part[part["defence"] == name].set_index("image") for name in DEFENCES}
        n = len(by_defence[WHOLE])
        counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
        for name, own in by_defence.items():
            row = {
                "norm": own["norm"].iloc[0],
                "radius": radius,
                "defence": name,
                "n_used": own["n_used"].iloc[0],
                "n_images": n,
                "level": level,
                "large_ball": float(checks[name]),
                **_means(own),
            }
            quantities: dict[str, Callable[[Array], Array]] = {
                "clean": _mean_of(own["clean"]),
                "robust": _mean_of(own["robust"]),
                "against_whole": _mean_of(_minus(own, by_defence[WHOLE])),
                "against_one_probe": _mean_of(_minus(own, by_defence[ONE])),
            }
            if name not in (ONE, MEMBER):
                quantities["matched"] = _Matched(own, by_defence[ONE])
            for quantity, function in quantities.items():
                row[quantity] = float(function(np.ones((1, n)))[0])
                draws = function(counts.astype(np.float64))
                low, high = percentile_interval(draws, level)
                row |= {f"{quantity}_low": low, f"{quantity}_high": high}
            row["checks"] = "; ".join(_checks(own, row, counts, level))
            rows.append(row)
    return typed_table([{**dict.fromkeys(ATTACK_COLUMNS), **row} for row in rows], ATTACK_COLUMNS)


def _means(own: pd.DataFrame) -> dict[str, float]:
    """Return the means over images that need no interval."""
    means = {name: float(own[name].mean()) for name in ("white_box", "transfer", "noise")}
    means["zero_gradient"] = float(own["zero_gradient"].mean())
    steps, all_steps = own["step"].to_numpy(), int(own["steps"].iloc[0])
    for name, last in (("one", 1), ("fifth", max(1, all_steps // 5)), ("all", all_steps)):
        fell = (steps >= 0) & (steps <= last)
        means[f"after_{name}"] = float((own["clean"].to_numpy() & ~fell).mean())
    return means


def _mean_of(values: Any) -> Callable[[Array], Array]:
    """Return the function of (draws, n) counts -> (draws,) weighted means of values."""
    array = np.asarray(values, dtype=np.float64)
    return lambda counts: np.asarray(counts @ array / counts.sum(axis=1))


def _minus(own: pd.DataFrame, other: pd.DataFrame) -> Array:
    """Return the difference of robustness of each image."""
    right = [one["robust"].to_numpy(dtype=np.float64) for one in (own, other.loc[own.index])]
    return np.asarray(right[0] - right[1])


class _Matched:
    """The difference of robust accuracy between right images at equal distances.

    Images that a defence answers right are put into bins by their distance, the same bins for both
    defences. The difference within a bin has the weight n1 n2 / (n1 + n2) of Mantel and Haenszel
    (1959). NaN if no bin has images of both.
    """

    def __init__(self, own: pd.DataFrame, other: pd.DataFrame) -> None:
        pair = (own, other.loc[own.index])
        distances = [one["distance"].to_numpy(dtype=np.float64) for one in pair]
        right = [one["clean"].to_numpy(dtype=bool) for one in pair]
        pooled = np.concatenate([d[r] for d, r in zip(distances, right, strict=True)])
        # The distance of a defence without a gradient is infinite: the last bin.
        finite = pooled[np.isfinite(pooled)]
        edges = np.quantile(finite, np.linspace(0, 1, _BINS + 1)[1:-1]) if finite.size else []
        self._members, self._robust = [], []
        for distance, is_right, one in zip(distances, right, pair, strict=True):
            bins = np.searchsorted(np.asarray(edges), distance, side="right")
            member = np.stack([(bins == b) & is_right for b in range(_BINS)], axis=1)
            self._members.append(member.astype(np.float64))
            self._robust.append(one["robust"].to_numpy(dtype=np.float64)[:, None])

    def __call__(self, counts: Array) -> Array:
        """Return the difference for each draw of images, (draws,)."""
        n = [counts @ member for member in self._members]
        sums = [counts @ (m * r) for m, r in zip(self._members, self._robust, strict=True)]
        both = (n[0] > 0) & (n[1] > 0)
        safe = [np.where(both, one, 1.0) for one in n]
        weight = np.where(both, safe[0] * safe[1] / (safe[0] + safe[1]), 0.0)
        difference = sums[0] / safe[0] - sums[1] / safe[1]
        total = weight.sum(axis=1)
        mean = (weight * difference).sum(axis=1) / np.where(total > 0, total, 1.0)
        return np.asarray(np.where(total > 0, mean, np.nan))


def _checks(
    own: pd.DataFrame, row: dict[str, Any], counts: NDArray[np.int64], level: float
) -> list[str]:
    """Return what suggests that the attack was too weak (Carlini et al. 2019)."""

    def excess_of(name: str) -> float:
        """Return the low end of how much lower the accuracy is than under the own attack."""
        lost = own["white_box"].astype(float) - own[name].astype(float)
        return percentile_interval(_mean_of(lost)(counts.astype(np.float64)), level)[0]

    problems = []
    if row["large_ball"] > 0:
        problems.append(f"a ball of all images leaves {row['large_ball']:.0%} right")
    if excess_of("transfer") > 0:
        problems.append("images made on the whole layer's head do more than its own attack")
    if excess_of("noise") > 0:
        problems.append("noise does more than its own attack")
    if row["zero_gradient"] > _ZERO_SHARE:
        problems.append(f"the first loss has no gradient at {row['zero_gradient']:.0%} of images")
    stays = row["after_one"] - row["after_all"]
    if stays <= 0 and row["after_all"] > 0 and row["after_all"] > row["white_box"]:
        problems.append("more steps of the first loss do not help, another loss does")
    return problems

"""Means over images of what searches found, with intervals over images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

SEARCH = ("objective", "start", "selector", "n_kept", "n_neurons")
"""Columns that name a search, apart from its image and the seed of its subset."""
SHARES = ("same_class", "judge_same_class")
"""Columns of yes and no."""
VALUES = ("kept_error", "dropped_error", "r2", "rms", "ssim", *SHARES)
"""Columns that are averaged."""


def summarise_images(
    table: pd.DataFrame,
    level: float = 0.95,
    *,
    by: Sequence[str] = SEARCH,
    values: Sequence[str] = VALUES,
    shares: Sequence[str] = SHARES,
    image: str = "image",
) -> pd.DataFrame:
    """Average over images, with intervals over images.

    Seeds of subsets are averaged within an image first, so an interval says what other images
    would show with these subsets. Errors have Student's interval. Shares have Wilson's, of as many
    independent cases as there are images.

    Parameters
    ----------
    table: one row per search.
    level: of the intervals.
    by: columns that name a search; those that are missing are left out.
    values: columns to average.
    shares: those of yes and no.
    image: column of the image.

    Returns
    -------
    ``by``, ``images``, and for each value ``NAME``, ``NAME_low`` and ``NAME_high``.
    """
    by = [name for name in by if name in table]
    values = [name for name in values if name in table]
    per_image = table.groupby([*by, image], sort=False, dropna=False)[values].mean().reset_index()
    rows = []
    for key, part in per_image.groupby(by, sort=False, dropna=False):
        row = dict(zip(by, key, strict=True)) | {"images": len(part)}
        for name in values:
            row |= _with_interval(name, part[name].dropna(), level, is_share=name in shares)
        rows.append(row)
    return pd.DataFrame(rows)


def _with_interval(
    name: str, values: pd.Series, level: float, *, is_share: bool
) -> dict[str, float]:
    from scipy.special import ndtri, stdtrit

    n = len(values)
    mean = float(values.mean()) if n else float("nan")
    low = high = float("nan")
    if is_share and n:
        z = float(ndtri(0.5 + level / 2))
        centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
        low, high = centre - half, centre + half
    elif n > 1:
        half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(values.std()) / np.sqrt(n)
        low, high = mean - half, mean + half
    return {name: mean, f"{name}_low": float(low), f"{name}_high": float(high)}

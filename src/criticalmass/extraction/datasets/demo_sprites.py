"""Images that are drawn here: a square, ellipse or heart of known size, orientation and place.

They follow the definition of dSprites (Matthey et al. 2017): 3 shapes, 6 sizes, 40 orientations,
32 horizontal and 32 vertical positions, 64 x 64 pixels of 0 or 255. A sample of all 737,280 is
drawn, so that tasks about the structure of a scene need no download.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.label_schemes import groups_of_levels
from criticalmass.extraction.datasets.several_labels import choose_labels
from criticalmass.extraction.datasets.splits import SPLIT_SEED
from criticalmass.extraction.labels import LabelColumn
from criticalmass.extraction.specs import Spec
from criticalmass.storage.features import UNLABELLED

SHAPES = ("square", "ellipse", "heart")
N_SPRITES, _N_TRAIN = 8_000, 6_000
_SIDE, _N_SIZES, _N_ORIENTATIONS, _N_POSITIONS, _N_GROUPS = 64, 6, 40, 32, 16
_BLOCK = 500


def load_sprites(spec: Spec) -> Dataset:
    """Draw 6,000 + 2,000 sprites; the four labels are those of VTAB, and the size.

    Parameters
    ----------
    spec: ``demo:sprites``, with ``label=`` or ``labels=`` of ``shape`` (the default), ``size``,
        ``location`` (horizontal, 16 groups) and ``orientation`` (16 groups).
    """
    factors = draw_factors(N_SPRITES, SPLIT_SEED)
    images = np.concatenate(
        [draw_sprites(factors[start : start + _BLOCK]) for start in range(0, N_SPRITES, _BLOCK)]
    )
    rows = {"train": slice(0, _N_TRAIN), "test": slice(_N_TRAIN, N_SPRITES)}
    shape, size, orientation, x, _ = factors.T
    values = {
        "shape": np.array(SHAPES)[shape],
        "size": size,
        "location": groups_of_levels(x, _N_POSITIONS, _N_GROUPS),
        "orientation": groups_of_levels(orientation, _N_ORIENTATIONS, _N_GROUPS),
    }
    ids = [f"sprite-{number:04d}" for number in range(N_SPRITES)]
    splits = {
        part: Split(images[chosen], np.zeros(len(ids[chosen]), np.int64), ids[chosen])
        for part, chosen in rows.items()
    }
    columns = {
        name: {part: LabelColumn(column[chosen], name) for part, chosen in rows.items()}
        for name, column in values.items()
    }
    notes = {"split": f"as drawn, seed {SPLIT_SEED}", "origin": "drawn by criticalmass"}
    dataset = Dataset(spec.text, "sprites", "image", splits, UNLABELLED, "-", notes=notes)
    return choose_labels(dataset, spec, columns, default="shape")


def draw_factors(n: int, seed: int) -> NDArray[np.int64]:
    """Draw n different (n, 5) factors: shape, size, orientation, x and y, in random order."""
    levels = (len(SHAPES), _N_SIZES, _N_ORIENTATIONS, _N_POSITIONS, _N_POSITIONS)
    numbers = np.random.default_rng(seed).choice(np.prod(levels), n, replace=False)
    return np.stack(np.unravel_index(numbers, levels), axis=1).astype(np.int64)


def draw_sprites(factors: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Draw (n, 64, 64) images of 0 and 255 from (n, 5) factors; see `draw_factors`."""
    shape, size, orientation, x, y = (column[:, None, None] for column in factors.T)
    # Half the side of the square in pixels: from 5 to 10.
    radius = 5.0 + size
    centre_x, centre_y = (16.0 + 32.0 * place / (_N_POSITIONS - 1) for place in (x, y))
    rows, columns = np.mgrid[:_SIDE, :_SIDE] + 0.5
    across, down = (columns - centre_x) / radius, (centre_y - rows) / radius
    angle = 2.0 * np.pi * orientation / _N_ORIENTATIONS
    u = np.cos(angle) * across + np.sin(angle) * down
    v = np.cos(angle) * down - np.sin(angle) * across
    # The heart is the curve (u^2 + v^2 - 1)^3 = u^2 v^3, a little lower and smaller.
    p, q = 1.2 * u, 1.2 * v + 0.1
    inside = np.select(
        [shape == 0, shape == 1],
        [np.maximum(abs(u), abs(v)) <= 0.9, (u / 1.2) ** 2 + (v / 0.7) ** 2 <= 1.0],
        (p**2 + q**2 - 1.0) ** 3 <= p**2 * q**3,
    )
    return np.where(inside, np.uint8(255), np.uint8(0)).astype(np.uint8)

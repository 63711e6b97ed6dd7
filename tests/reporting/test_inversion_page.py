"""The page and the pictures of an inversion."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.probing.networks import LEFT, linear_model, noise_images

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.probing.invert import Inversion
from criticalmass.reporting.figures.inversion import Search, inversion_plots, picture_grid


@pytest.fixture(scope="module")
def inversion(tmp_path_factory: pytest.TempPathFactory) -> Inversion:
    return cm.invert(
        linear_model(),
        noise_images(),
        out=tmp_path_factory.mktemp("inversion") / "out",
        keep=(),
        sizes=(2, LEFT),
        selectors=("first", "random"),
        seeds=1,
        images=2,
        steps=3,
        starts="image",
        objectives=("match", "hidden-neurons"),
        radius=0.5,
        device="cpu",
    )


def test_the_page_shows_every_search_and_makes_no_request(
    inversion: Inversion, tmp_path: Path
) -> None:
    page = cm.report(inversion.path, out=tmp_path / "page.html").read_text()
    for title in ("match, from another image", "hidden-neurons, around the target"):
        assert title in page
    assert "default-src &#39;none&#39;" in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org|creativecommons|purl|matplotlib)", page)
    # Target, start and three sizes of two images; hidden changes have no whole layer.
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(pictures) == 2 * (2 + 3) + 2 * (2 + 2)
    first = Image.open(io.BytesIO(base64.b64decode(pictures[0])))
    target = noise_images().splits["test"].items
    assert any(np.array_equal(np.asarray(first)[::11, ::11], one) for one in target)


def test_the_grid_has_the_pictures_of_the_searches_in_order(inversion: Inversion) -> None:
    grid = picture_grid(inversion, Search("match", "image"), selector="random")
    assert grid.columns == ("target", "start", "2 held", "6 held", "12 held")
    table = inversion.table
    for number, (_, pictures) in enumerate(grid.rows):
        rows = table[(table["image"] == number) & (table["objective"] == "match")]
        rows = rows[rows["selector"].isin(["random", "full"])].sort_values("n_kept")
        target = pictures[0].astype(float) / 255
        errors = [np.sqrt(((one / 255.0 - target) ** 2).mean()) for one in pictures[2:]]
        # 8-bit pictures: their RMS is that of the table up to half a level.
        np.testing.assert_allclose(errors, rows["rms"], atol=3e-3)


def test_curves_are_the_means_of_the_summary(inversion: Inversion) -> None:
    summary = inversion.summary()
    [errors, *_] = inversion_plots(summary, Search("match", "image"))
    lines = {one.name: one for one in errors.series}
    for selector in ("first", "random"):
        rows = summary[(summary["objective"] == "match") & (summary["selector"] == selector)]
        assert list(lines[selector].y) == list(rows.sort_values("n_kept")["dropped_error"])


def test_several_inversions_are_no_page(inversion: Inversion) -> None:
    with pytest.raises(CriticalMassError, match="a page shows one inversion; got 2"):
        cm.report([inversion.path, inversion.path])

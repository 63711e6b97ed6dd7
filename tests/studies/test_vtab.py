"""The studies of VTAB: nineteen tasks in three groups, each with all and with 1,000 examples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import criticalmass as cm
from criticalmass.errors import DataUnavailableError
from criticalmass.extraction.datasets import hub_data, torchvision_data
from criticalmass.studies.grid import build_grid
from criticalmass.studies.library import load_study


def test_the_nineteen_tasks_are_in_their_groups_and_protocols() -> None:
    jobs = build_grid([load_study("vtab-paper")], {}).jobs
    counts = Counter((job.part.group, job.examples) for job in jobs)
    sizes = {"natural": 7, "specialised": 4, "structured": 8}
    assert counts == {(group, n): size for group, size in sizes.items() for n in ("all", "1000")}
    tasks = {job.pair.dataset for job in jobs if job.pair.task == "distance"}
    assert tasks == {
        f"torchvision:CLEVRClassification?labels=count,distance&examples={n}"
        for n in ("all", "1000")
    }
    # The labels of one input share their features, and each has a run of its own.
    pairs = [job.pair for job in jobs if job.pair.dataset in tasks]
    assert len({pair.folder for pair in pairs}) == 2
    assert len({pair.run_folder for pair in pairs}) == 4


def test_each_task_without_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DataUnavailableError("no connection")

    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torchvision_data, "download_with_torchvision", refuse)
    monkeypatch.setattr(hub_data, "_load_from_hub", refuse)
    result = cm.study("vtab-paper", out=tmp_path / "out", data=tmp_path / "data", pages=False)
    assert len(result.missing) == 38
    assert not result.is_complete
    reasons = {one.dataset: one.reason for one in result.missing}
    assert len(reasons) == 38
    assert all("\n" not in reason for reason in reasons.values())
    assert sum("(label 'azimuth')" in name for name in reasons) == 2
    assert all(
        "download it from" in reason for name, reason in reasons.items() if name.startswith("vtab:")
    )


def test_the_local_grid_has_the_same_protocols() -> None:
    jobs = build_grid([load_study("vtab-local")], {}).jobs
    counts = Counter((job.part.group, job.examples) for job in jobs)
    groups = {"natural", "specialised", "structured"}
    assert counts.keys() == {(group, n) for group in groups for n in ("all", "1000")}

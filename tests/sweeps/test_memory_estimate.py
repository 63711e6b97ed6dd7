"""What a sweep needs of memory: said before it starts, and kept to."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.core.memory import Room, rooms
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic.training_rows import (
    HeldRows,
    StreamedRows,
    holding,
    ordered_rows,
)
from criticalmass.measures.scaling import column_scaling
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps import memory_estimate
from criticalmass.sweeps.plan import make_request

GIB = 1 << 30
BIG = memory_estimate.Task(200_000, 10_000, 2048, 10, 2, (205, 1024, 1843, 2048), 10, 2, GIB)


def asked(store: FeatureStore, **changes: Any) -> Any:
    asked: dict[str, Any] = {
        "layers": None,
        "selectors": "random",
        "fractions": (0.25, 0.5, 1.0),
        "seeds": 2,
        "measures": ("logistic", "cka"),
    }
    return make_request(store, **{**asked, **changes})


def test_rows_are_held_up_to_the_limit_and_else_read_in_blocks() -> None:
    """200,000 rows of 205 neurons are 164 MB, of 2,048 (and of 1,843) more than a gibibyte."""
    mib = 1 << 20
    wide = replace(BIG, sizes=(1024, 2048))
    assert memory_estimate._rows(wide) == 48 * mib + 4 * 200_000 * 1024
    assert memory_estimate._rows(BIG) <= (48 + 2.5 * 64) * mib
    assert memory_estimate._rows(replace(wide, held=0)) < memory_estimate._rows(wide)


@pytest.mark.parametrize(
    "more",
    [
        {"n_classes": 1000},
        {"n_neurons": 4096},
        {"sizes": (205, 410, 614, 819, 1024, 1843, 2048)},
        {"threads": 16},
        {"n_test": 100_000},
    ],
)
def test_more_of_anything_needs_more(more: dict[str, Any]) -> None:
    for name in ("logistic", "ridge", "cka", "knn", "sgd"):
        assert memory_estimate._measuring(name, replace(BIG, **more)) >= memory_estimate._measuring(
            name, BIG
        )
    assert memory_estimate._logistic(replace(BIG, **more)) > memory_estimate._logistic(BIG)


def test_mapped_features_count_against_address_space_alone(store: FeatureStore) -> None:
    need = memory_estimate.need_of(store, asked(store), GIB)
    assert need.mapped == (90 + 45) * 12 * 4
    space, memory = Room("a", 0, True, ""), Room("b", 0, False, "")
    assert need.of(space) - need.of(memory) == need.mapped + need.loaded[0] - need.loaded[1]


def give(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    room = Room("the address-space limit", free, True, "raise it (ulimit -v)")
    monkeypatch.setattr(memory_estimate, "rooms", lambda: (room,))


def test_it_keeps_less_where_room_is_short_and_says_so(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(store)
    give(monkeypatch, 100 * GIB)
    assert memory_estimate.fitting(store, request) is None
    monkeypatch.setattr(memory_estimate, "_rows", lambda task: task.held)
    give(
        monkeypatch,
        memory_estimate.need_of(store, request, GIB // 4).of(memory_estimate.rooms()[0]),
    )
    with pytest.warns(UserWarning, match=r"more than 0\.27 GB of rows are not kept in memory"):
        assert memory_estimate.fitting(store, request) == GIB // 4


def test_too_little_is_said_in_one_line_with_what_to_change(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, 10_000_000)
    with pytest.raises(CriticalMassError) as caught:
        cm.sweep(store, out=tmp_path / "run", fractions=(0.5, 1.0), seeds=1)
    said = str(caught.value)
    assert "\n" not in said
    for part in (
        "sweeping blobs needs about",
        "the address-space limit leaves 0.01 GB; raise it (ulimit -v)",
        "GB for 'cka'",
        "leave out the measure 'cka'",
    ):
        assert part in said
    assert not (tmp_path / "run").exists()


def test_a_narrow_limit_is_met_up_front_and_a_wide_one_changes_nothing(
    store: FeatureStore, tmp_path: Path
) -> None:
    def sweep(out: Path, limit: int) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-c",
            "from criticalmass.cli.main import main; main()",
            "sweep",
            "--quiet",
        ]
        return subprocess.run(
            [*command, str(store.path), "--out", str(out), "--seeds", "1", "--fraction", "0.5"],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
            capture_output=True,
            text=True,
            check=False,
        )

    refused = sweep(tmp_path / "narrow", 1_100_000_000)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith("error: sweeping blobs needs about")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "narrow").exists()
    done = sweep(tmp_path / "wide", 3_000_000_000)
    assert done.returncode == 0, done.stderr
    free = cm.sweep(store, out=tmp_path / "free", fractions=0.5, seeds=1)
    limited = Run.open(tmp_path / "wide")
    assert (limited.frame()["status"] == "ok").all()
    same = [run.frame().drop(columns="seconds") for run in (limited, free)]
    assert same[0].equals(same[1])


# --- what there is ------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path: Path) -> Callable[..., tuple[Room, ...]]:
    def make(**files: str) -> tuple[Room, ...]:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return rooms(tmp_path / "proc", tmp_path / "groups")

    return make


def test_the_tightest_group_above_a_process_counts(system: Callable[..., Any]) -> None:
    found = system(
        proc__meminfo="MemTotal: 8000 kB\nMemAvailable:    5000 kB\n",
        proc__self__cgroup="0::/job/step\n",
        groups__job__memory_dot_max="4000000\n",
        groups__job__memory_dot_current="3000000\n",
        groups__job__memory_dot_stat="anon 5\ninactive_file 250000\n",
        groups__job__step__memory_dot_max="max\n",
        groups__job__step__memory_dot_current="2000000\n",
    )
    by_name = {room.name: room.free for room in found}
    assert by_name["the machine's memory"] == 5000 * 1024
    assert by_name["the control group's memory limit"] == 4_000_000 - 3_000_000 + 250_000


def test_a_system_that_tells_nothing_limits_nothing(system: Callable[..., Any]) -> None:
    assert system() == ()


def test_rows_are_held_in_any_order_and_streamed_where_told() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((700, 9)).astype(np.float32)
    y = rng.integers(0, 3, 700)
    scaling, kept, rank = column_scaling(x), np.array([4, 0, 7]), rng.permutation(700)
    plain = ordered_rows(x, y, scaling, kept)
    ranked = ordered_rows(x, y, scaling, kept, rank=rank)
    assert isinstance(plain, HeldRows)
    assert isinstance(ranked, HeldRows)
    np.testing.assert_array_equal(ranked.x, plain.x[rank])
    np.testing.assert_array_equal(ranked.y, y[rank])
    with holding(700 * 3 * 4 - 1):
        assert isinstance(ordered_rows(x, y, scaling, kept, rank=rank), StreamedRows)

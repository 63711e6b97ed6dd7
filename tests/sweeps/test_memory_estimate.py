"""The memory estimate of a sweep, made before it starts."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import criticalmass as cm
from criticalmass.core.memory import MemoryLimit, memory_limits
from criticalmass.errors import CriticalMassError
from criticalmass.measures.logistic import memory as logistic_memory
from criticalmass.measures.logistic.memory import logistic_bytes, row_bytes
from criticalmass.measures.logistic.training_rows import (
    HeldRows,
    StreamedRows,
    ordered_rows,
)
from criticalmass.measures.memory import LayerSizes
from criticalmass.measures.registry import MEASURES
from criticalmass.measures.scaling import column_scaling
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps import memory_estimate
from criticalmass.sweeps.layer_info import describe_layers
from criticalmass.sweeps.plan import make_request

GIB = 1 << 30
BIG = LayerSizes(200_000, 10_000, 2048, 10, 2, (205, 1024, 1843, 2048), 10, 2, GIB)


def make_sweep_request(store: FeatureStore, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "selectors": "random",
        "fractions": (0.25, 0.5, 1.0),
        "seeds": 2,
        "measures": ("logistic", "cka"),
    }
    return make_request(describe_layers(store), **{**arguments, **changes})


def test_rows_are_held_up_to_the_limit_and_else_read_in_blocks() -> None:
    """200,000 rows of 205 neurons are 164 MB, of 2,048 (and of 1,843) more than a gibibyte."""
    mib = 1 << 20
    wide = replace(BIG, sizes=(1024, 2048))
    assert row_bytes(wide) == 48 * mib + 4 * 200_000 * 1024
    assert row_bytes(BIG) <= (48 + 2.5 * 64) * mib
    assert row_bytes(replace(wide, held_bytes=0)) < row_bytes(wide)


@pytest.mark.parametrize(
    "more",
    [
        {"n_classes": 1000},
        {"n_neurons": 4096},
        {"sizes": (205, 410, 614, 819, 1024, 1843, 2048)},
        {"n_threads": 16},
        {"n_test": 100_000},
    ],
)
def test_more_of_anything_needs_more(more: dict[str, Any]) -> None:
    for name in ("logistic", "ridge", "cka", "knn", "sgd"):
        entry = MEASURES[name]
        assert entry.workspace_bytes(replace(BIG, **more)) >= entry.workspace_bytes(BIG)
    assert logistic_bytes(replace(BIG, **more)) > logistic_bytes(BIG)


def test_mapped_features_count_against_address_space_alone(store: FeatureStore) -> None:
    estimate = memory_estimate.estimate_memory(make_sweep_request(store), GIB)
    assert estimate.mapped_bytes == (90 + 45) * 12 * 4
    space, memory = MemoryLimit("a", 0, True, ""), MemoryLimit("b", 0, False, "")
    difference = estimate.counted_bytes(space) - estimate.counted_bytes(memory)
    assert difference == (estimate.mapped_bytes + estimate.library_space - estimate.library_memory)


def set_free_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    limit = MemoryLimit("the address-space limit", free, True, "raise it (ulimit -v)")
    monkeypatch.setattr(memory_estimate, "memory_limits", lambda: (limit,))


def test_fewer_rows_are_kept_if_memory_is_short(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_sweep_request(store)
    set_free_memory(monkeypatch, 100 * GIB)
    assert memory_estimate.row_memory_limit(request) == GIB
    monkeypatch.setattr(logistic_memory, "row_bytes", lambda sizes: sizes.held_bytes)
    set_free_memory(
        monkeypatch,
        memory_estimate.estimate_memory(request, GIB // 4).counted_bytes(
            memory_estimate.memory_limits()[0]
        ),
    )
    with pytest.warns(UserWarning, match=r"at most 0\.27 GB of rows are kept in memory"):
        assert memory_estimate.row_memory_limit(request) == GIB // 4


def test_too_little_memory_is_an_error_in_one_line_with_cures(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_free_memory(monkeypatch, 10_000_000)
    with pytest.raises(CriticalMassError) as caught:
        cm.sweep(store, out=tmp_path / "run", fractions=(0.5, 1.0), seeds=1)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "sweeping blobs needs about",
        "the address-space limit leaves 0.01 GB; raise it (ulimit -v)",
        "GB for 'cka'",
        "leave out the measure 'cka'",
    ):
        assert part in message
    assert not (tmp_path / "run").exists()


def test_a_low_limit_fails_at_once_and_a_high_one_changes_nothing(
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


# --- limits of the system ------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path: Path) -> Callable[..., tuple[MemoryLimit, ...]]:
    def make(**files: str) -> tuple[MemoryLimit, ...]:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return memory_limits(tmp_path / "proc", tmp_path / "groups")

    return make


def test_the_tightest_group_above_a_process_counts(system: Callable[..., Any]) -> None:
    limits = system(
        proc__self__cgroup="0::/job/step\n",
        groups__job__memory_dot_max="4000000\n",
        groups__job__memory_dot_current="3000000\n",
        groups__job__memory_dot_stat="anon 5\ninactive_file 250000\n",
        groups__job__step__memory_dot_max="max\n",
        groups__job__step__memory_dot_current="2000000\n",
    )
    by_name = {limit.name: limit.free for limit in limits}
    assert by_name["the control group's memory limit"] == 4_000_000 - 3_000_000 + 250_000


def test_without_control_groups_the_limit_is_the_memory_that_the_machine_has_free(
    system: Callable[..., Any],
) -> None:
    (limit,) = (limit for limit in system() if not limit.is_address_space)
    assert limit.name == "the machine's memory"
    assert 0 < limit.free < psutil.virtual_memory().total


def test_the_address_space_is_limited_by_what_the_process_has_reserved() -> None:
    code = (
        "import resource; from criticalmass.core.memory import memory_limits;"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30));"
        "print(*[limit.free for limit in memory_limits() if limit.is_address_space])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 << 29 < int(done.stdout) < 2 << 30


def test_rows_are_held_in_any_order_and_streamed_if_too_large() -> None:
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
    streamed = ordered_rows(x, y, scaling, kept, rank=rank, limit=700 * 3 * 4 - 1)
    assert isinstance(streamed, StreamedRows)

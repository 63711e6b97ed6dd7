"""The reliability benchmarks with few rounds; docs/reliability.md quotes their long runs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.programs import run_alone, run_program


def test_commands_killed_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    out = run_alone("benchmarks.kills", "--quick", "--dir", str(tmp_path), "--count", "5")
    survived = [int(number) for number in re.findall(r"(\d+) kills survived", out)]
    assert sum(survived) >= 5
    assert len(survived) >= 5
    assert re.findall(r"(\d+) failures", out) == ["0"] * len(survived)


def test_damage_is_detected_and_repaired(tmp_path: Path) -> None:
    out = run_program("benchmarks.damage", "--dir", str(tmp_path), "--count", "45")
    assert sum(int(number) for number in re.findall(r"(\d+) found", out)) > 34
    assert len(re.findall(r"(\d+) healed", out)) == 2


def test_everything_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Every public function, in two processes with different hash seeds and two threads of BLAS."""
    threads = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    # Threads of BLAS without work do not spin, which takes the cores from the other tests.
    threads |= {"OPENBLAS_THREAD_TIMEOUT": "4", "OMP_WAIT_POLICY": "passive"}
    out = run_alone("benchmarks.twice", "--quick", "--dir", str(tmp_path), env=threads)
    assert int(re.findall(r"(\d+) results compared", out)[0]) > 35
    assert re.findall(r"(\d+) differ", out) == ["0"]

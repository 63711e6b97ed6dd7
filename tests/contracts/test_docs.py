"""What the documents show can be run, and what they point at is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"<!-- runnable -->\n```(python|bash)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")


def run_block(language: str, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one block as a reader would, in a folder of its document."""
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join([scripts, str(Path(sys.executable).parent), os.environ["PATH"]])
    starter = [sys.executable, "-c"] if language == "python" else ["bash", "-euc"]
    return subprocess.run(
        [*starter, code],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_runnable_blocks_run(document: Path, tmp_path: Path) -> None:
    for language, code in BLOCK.findall(document.read_text(encoding="utf-8")):
        done = run_block(language, code, tmp_path)
        assert done.returncode == 0, f"{code}\n{done.stderr}"


def test_the_readme_has_blocks_to_run() -> None:
    found = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {language for language, _ in found} == {"python", "bash"}


def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    assert run_block("bash", "criticalmass exract\ntrue", tmp_path).returncode == 2
    assert run_block("python", "import criticalmass as cm; cm.nothing", tmp_path).returncode == 1


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        if not target.endswith(".png"):
            assert (document.parent / target).exists(), target

"""The public names, their signatures and their types are those that are written down."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.contracts import public_surface

import criticalmass as cm

ROOT = Path(__file__).parents[2]
TYPED = Path(__file__).with_name("typed_use.py")


@pytest.mark.parametrize("kind", ["signatures", "stub"])
def test_the_surface_is_the_one_written_down(kind: str) -> None:
    path = public_surface.SIGNATURES if kind == "signatures" else public_surface.STUB
    text = getattr(public_surface, f"{kind}_text")()
    assert path.read_text(encoding="utf-8") == text, "run: make signatures, and review the change"


def test_a_change_of_a_signature_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    before = public_surface.signatures_text()
    monkeypatch.setattr(cm, "gini", lambda x, *, other=1: 0.0)
    after = public_surface.signatures_text()
    added = set(after.splitlines()) - set(before.splitlines())
    assert "    other = 1" in added


def test_every_public_name_is_there() -> None:
    for name, module in cm._PUBLIC.items():
        assert hasattr(importlib.import_module(f"criticalmass.{module}"), name)
        assert name in cm.__all__
    assert (ROOT / "src" / "criticalmass" / "py.typed").is_file()


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == cm.__version__
    assert f"version: {cm.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {cm.__version__} " in changes


def test_a_wrong_type_is_found(tmp_path: Path) -> None:
    """Mypy sees the types through the names that are loaded on first use."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import criticalmass as cm\nreveal_type(cm.sweep)\ncm.linear_cka('a')\ncm.no_such_name\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, str(wrong)], cwd=ROOT, capture_output=True, text=True)
    assert "-> criticalmass.storage.run.Run" in done.stdout, done.stdout
    assert "wrong.py:3: error" in done.stdout
    assert 'no attribute "no_such_name"' in done.stdout

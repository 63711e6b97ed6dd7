"""The error for a missing optional package names a command that works wherever this one is from."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from criticalmass.errors import missing_extra

EXTRAS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


def as_metadata() -> list[str]:
    """Write the extras of pyproject.toml as a wheel's metadata does."""
    return [f"{one}; extra == '{name}'" for name, ones in EXTRAS.items() for one in ones]


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_the_command_names_the_packages_of_the_extra(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy", *as_metadata()])
    command = str(missing_extra("some", extra)).split("install it with: ")[1]
    named = re.findall(r"'([^']+)'", command)
    assert set(named) >= {one for one in EXTRAS[extra] if not one.startswith("criticalmass[")}
    assert "criticalmass" not in command
    assert command.startswith("pip install '")
    assert command.endswith(f"(the extra [{extra}])")
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("package", "extra", "named"),
    [
        ("skops.io", "export", ["skops"]),
        ("onnx", "export", ["onnx", "onnxruntime"]),
        ("onnxruntime", "export", ["onnxruntime"]),
        ("faiss", "export", ["faiss-cpu"]),
        ("torch_pruning", "export", ["torch-pruning"]),
        ("datasets", "data", ["datasets"]),
        ("h5py", "data", ["h5py"]),
    ],
)
def test_a_collection_of_packages_names_what_is_needed(
    package: str, extra: str, named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: as_metadata())
    message = str(missing_extra(package, extra))
    assert [re.split("[>=]", one)[0] for one in re.findall(r"'([^']+)'", message)[1:]] == named
    assert message.endswith(f"(of the extra [{extra}])")


def test_every_package_that_is_imported_from_a_collection_is_found_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An import name that no requirement begins like would ask for the whole extra again."""
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: as_metadata())
    calls = [
        call
        for path in (Path(__file__).parents[2] / "src").rglob("*.py")
        for call in re.findall(
            r'import_package\("([\w.]+)", "(data|export)"\)', path.read_text(encoding="utf-8")
        )
    ]
    assert len(calls) > 8
    for package, extra in calls:
        assert "(of the extra" in str(missing_extra(package, extra)), package


def test_an_extra_of_extras_names_what_these_require(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: as_metadata())
    message = str(missing_extra("torch", "demo"))
    assert all(one in message for one in (*EXTRAS["torch"], *EXTRAS["text"], *EXTRAS["openvino"]))


def test_without_metadata_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert "install the extra [torch] of criticalmass" in str(missing_extra("torch", "torch"))


def test_no_hint_installs_this_package_by_name() -> None:
    """The package may come from a file; a hint names what is missing instead."""
    found = [
        str(path)
        for path in (Path(__file__).parents[2] / "src").rglob("*.py")
        if re.search(r"pip install ['\"]?criticalmass", path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_every_help_is_shown_without_optional_packages() -> None:
    """A choice in a help text may not need what only the command itself needs."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in 'torch torchvision timm transformers datasets faiss'.split():\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import click\n"
        "from criticalmass.cli.main import cli\n"
        "for name, command in cli.commands.items():\n"
        "    assert command.get_help(click.Context(command, info_name=name))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

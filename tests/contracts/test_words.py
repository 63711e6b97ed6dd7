"""Words that once stood for terms of the field, and that a reader could not look up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Private metaphors, and turns of phrase that say nothing: none is a term of the field.
RIDDLES = (
    "crew|ledger|staircase|knots?|quest|hunt(?:ed)?|whoever|nobody|as ever|that is none|who pays"
    "|the house|this room|rooms|lends?|lent|anew|so-manieth|the door|told|speaks? of|heeds?"
    "|hangs? on|stands? beside"
)
#: Participles and props as names of variables.
NAMES = {"crew", "told", "mine", "there", "knot", "quest", "room", "rooms", "aside", "wanted"}
TEXT = re.compile(rf"\b(?:{RIDDLES})\b", re.IGNORECASE)
SOURCES = ("src/**/*.py", "src/**/*.j2", "src/**/*.js", "src/**/*.yaml")
DOCUMENTS = ("docs/**/*.md", "docs/**/*.ipynb", "*.md", "benchmarks/**/*.j2")


def files(*patterns: str) -> list[Path]:
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def riddles(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        for match in TEXT.finditer(line):
            yield number, match.group(0)


@pytest.mark.parametrize("patterns", [SOURCES, DOCUMENTS], ids=["sources", "documents"])
def test_no_riddles(patterns: tuple[str, ...]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in files(*patterns)
        for number, word in riddles(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_no_participles_as_names() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.id}"
        for path in files("src/**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in NAMES
    ]
    assert found == []


def test_help_texts_have_no_riddles() -> None:
    from criticalmass.cli.main import cli

    found = []
    for name, command in cli.commands.items():
        texts = [command.help or "", *(getattr(p, "help", "") or "" for p in command.params)]
        found += [f"{name}: {word}" for text in texts for _, word in riddles(text)]
    assert found == []


def test_the_list_finds_what_it_should() -> None:
    assert [word for _, word in riddles("The crew is told.\nA ledger that is none.")] == [
        "crew",
        "told",
        "ledger",
        "that is none",
    ]
    assert not list(riddles("A household, untold numbers, rooming, the doorway, a questionnaire."))


def test_class_names_have_one_meaning() -> None:
    """A public class name is defined once in the package."""
    places: dict[str, list[str]] = {}
    for path in files("src/**/*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}

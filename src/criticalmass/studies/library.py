"""The studies that come with the package, and files like them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.studies.reading import read_study
from criticalmass.studies.schema import Study

_SUFFIXES = (".yaml", ".yml")
_PAPER, _LOCAL = "-paper", "-local"


def names() -> tuple[str, ...]:
    """Name the studies that come with the package."""
    found = (entry.name for entry in files("criticalmass.studies").joinpath("library").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml")))


def load(name_or_file: str | os.PathLike[str]) -> Study:
    """Read a study by its name, or from a file.

    Parameters
    ----------
    name_or_file: one of `names`, or a path that ends in .yaml or .yml.

    Raises
    ------
    CriticalMassError: no such study, one that cannot run here yet, or a file that is no study.
    """
    text = os.fspath(name_or_file)
    if text.endswith(_SUFFIXES):
        return read_study(Path(text))
    if text in names():
        with as_file(files("criticalmass.studies").joinpath(f"library/{text}.yaml")) as path:
            return read_study(path, text)
    if text.endswith(_LOCAL) and text.replace(_LOCAL, _PAPER) in names():
        paper = load(text.replace(_LOCAL, _PAPER))
        raise CriticalMassError(f"no study {text!r}: {paper.not_here}; its question: {paper.name}")
    raise unknown_name("study", text, names())


def gathered(study: Study, above: tuple[str, ...] = ()) -> Iterator[Study]:
    """Yield a study and all that it includes, the included ones first, each once.

    Raises
    ------
    CriticalMassError: an unknown study, or one that includes itself.
    """
    if study.name in above:
        raise CriticalMassError(f"study {study.name!r} includes itself ({' > '.join(above)})")
    seen: set[str] = set()
    for name in study.include:
        for one in gathered(load(name), (*above, study.name)):
            if one.name not in seen:
                seen.add(one.name)
                yield one
    yield study


def listed() -> list[tuple[str, str]]:
    """Describe each study in a line; those whose local variant is to come have their place."""
    rows = []
    for name in names():
        study = load(name)
        source = f" ({study.source})" if study.source else ""
        rows.append((name, f"{study.question}{source}"))
        if study.not_here:
            rows.append((name.replace(_PAPER, _LOCAL), study.not_here))
    return sorted(rows)

"""The studies of the package, and study files of the user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from criticalmass.core.yaml_files import library_names, library_texts
from criticalmass.errors import CriticalMassError, unknown_name

if TYPE_CHECKING:
    from criticalmass.studies.schema import Study

_PACKAGE = "criticalmass.studies"
_SUFFIXES = (".yaml", ".yml")
_PAPER, _LOCAL, _TRAINED = "-paper", "-local", "-trained"


def study_names() -> tuple[str, ...]:
    """Return the names of the studies of the package."""
    return library_names(_PACKAGE)


def load_study(name_or_file: str | os.PathLike[str]) -> Study:
    """Read a study of the package by its name, or a study file.

    Parameters
    ----------
    name_or_file: one of `study_names`, or a path that ends in .yaml or .yml. A local variant that
        does not exist stands for the one that trains its networks.

    Raises
    ------
    CriticalMassError: the name is unknown, the study has no local variant, or the file is not a
        study.
    """
    # A list of the studies needs none of what checks them.
    from criticalmass.studies.reading import read_study

    text = os.fspath(name_or_file)
    if text.endswith(_SUFFIXES):
        return read_study(Path(text))
    names = study_names()
    if text in names:
        with as_file(files(_PACKAGE).joinpath(f"library/{text}.yaml")) as path:
            return read_study(path, text)
    trained, paper = (text.replace(_LOCAL, other) for other in (_TRAINED, _PAPER))
    if text.endswith(_LOCAL) and trained in names:
        return load_study(trained)
    if text.endswith(_LOCAL) and paper in names:
        raise CriticalMassError(
            f"no study {text!r}: {load_study(paper).not_here}; {paper!r} asks the same question"
        )
    raise unknown_name("study", text, names)


def with_includes(study: Study, included_by: tuple[str, ...] = ()) -> Iterator[Study]:
    """Yield the studies that a study includes, each once, then the study itself.

    Parameters
    ----------
    study: the study.
    included_by: names of the studies through which it was included.

    Raises
    ------
    CriticalMassError: an included study is unknown, or a study includes itself.
    """
    if study.name in included_by:
        chain = " > ".join(included_by)
        raise CriticalMassError(f"study {study.name!r} includes itself ({chain})")
    yielded: set[str] = set()
    for name in study.include:
        for included in with_includes(load_study(name), (*included_by, study.name)):
            if included.name not in yielded:
                yielded.add(included.name)
                yield included
    yield study


def describe_studies() -> list[tuple[str, str]]:
    """Return (name, description) of each study, and why a local variant does not exist."""
    rows = []
    for name, texts in library_texts(_PACKAGE).items():
        source = f" ({texts['source']})" if "source" in texts else ""
        rows.append((name, f"{texts['question']}{source}"))
        if "not_here" in texts:
            rows.append((name.replace(_PAPER, _LOCAL), texts["not_here"]))
    return sorted(rows)

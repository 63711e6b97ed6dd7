"""Fortune cookies: short texts in files by subject, which are their noisy labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from criticalmass.datasets.archives import find_or_fetch
from criticalmass.datasets.dataset import Dataset, Split
from criticalmass.datasets.splits import SPLIT_SEED, TEST_SHARE, split_in_two
from criticalmass.errors import CriticalMassError, DataUnavailableError

FEWEST = 50
_FOLDER = "usr/share/games/fortunes"


def load_fortunes(spec: str) -> Dataset:
    """Load the texts of the Debian package ``fortunes``; the file is the class.

    Files of fewer than 50 texts are left out. A quarter is for the test, stratified, seed 0;
    identical texts stay in one split.

    Raises
    ------
    DataUnavailableError: the texts are neither on this system nor can they be fetched.
    """
    try:
        folder = find_or_fetch("fortunes", _FOLDER, ("computers",))
    except DataUnavailableError as error:
        raise DataUnavailableError(f"fortunes cannot be had here ({error})") from error
    whole, names = read_fortunes(folder)
    groups = np.unique(np.asarray(whole.items), return_inverse=True)[1]
    return Dataset(
        spec=spec,
        name="fortunes",
        modality="text",
        splits=split_in_two(whole, TEST_SHARE, SPLIT_SEED, groups),
        class_names=names,
        notes={
            "fewest_texts_of_a_class": FEWEST,
            "split": {
                "test_share": TEST_SHARE,
                "seed": SPLIT_SEED,
                "stratified": True,
                "grouped_by": "identical text",
            },
        },
    )


def read_fortunes(folder: Path) -> tuple[Split, tuple[str, ...]]:
    """Read fortune files (strfile(1)): texts that a line of a single % separates.

    Returns
    -------
    The texts of all files with enough of them, and the names of these files.

    Raises
    ------
    CriticalMassError: fewer than two such files.
    """
    found = {
        path.name: texts
        for path in sorted(folder.iterdir())
        if path.is_file() and "." not in path.name and len(texts := _texts(path)) >= FEWEST
    }
    if len(found) < 2:
        raise CriticalMassError(
            f"{str(folder)!r} has {len(found)} files of {FEWEST} texts or more; delete it"
        )
    texts = [text for some in found.values() for text in some]
    labels = [label for label, some in enumerate(found.values()) for _ in some]
    ids = [f"{name}-{number}" for name, some in found.items() for number in range(len(some))]
    return Split(texts, np.array(labels, dtype=np.int64), ids), tuple(found)


def _texts(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    texts: list[list[str]] = [[]]
    for line in lines:
        if line.rstrip("\r") == "%":
            texts.append([])
        else:
            texts[-1].append(line)
    joined = (" ".join(" ".join(text).split()) for text in texts)
    return [text for text in joined if text]

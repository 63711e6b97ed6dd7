"""WordNet 3.0 noun glosses, labelled with their lexicographer class."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.debian_packages import find_or_fetch
from criticalmass.extraction.datasets.splits import SPLIT_SEED, TEST_SHARE, split_in_two

NOUNS_SPLIT_SEED = 0
NOUNS_TEST_SHARE = 0.2
# The lexicographer files of nouns by number (lexnames(5WN)). noun.Tops (03) holds the unique
# beginners of the other classes, not a class of meaning of its own, and is left out.
CLASSES = {
    "04": "act",
    "05": "animal",
    "06": "artifact",
    "07": "attribute",
    "08": "body",
    "09": "cognition",
    "10": "communication",
    "11": "event",
    "12": "feeling",
    "13": "food",
    "14": "group",
    "15": "location",
    "16": "motive",
    "17": "object",
    "18": "person",
    "19": "phenomenon",
    "20": "plant",
    "21": "possession",
    "22": "process",
    "23": "quantity",
    "24": "relation",
    "25": "shape",
    "26": "state",
    "27": "substance",
    "28": "time",
}
_TOPS = "03"


def load_wordnet_nouns(spec: str) -> Dataset:
    """Load the noun glosses, about 82,000 in 25 classes.

    The whole gloss is kept: the definition and the example sentences that may follow it. One
    fifth is for the test, stratified, seed 0; identical glosses stay in one split.

    Raises
    ------
    DataUnavailableError: WordNet is neither on this system nor can it be fetched.
    """
    try:
        folder = find_or_fetch("wordnet-base", "usr/share/wordnet", ("data.noun",))
    except DataUnavailableError as error:
        raise DataUnavailableError(f"WordNet cannot be had here ({error})") from error
    whole = read_nouns(folder / "data.noun")
    groups = np.unique(np.asarray(whole.items), return_inverse=True)[1]
    return Dataset(
        spec=spec,
        name="wordnet-nouns",
        modality="text",
        splits=split_in_two(whole, NOUNS_TEST_SHARE, NOUNS_SPLIT_SEED, groups),
        class_names=tuple(CLASSES.values()),
        notes={
            "text": "whole gloss, examples included",
            "split": {
                "test_share": NOUNS_TEST_SHARE,
                "seed": NOUNS_SPLIT_SEED,
                "stratified": True,
                "grouped_by": "identical gloss",
            },
        },
    )


def read_nouns(path: Path) -> Split:
    """Read a ``data.noun`` file (wndb(5WN)): glosses, class numbers and synset offsets.

    Raises
    ------
    CriticalMassError: a line that is no noun synset with a gloss.
    """
    with path.open(encoding="utf-8") as file:
        texts, numbers, ids = _parse(file, path)
    code = {number: index for index, number in enumerate(CLASSES)}
    labels = np.array([code[number] for number in numbers], dtype=np.int64)
    return Split(texts, labels, ids)


def _parse(lines: Iterable[str], path: Path) -> tuple[list[str], list[str], list[str]]:
    texts, numbers, ids = [], [], []
    for count, line in enumerate(lines, start=1):
        if line.startswith("  "):  # the licence at the head of the file
            continue
        synset, bar, gloss = line.partition(" | ")
        fields = synset.split(" ", 2)
        if not bar or len(fields) < 3 or (fields[1] not in CLASSES and fields[1] != _TOPS):
            raise CriticalMassError(f"line {count} of {str(path)!r} is no noun synset; delete it")
        if fields[1] != _TOPS:
            texts.append(gloss.strip())
            numbers.append(fields[1])
            ids.append(f"n{fields[0]}")
    return texts, numbers, ids


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

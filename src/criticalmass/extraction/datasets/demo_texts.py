"""Demo texts: WordNet 3.0 noun glosses and fortunes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.debian_packages import find_or_fetch
from criticalmass.extraction.datasets.splits import split_dataset

NOUNS_TEST_SHARE = 0.2
# The lexicographer files of nouns by number (lexnames(5WN)), without noun.Tops (03), which holds
# the top nouns of the other classes.
NOUN_CLASSES = {
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

MIN_TEXTS = 50
_FORTUNES_FOLDER = "usr/share/games/fortunes"


def load_wordnet_nouns(spec: str) -> Dataset:
    """Load the noun glosses, about 82,000 in 25 classes (lexicographer files).

    The text is the whole gloss: the definition, and example sentences if it has any. The split is
    stratified: a fifth for the test, seed 0; identical glosses stay in one split.

    Raises
    ------
    DataUnavailableError: WordNet is not on this system and cannot be downloaded.
    """
    try:
        folder = find_or_fetch("wordnet-base", "usr/share/wordnet", ("data.noun",))
    except DataUnavailableError as error:
        raise DataUnavailableError(f"WordNet is not available here ({error})") from error
    notes = {"text": "whole gloss, examples included"}
    classes = tuple(NOUN_CLASSES.values())
    dataset = Dataset(spec, "wordnet-nouns", "text", {}, classes, notes=notes)
    samples = read_nouns(folder / "data.noun")
    return split_dataset(dataset, samples, share=NOUNS_TEST_SHARE, grouped_by="gloss")


def read_nouns(path: Path) -> Split:
    """Read a ``data.noun`` file (wndb(5WN)): glosses, class numbers and synset offsets.

    Raises
    ------
    CriticalMassError: a line that does not hold a noun synset with a gloss.
    """
    with path.open(encoding="utf-8") as file:
        texts, numbers, ids = _parse(file, path)
    code = {number: index for index, number in enumerate(NOUN_CLASSES)}
    labels = np.array([code[number] for number in numbers], dtype=np.int64)
    return Split(texts, labels, ids)


def _parse(lines: Iterable[str], path: Path) -> tuple[list[str], list[str], list[str]]:
    texts, numbers, ids = [], [], []
    for count, line in enumerate(lines, start=1):
        if line.startswith("  "):  # the licence at the start of the file
            continue
        synset, bar, gloss = line.partition(" | ")
        fields = synset.split(" ", 2)
        if not bar or len(fields) < 3 or (fields[1] not in NOUN_CLASSES and fields[1] != _TOPS):
            raise CriticalMassError(f"line {count} of {str(path)!r} is no noun synset; delete it")
        if fields[1] != _TOPS:
            texts.append(gloss.strip())
            numbers.append(fields[1])
            ids.append(f"n{fields[0]}")
    return texts, numbers, ids


def load_fortunes(spec: str) -> Dataset:
    """Load the texts of the Debian package ``fortunes``; the file is the class.

    Files with fewer than 50 texts are left out. The split is stratified: a quarter for the test,
    seed 0; identical texts stay in one split.

    Raises
    ------
    DataUnavailableError: the texts are not on this system and cannot be downloaded.
    """
    try:
        folder = find_or_fetch("fortunes", _FORTUNES_FOLDER, ("computers",))
    except DataUnavailableError as error:
        raise DataUnavailableError(f"fortunes is not available here ({error})") from error
    samples, names = read_fortunes(folder)
    notes = {"fewest_texts_of_a_class": MIN_TEXTS}
    dataset = Dataset(spec, "fortunes", "text", {}, names, notes=notes)
    return split_dataset(dataset, samples, grouped_by="text")


def read_fortunes(folder: Path) -> tuple[Split, tuple[str, ...]]:
    """Read fortune files (strfile(1)): texts separated by lines of a single %.

    Returns
    -------
    The texts of all files with at least ``MIN_TEXTS`` texts, and the names of these files.

    Raises
    ------
    CriticalMassError: fewer than two such files.
    """
    texts_of_file = {
        path.name: texts
        for path in sorted(folder.iterdir())
        if path.is_file()
        and "." not in path.name
        and len(texts := _read_fortune_file(path)) >= MIN_TEXTS
    }
    if len(texts_of_file) < 2:
        raise CriticalMassError(
            f"{str(folder)!r} has {len(texts_of_file)} files of {MIN_TEXTS} texts or more; "
            "delete it"
        )
    texts = [text for group in texts_of_file.values() for text in group]
    labels = [label for label, group in enumerate(texts_of_file.values()) for _ in group]
    ids = [
        f"{name}-{number}" for name, group in texts_of_file.items() for number in range(len(group))
    ]
    return Split(texts, np.array(labels, dtype=np.int64), ids), tuple(texts_of_file)


def _read_fortune_file(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines_of_text: list[list[str]] = [[]]
    for line in lines:
        if line.rstrip("\r") == "%":
            lines_of_text.append([])
        else:
            lines_of_text[-1].append(line)
    texts = (" ".join(" ".join(text).split()) for text in lines_of_text)
    return [text for text in texts if text]

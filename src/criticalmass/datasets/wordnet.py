"""WordNet 3.0 noun glosses, labelled with their lexicographer class."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from criticalmass.datasets.archives import find_or_fetch
from criticalmass.datasets.dataset import Dataset, Split
from criticalmass.datasets.splits import split_in_two
from criticalmass.errors import CriticalMassError, DataUnavailableError

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

"""Demo sounds: spoken syllables with three labels each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.audio import EncodedSounds
from criticalmass.extraction.datasets.columns import label_names
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.debian_packages import find_or_fetch
from criticalmass.extraction.datasets.several_labels import add_tasks, without_labels_option
from criticalmass.extraction.datasets.splits import SPLIT_SEED, TEST_SHARE, train_test_split
from criticalmass.extraction.labels import LabelColumn, encode_labels
from criticalmass.extraction.specs import Spec
from criticalmass.storage.features import UNLABELLED

SYLLABLE_LABELS = ("tone", "initial", "speaker")
_FOLDER = "usr/share/gcin-voice/ogg"
_REQUIRED = ("\u310a\u3122" + "3/3.ogg", "\u310a\u3122" + "3/5.ogg")
# Initials of Zhuyin in Pinyin; a syllable that starts otherwise has none.
_PINYIN = "b p m f d t n l g k h j q x zh ch sh r z c s"
_INITIALS = {chr(0x3105 + place): name for place, name in enumerate(_PINYIN.split())}
# The files are named by the speaker; a folder ends in its tone, the first one without a mark.
_SPEAKERS = {"3": "Der-Hua Liu", "5": "Chu Lo"}
_TONES = {"1": "neutral", "2": "2", "3": "3", "4": "4"}


def load_syllables(spec: Spec) -> Dataset:
    """Load 2,358 spoken Mandarin syllables of two speakers, from Debian's gcin-voice.

    Both clips of a syllable are in the same split, a quarter of the syllables for the test,
    stratified by the first label, seed 0.

    Parameters
    ----------
    spec: ``demo:syllables``, with ``labels=tone,initial,speaker`` or some of these for several
        labels, or ``label=tone`` (the default) for one.

    Raises
    ------
    CriticalMassError: an unknown label.
    DataUnavailableError: the package cannot be fetched.
    MissingExtraError: soundfile is not installed.
    """
    names = label_names(spec)
    single = spec.options.get("label", SYLLABLE_LABELS[0])
    for name in names or (single,):
        if name not in SYLLABLE_LABELS:
            raise unknown_name(f"label of {spec.text!r}:", name, SYLLABLE_LABELS)
    folder = find_or_fetch("gcin-voice", _FOLDER, _REQUIRED)
    paths, labels = read_syllables(folder)
    ids = [path.relative_to(folder).as_posix() for path in paths]
    class_names: tuple[str, ...] = UNLABELLED
    numbers = np.zeros(len(paths), dtype=np.int64)
    if not names:
        class_names, (numbers,) = encode_labels([labels[single]])
    samples = Split(EncodedSounds.of_files(paths), numbers, ids)
    tasks = {name: {"all": labels[name]} for name in names}
    parts, task_classes = add_tasks({"all": samples}, tasks)
    syllables = np.unique([path.parent.name for path in paths], return_inverse=True)[1]
    splits = train_test_split(parts["all"], TEST_SHARE, SPLIT_SEED, syllables.astype(np.intp))
    split = {
        "test_share": TEST_SHARE,
        "seed": SPLIT_SEED,
        "stratified": f"by {(*names, single)[0]}",
        "grouped_by": "syllable",
    }
    return Dataset(
        without_labels_option(spec),
        "syllables",
        "audio",
        splits,
        class_names,
        notes={"split": split},
        task_classes=task_classes,
    )


def read_syllables(folder: Path) -> tuple[list[Path], dict[str, LabelColumn]]:
    """List the clips in a folder of syllables, and read their labels from the names.

    Raises
    ------
    CriticalMassError: the folder holds no clips.
    """
    paths = sorted(path for path in folder.glob("*/*.ogg") if path.stem in _SPEAKERS)
    if not paths:
        raise CriticalMassError(f"{str(folder)!r} holds no clips SYLLABLE/SPEAKER.ogg; delete it")
    syllables = [path.parent.name for path in paths]
    values = {
        "tone": [_TONES.get(name[-1], "1") for name in syllables],
        "initial": [_INITIALS.get(name[0], "none") for name in syllables],
        "speaker": [_SPEAKERS[path.stem] for path in paths],
    }
    return paths, {name: LabelColumn(column, name) for name, column in values.items()}

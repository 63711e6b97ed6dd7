"""openclipart: colour drawings in the public domain, in folders by subject."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from criticalmass.datasets.archives import find_or_fetch
from criticalmass.datasets.dataset import Dataset, Split
from criticalmass.datasets.images import EncodedImages
from criticalmass.datasets.splits import SPLIT_SEED, TEST_SHARE, split_in_two
from criticalmass.errors import CriticalMassError, DataUnavailableError

_FOLDER = "usr/share/openclipart/png"
MOST_PIXELS = 4_000_000
_DRAWING = "animals/architetto_francesco_ro_01.png"


def load_openclipart(spec: str) -> Dataset:
    """Load the drawings of the Debian package ``openclipart-png``; the subject is the class.

    A quarter is for the test, stratified, seed 0; files that are the same byte for byte stay in
    one split. Drawings that are only nearly the same are not looked for. Those of more than 4
    million pixels, most of it empty, are left out: decoding them costs more than all others.

    Raises
    ------
    DataUnavailableError: the drawings are neither on this system nor can they be fetched.
    """
    try:
        folder = find_or_fetch("openclipart-png", _FOLDER, (_DRAWING,))
    except DataUnavailableError as error:
        raise DataUnavailableError(f"openclipart cannot be had here ({error})") from error
    whole, names = read_drawings(folder)
    return Dataset(
        spec=spec,
        name="openclipart",
        modality="image",
        splits=split_in_two(whole, TEST_SHARE, SPLIT_SEED, _same_bytes(whole)),
        class_names=names,
        notes={
            "most_pixels": MOST_PIXELS,
            "split": {
                "test_share": TEST_SHARE,
                "seed": SPLIT_SEED,
                "stratified": True,
                "grouped_by": "identical file",
            },
        },
    )


def read_drawings(folder: Path) -> tuple[Split, tuple[str, ...]]:
    """Read the drawings of a folder of subjects; -> all of them, and the subjects.

    Raises
    ------
    CriticalMassError: fewer than two subjects with drawings.
    """
    found = {
        # The package links drawings into further folders of their subject.
        subject.name: sorted(
            path for path in subject.rglob("*.png") if not path.is_symlink() and _is_small(path)
        )
        for subject in sorted(folder.iterdir())
        if subject.is_dir()
    }
    names = tuple(name for name, paths in found.items() if paths)
    if len(names) < 2:
        raise CriticalMassError(f"{str(folder)!r} has {len(names)} folders of drawings; delete it")
    paths = [path for name in names for path in found[name]]
    labels = [label for label, name in enumerate(names) for _ in found[name]]
    ids = [path.relative_to(folder).as_posix() for path in paths]
    return Split(EncodedImages.of_files(paths), np.array(labels, dtype=np.int64), ids), names


def _is_small(path: Path) -> bool:
    """Tell from the file's head whether a drawing is small enough; no PNG at all passes here.

    Width and height are bytes 16 to 24 of a PNG file. What is broken is told when it is read.
    """
    with path.open("rb") as file:
        head = file.read(24)
    width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
    return width * height <= MOST_PIXELS


def _same_bytes(whole: Split) -> NDArray[np.intp]:
    """Give each sample the number of its distinct file: (n_samples,)."""
    assert isinstance(whole.items, EncodedImages)
    digests = [hashlib.sha256(content).hexdigest() for content in whole.items.content()]
    return np.asarray(np.unique(digests, return_inverse=True)[1], dtype=np.intp)

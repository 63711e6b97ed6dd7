"""Images in class folders."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from criticalmass.datasets.dataset import Dataset, Split
from criticalmass.datasets.splits import split_in_two
from criticalmass.errors import CriticalMassError

if TYPE_CHECKING:
    from PIL.Image import Image

SPLIT_SEED = 0
TEST_SHARE = 0.25
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_TEST_NAMES = ("test", "val", "validation")


def open_image(path: Path) -> Image:
    """Decode an image file into RGB.

    Raises
    ------
    CriticalMassError: the file is broken; it is named.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of huge images and of odd palettes; the first is the user's own file,
            # the second is what the conversion below is for.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", message="Palette images with Transparency")
            with Image.open(path) as image:
                return image.convert("RGB")
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise CriticalMassError(f"{str(path)!r} is not a readable image: {error}") from error


@dataclass(frozen=True)
class ImageFiles(Sequence["Image"]):
    """Images that are decoded when they are asked for."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, key: int) -> Image: ...
    @overload
    def __getitem__(self, key: slice) -> ImageFiles: ...
    def __getitem__(self, key: int | slice) -> Image | ImageFiles:
        """Decode one image, or narrow the sequence."""
        if isinstance(key, slice):
            return ImageFiles(self.paths[key])
        return open_image(self.paths[key])

    def subset(self, rows: NDArray[np.intp]) -> ImageFiles:
        """Keep some of the files, in the order given."""
        return ImageFiles(tuple(self.paths[int(row)] for row in rows))

    def content(self) -> Iterable[bytes]:
        """Yield each file's bytes, for the dataset's digest; broken headers are found here."""
        for path in self.paths:
            content = path.read_bytes()
            _check_header(path, content)
            yield content


def _check_header(path: Path, content: bytes) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                image.verify()
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise CriticalMassError(
            f"{str(path)!r} is not a readable image ({error}); remove or repair it"
        ) from error


def load_image_folder(spec: str, folder: str) -> Dataset:
    """Load images whose folder is their class.

    Parameters
    ----------
    spec: what the dataset was asked for with.
    folder: holds ``train/CLASS/*`` and ``test/CLASS/*`` (or ``val``), or ``CLASS/*``, which is
        split (stratified, a quarter for the test, seed 0).

    Raises
    ------
    CriticalMassError: no such folder, no classes, no images, a broken image (named), or classes
        in the test folder that the train folder does not have.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CriticalMassError(f"no folder {folder!r}")
    tests = [name for name in _TEST_NAMES if (root / name).is_dir()]
    if (root / "train").is_dir() and tests:
        names = _class_names(root / "train")
        splits = {
            "train": _read(root, root / "train", names),
            "test": _read(root, root / tests[0], names),
        }
        notes = {"split": f"folders train and {tests[0]}"}
    else:
        names = _class_names(root)
        splits = split_in_two(_read(root, root, names), TEST_SHARE, SPLIT_SEED)
        notes = {"split": f"stratified, test share {TEST_SHARE}, seed {SPLIT_SEED}"}
    return Dataset(spec, root.resolve().name, "image", splits, names, notes=notes)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(
        sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    )
    if len(names) < 2:
        raise CriticalMassError(
            f"{str(folder)!r} has {len(names)} class folders; it needs one folder per class, "
            "at least two"
        )
    return names


def _read(root: Path, folder: Path, names: tuple[str, ...]) -> Split:
    extra = sorted({p.name for p in folder.iterdir() if p.is_dir()} - set(names))
    extra = [name for name in extra if not name.startswith(".")]
    if extra:
        raise CriticalMassError(f"{str(folder)!r} has the class {extra[0]!r}, train has not")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise CriticalMassError(f"{str(folder)!r} holds no images ({', '.join(SUFFIXES)})")
    ids = [path.relative_to(root).as_posix() for path in paths]
    return Split(ImageFiles(tuple(paths)), np.array(labels, dtype=np.int64), ids)

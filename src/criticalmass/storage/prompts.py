"""Class prompts beside features of the same space: the second tower of a zero-shot classifier."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.storage.files import read_part, write_bytes

#: How the names of files of prompts in a feature store begin.
PREFIX = "prompts-"


@dataclass(frozen=True, eq=False)
class ClassPrompts:
    """The prompts of the classes of a dataset.

    Attributes
    ----------
    vectors: (n_prompts, n_neurons) float32.
    classes: (n_prompts,) int64, class id of each prompt; every class has one or more.
    """

    vectors: NDArray[np.float32]
    classes: NDArray[np.int64]

    def projected(self, projection: NDArray[np.float32]) -> ClassPrompts:
        """Return the prompts after a projection (n_neurons, n_kept), as that of the samples."""
        return ClassPrompts(self.vectors @ projection, self.classes)


@dataclass(frozen=True, eq=False)
class Prompts:
    """Vectors of prompts that describe classes, in the space of a stored layer.

    Attributes
    ----------
    layer: the stored layer whose space they share.
    vectors: (n_prompts, n_neurons) float32.
    class_names: (n_prompts,) name of the class that each prompt describes.
    source: how they were made, JSON-able: text model, templates, or the file.
    """

    layer: str
    vectors: NDArray[np.float32]
    class_names: tuple[str, ...]
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of vectors, class names and layer, in hex."""
        digest = hashlib.sha256(repr((self.layer, self.vectors.shape, self.class_names)).encode())
        digest.update(np.ascontiguousarray(self.vectors, dtype="<f4").tobytes())
        return digest.hexdigest()

    def for_classes(self, class_names: Sequence[str]) -> ClassPrompts:
        """Return the prompts of the classes of a dataset; those of other classes are left out.

        Raises
        ------
        CriticalMassError: a class has no prompt.
        """
        missing = [name for name in class_names if name not in self.class_names]
        if missing:
            more = ", ..." if len(missing) > 3 else ""
            raise CriticalMassError(
                f"{len(missing)} of {len(class_names)} classes have no prompt "
                f"({', '.join(map(repr, missing[:3]))}{more}); extract or import again with a "
                "prompt for each class"
            )
        number_of = {name: number for number, name in enumerate(class_names)}
        rows = [row for row, name in enumerate(self.class_names) if name in number_of]
        classes = np.array([number_of[self.class_names[row]] for row in rows], dtype=np.int64)
        return ClassPrompts(self.vectors[rows], classes)


def write_prompts(prompts: Prompts, folder: Path) -> dict[str, Any]:
    """Write the file of prompts and return its entry of the manifest.

    The file is named by its content, so a manifest never describes the file of other prompts.
    """
    buffer = io.BytesIO()
    np.savez(buffer, vectors=prompts.vectors)
    path = f"{PREFIX}{prompts.digest[:12]}.npz"
    return {
        "path": path,
        "sha256": write_bytes(folder / path, buffer.getvalue()),
        "layer": prompts.layer,
        "shape": list(prompts.vectors.shape),
        "class_names": list(prompts.class_names),
        "source": dict(prompts.source),
        "digest": prompts.digest,
    }


def read_prompts(path: Path, entry: Mapping[str, Any]) -> Prompts:
    """Read the prompts of a store.

    Parameters
    ----------
    path: the file.
    entry: its entry of the manifest.

    Raises
    ------
    StoreError: the file does not hold what the manifest says.
    """

    def read(content: bytes) -> Prompts:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            vectors = np.asarray(arrays["vectors"], dtype=np.float32)
        return Prompts(entry["layer"], vectors, tuple(entry["class_names"]), entry["source"])

    return read_part(path, entry, "prompts", read)

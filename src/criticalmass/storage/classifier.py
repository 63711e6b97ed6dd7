"""A network's own classifier beside the features of the layer that it reads."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.storage.files import read_part, write_bytes

#: Name of the file in a feature store.
FILE = "classifier.npz"


@dataclass(frozen=True, eq=False)
class Classifier:
    """The linear layer that a network ends with; it predicts the class of the largest output.

    Attributes
    ----------
    layer: the stored layer that it reads.
    weight: (n_outputs, n_neurons) float32.
    bias: (n_outputs,) float32; zeros for a linear layer without one.
    output_names: (n_outputs,) class of each output; empty if the model does not name them.
    """

    layer: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    output_names: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hex."""
        digest = hashlib.sha256(repr((self.layer, self.weight.shape, self.output_names)).encode())
        for array in (self.weight, self.bias):
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()

    def for_classes(self, class_names: Sequence[str]) -> Classifier:
        """Return the classifier whose outputs are the classes of a dataset, in their order.

        Outputs are matched by name, and those of other classes are left out. Outputs without
        names are those of the classes in order, if there are as many.

        Raises
        ------
        CriticalMassError: a class has no output of its name, or the numbers differ.
        """
        n_outputs, n_classes = len(self.bias), len(class_names)
        if self.output_names:
            missing = [name for name in class_names if self.output_names.count(name) != 1]
            if missing:
                raise CriticalMassError(
                    f"the network's own classifier has {n_outputs} outputs ("
                    f"{_shortened(self.output_names)}) and not exactly one for {len(missing)} of "
                    f"{n_classes} classes of the dataset ({_shortened(missing)}); give the classes "
                    "the names of the outputs, or take measure 'logistic-masked', which fits a "
                    "classifier"
                )
            rows = [self.output_names.index(name) for name in class_names]
            return Classifier(self.layer, self.weight[rows], self.bias[rows], tuple(class_names))
        if n_outputs != n_classes:
            raise CriticalMassError(
                f"the network's own classifier has {n_outputs} outputs without names and the "
                f"dataset {n_classes} classes; extract the data that the network was trained on, "
                "or take measure 'logistic-masked', which fits a classifier"
            )
        return self

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the file and return its entry of the manifest."""
        buffer = io.BytesIO()
        np.savez(buffer, weight=self.weight, bias=self.bias)
        return {
            "path": FILE,
            "sha256": write_bytes(folder / FILE, buffer.getvalue()),
            "layer": self.layer,
            "shape": list(self.weight.shape),
            "output_names": list(self.output_names),
            "digest": self.digest,
        }


def read_classifier(path: Path, entry: Mapping[str, Any]) -> Classifier:
    """Read the classifier of a store.

    Parameters
    ----------
    path: the file.
    entry: its entry of the manifest.

    Raises
    ------
    StoreError: the file does not hold what the manifest says.
    """

    def read(content: bytes) -> Classifier:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            weight, bias = (np.asarray(arrays[name]) for name in ("weight", "bias"))
        return Classifier(entry["layer"], weight, bias, tuple(entry["output_names"]))

    return read_part(path, entry, "a classifier", read)


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")

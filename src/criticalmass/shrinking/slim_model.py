"""``SlimModel``: the kept neurons of a layer with their codec, head, promise and record.

Its folder holds plain files: ``manifest.json`` (the record: kept neurons, promise, measurements),
``indices.npy`` and ``indices.json`` (the kept neurons, ascending), ``offset.npy`` and ``step.npy``
(the codec), ``coef.npy``, ``intercept.npy`` and ``classes.npy`` (the head), ``matrix.npy`` (the
directions of a projection),
``candidates.parquet`` (all candidates) and ``README.md`` (the model card).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from criticalmass.core.notebook import Card, Shown
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.measures.probes.task import LinearHead
from criticalmass.shrinking.codec import Codec, bytes_per_vector
from criticalmass.shrinking.stored_vectors import ShortMap
from criticalmass.storage.files import (
    MANIFEST,
    FolderKind,
    checked_path,
    folder_of,
    read_manifest,
    write_array,
    write_bytes,
    write_json,
    write_manifest,
)

SLIM_MODEL = FolderKind("criticalmass-slim", 2, "slim model", "shrink")
# Version 2 has stored vectors: of length 1, and perhaps of a projection. Others stay version 1.
_PLAIN_VERSION = 1
_ARRAYS = ("indices", "offset", "step", "coef", "intercept", "classes", "matrix")
_CANDIDATES = "candidates.parquet"
CARD = "README.md"


@dataclass(frozen=True, eq=False, repr=False)
class SlimModel(Shown):
    """The smallest form of a layer that passed its tests: a subset, or a projection of vectors.

    Attributes
    ----------
    indices: the kept neurons of the layer, ascending; all neurons for a projection.
    codec: encodes and decodes the (n_kept,) kept values.
    head: the certified probe on the kept values; None if the measure trains none.
    record: the arguments, kept neurons, promise, measurements and data; JSON-able.
    candidates: one row per tested size of every selector and precision.
    matrix: (n_neurons, n_kept) float32 directions of a projection, or None.
    """

    indices: NDArray[np.intp]
    codec: Codec
    head: LinearHead | None
    record: dict[str, Any]
    candidates: pd.DataFrame
    matrix: NDArray[np.float32] | None = None

    def _card(self) -> Card:
        record = self.record
        promise = record["promise"]
        facts = {
            "keeps": f"{self.n_kept:,} of {self.n_neurons:,} ({record['selector']})",
            "bytes of a vector": f"{record['bytes_per_vector']:,} of {record['bytes_full']:,} "
            f"({self.precision})",
            "promise": f"{promise['keep']:.4g} of the {record['value_name']} with "
            f"{promise['level']:.0%} confidence; lower bound {promise['ratio_bound']:.4f}",
            "layer": f"{record['layer']} of {record['model']} on {record['dataset']}",
        }
        return Card("Slim model", facts)

    @property
    def n_kept(self) -> int:
        """Number of kept values: neurons, or dimensions of a projection."""
        return int(self.codec.offset.size)

    @property
    def short_map(self) -> ShortMap | None:
        """The map to short vectors of length 1, if stored vectors were shrunk; else None."""
        if not self.record.get("stored"):
            return None
        if self.matrix is not None:
            return ShortMap(self.n_neurons, None, self.matrix)
        return ShortMap(self.n_neurons, self.indices)

    @property
    def n_neurons(self) -> int:
        """Width of the layer."""
        return int(self.record["n_neurons"])

    @property
    def precision(self) -> str:
        """Type that a kept value is stored in."""
        return self.codec.precision

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one stored vector."""
        return bytes_per_vector(self.n_kept, self.precision)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by class id."""
        return tuple(self.record["class_names"])

    def shorten(self, x: ArrayLike) -> NDArray[np.float32]:
        """Return the kept values of whole vectors, not encoded.

        Parameters
        ----------
        x: (n_samples, n_neurons) vectors of the whole layer.

        Returns
        -------
        (n_samples, n_kept); of length 1 if stored vectors were shrunk.

        Raises
        ------
        CriticalMassError: if ``x`` has another width.
        """
        rows = np.asarray(x, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.n_neurons:
            raise CriticalMassError(
                f"x has shape {rows.shape}; give (n_samples, {self.n_neurons}), the layer's width"
            )
        return rows[:, self.indices] if self.short_map is None else self.short_map(rows)

    def transform(self, x: ArrayLike) -> NDArray[np.float32]:
        """Return (n_samples, n_kept) values as they are read back: encoded and decoded."""
        return self.codec.decode(self.encode(x))

    def encode(self, x: ArrayLike) -> NDArray[Any]:
        """Return the stored codes of whole vectors: (n_samples, n_kept), bits packed.

        They do not depend on the batch: one vector has the same code alone and among others.
        """
        return self.codec.encode(self.shorten(x))

    def queries(self, x: ArrayLike) -> NDArray[np.float32]:
        """Return whole queries as they are compared, by inner products, with stored vectors.

        They are short vectors, not encoded unless bits are stored.
        """
        short = self.shorten(x)
        is_binary = self.precision == "binary"
        return self.codec.decode(self.codec.encode(short)) if is_binary else short

    def scores(self, x: ArrayLike) -> NDArray[np.float64]:
        """Return (n_samples, n_present) logits of the head on whole vectors.

        Raises
        ------
        CriticalMassError: if this slim model has no head.
        """
        if self.head is None:
            raise CriticalMassError(
                f"a slim model for measure={self.record['measure']!r} has no head; shrink with "
                "measure='logistic' to get one"
            )
        values = self.transform(x).astype(np.float64)
        logits: NDArray[np.float64] = values @ self.head.coef.T + self.head.intercept
        return logits

    def predict(self, x: ArrayLike) -> NDArray[np.int64]:
        """Return (n_samples,) class ids of whole vectors; raises the same errors as `scores`."""
        scores = self.scores(x)
        assert self.head is not None
        return np.asarray(self.head.classes[np.argmax(scores, axis=1)])

    def save(self, path: str | os.PathLike[str], card: str) -> Path:
        """Write the folder. The manifest is written last: a half-written folder has none.

        Parameters
        ----------
        path: folder; created if needed. A slim model in it is replaced.
        card: text of the model card.
        """
        folder = Path(path)
        (folder / MANIFEST).unlink(missing_ok=True)
        files = {
            name: {"path": f"{name}.npy", "sha256": write_array(folder / f"{name}.npy", array)}
            for name, array in self._arrays().items()
        }
        table = self.candidates.to_parquet(index=False)
        digest = write_bytes(folder / _CANDIDATES, table)
        files["candidates"] = {"path": _CANDIDATES, "sha256": digest}
        write_json(folder / "indices.json", {"indices": self.indices.tolist()})
        write_bytes(folder / CARD, card.encode())
        version = SLIM_MODEL.newest if self.record.get("stored") else _PLAIN_VERSION
        header = {"format": SLIM_MODEL.format, "format_version": version}
        write_manifest(folder, {**header, **self.record, "files": files})
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str] | SlimModel | Any) -> SlimModel:
        """Read a folder that `save` wrote and compare every file with its digest.

        A slim model, and the plan of `shrink`, are taken as they are.

        Raises
        ------
        StoreError: if there is no slim model, its format is newer, or a file is damaged.
        """
        path = getattr(path, "slim", path)
        if isinstance(path, SlimModel):
            return path
        folder = folder_of(path, SLIM_MODEL)
        manifest = read_manifest(folder, SLIM_MODEL)
        files = manifest.get("files")
        if not isinstance(files, dict) or "indices" not in files or "candidates" not in files:
            raise StoreError(
                f"{str(folder / MANIFEST)!r} does not list its files; run shrink again"
            )
        paths = {name: checked_path(folder, entry, verify=True) for name, entry in files.items()}
        arrays = {
            name: np.load(paths[name], allow_pickle=False) for name in _ARRAYS if name in paths
        }
        head = None
        if "coef" in arrays:
            head = LinearHead(arrays["coef"], arrays["intercept"], arrays["classes"])
        codec = Codec(str(manifest["precision"]), arrays["offset"], arrays["step"])
        record = {
            name: value
            for name, value in manifest.items()
            if name not in ("format", "format_version", "files")
        }
        candidates = pd.read_parquet(paths["candidates"])
        indices, matrix = arrays["indices"].astype(np.intp), arrays.get("matrix")
        return cls(indices, codec, head, record, candidates, matrix)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {
            "indices": self.indices.astype(np.int64),
            "offset": self.codec.offset,
            "step": self.codec.step,
        }
        if self.matrix is not None:
            arrays["matrix"] = self.matrix
        if self.head is not None:
            arrays |= {
                "coef": self.head.coef,
                "intercept": self.head.intercept,
                "classes": self.head.classes,
            }
        return arrays

"""The features of a folder, shared by all studies that look there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from criticalmass.datasets import Dataset, load_dataset
from criticalmass.errors import CriticalMassError, DataUnavailableError, MissingExtraError
from criticalmass.models.frozen import fits
from criticalmass.run_files import write_json
from criticalmass.store import FeatureStore
from criticalmass.studies.grid import Pair

_ALL = "all"
_DEFAULT = ("penultimate",)


@dataclass
class Features:
    """Where features are kept, and how they are made.

    Attributes
    ----------
    folder: holds one feature store per pair and choice of layers, and what was asked for it.
    device: as of `criticalmass.extract`.
    made: how many stores were made or completed so far.
    """

    folder: Path
    device: str = "auto"
    made: int = field(default=0, init=False)
    _last: tuple[str, Dataset] | None = field(default=None, repr=False)
    _broken: dict[str, CriticalMassError] = field(default_factory=dict, repr=False)

    def of(self, pair: Pair, layers: Sequence[str]) -> FeatureStore:
        """Open the features of a pair, or make them.

        Parameters
        ----------
        pair: which model on which dataset.
        layers: names and patterns, as of `criticalmass.extract`.

        Raises
        ------
        CriticalMassError: as `criticalmass.extract` raises it; what is wrong with a dataset or a
            model is found out once, and raised for each of its pairs.
        """
        from criticalmass.extract import extract

        for spec in (pair.dataset, pair.model):
            if spec in self._broken:
                raise self._broken[spec]
        try:
            dataset = self._dataset(pair.dataset)
        except CriticalMassError as error:
            self._broken[pair.dataset] = error
            raise
        place, asked = self._place(pair, tuple(layers))
        write_json(place.with_name(f"{place.name}.json"), _record(pair, asked))
        before = _files(place)
        try:
            store = extract(pair.model, dataset, out=place, layers=asked, device=self.device)
        except (DataUnavailableError, MissingExtraError) as error:
            # The data are here, so it is the model that cannot be had.
            self._broken[pair.model] = error
            raise
        self.made += _files(place) != before
        return store

    def _dataset(self, spec: str) -> Dataset:
        """Load a dataset; the last one is kept, since pairs come sorted by it."""
        if self._last is None or self._last[0] != spec:
            self._last = (spec, load_dataset(spec))
        return self._last[1]

    def _place(self, pair: Pair, layers: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
        """Find a store that was made for these layers and perhaps more, or a place for one."""
        for record in sorted(self.folder.glob(f"{pair.folder}*.json")):
            known = _read(record)
            if known.get("model") != pair.model or known.get("dataset") != pair.dataset:
                continue
            asked = tuple(known.get("layers", ()))
            # What "all" means hangs on what it is asked with.
            if asked == layers or (_ALL not in (*layers, *asked) and set(layers) <= set(asked)):
                return record.with_suffix(""), asked
        suffix = ""
        if layers != _DEFAULT:
            suffix = "-" + hashlib.sha256("\0".join(layers).encode()).hexdigest()[:6]
        return self.folder / f"{pair.folder}{suffix}", layers


def _files(place: Path) -> int:
    return sum(1 for _ in place.rglob("*.npy"))


def united(choices: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Put choices of layers together so that one pass serves them; those with ``all`` stay alone.

    Returns
    -------
    The choices to extract, each once.
    """
    alone = dict.fromkeys(tuple(choice) for choice in choices if _ALL in choice)
    merged = dict.fromkeys(layer for choice in choices if _ALL not in choice for layer in choice)
    return [*([tuple(merged)] if merged else []), *alone]


def chosen(store: FeatureStore, layers: Sequence[str]) -> tuple[str, ...]:
    """Find the layers of a store that names and patterns stand for."""
    return tuple(name for name in store.layers if any(fits(pattern, name) for pattern in layers))


def _record(pair: Pair, layers: Sequence[str]) -> dict[str, object]:
    return {"model": pair.model, "dataset": pair.dataset, "layers": list(layers)}


def _read(record: Path) -> dict[str, Any]:
    """Read what a store was made for; a damaged record is as good as none."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

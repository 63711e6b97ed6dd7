"""The features of a folder, shared by all studies that look there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from criticalmass.core.backends import Backend, Local
from criticalmass.errors import CriticalMassError, DataUnavailableError, MissingExtraError
from criticalmass.extraction.datasets import Dataset, load_dataset
from criticalmass.extraction.models.frozen import fits
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.files import write_json
from criticalmass.studies.grid import Pair

Stored = tuple[FeatureStore, tuple[str, ...]]
_Asked = tuple[Path, tuple[str, ...], tuple[str, ...]]
_ALL = "all"
_DEFAULT = ("penultimate",)


@dataclass
class Features:
    """Where features are kept, and how they are made.

    Attributes
    ----------
    folder: holds one feature store per pair and choice of layers, and what was asked for it.
    device, backend: as of `criticalmass.extract`.
    made: how many stores were made or completed so far.
    """

    folder: Path
    device: str = "auto"
    backend: Backend = field(default_factory=Local)
    made: int = field(default=0, init=False)
    _opened: dict[Path, FeatureStore] = field(default_factory=dict, repr=False)
    _last: tuple[str, Dataset] | None = field(default=None, repr=False)
    _broken: dict[str, CriticalMassError] = field(default_factory=dict, repr=False)

    def of(self, pair: Pair, layers: Sequence[str]) -> list[Stored]:
        """Open the features of a pair, and make what is not there.

        What another store of that pair has is not read again, not even together with more: one
        pass for several layers need not give the very bits of a pass for one, and cells that
        were computed on those would be taken for stale.

        Parameters
        ----------
        pair: which model on which dataset.
        layers: names and patterns, as of `criticalmass.extract`.

        Returns
        -------
        The stores, and of each the layers that were asked for.

        Raises
        ------
        CriticalMassError: as `criticalmass.extract` raises it; what is wrong with a dataset or a
            model is found out once, and raised for each of its pairs.
        """
        for spec in (pair.dataset, pair.model):
            if spec in self._broken:
                raise self._broken[spec]
        try:
            dataset = self._dataset(pair.dataset)
        except CriticalMassError as error:
            self._broken[pair.dataset] = error
            raise
        found = []
        for place, asked, mine in self._places(pair, tuple(layers)):
            store = self._extracted(pair, dataset, place, asked)
            found.append((store, chosen(store, mine)))
        return found

    def _extracted(
        self, pair: Pair, dataset: Dataset, place: Path, asked: tuple[str, ...]
    ) -> FeatureStore:
        from criticalmass.extraction.extract import extract

        if place in self._opened:
            return self._opened[place]
        before = _files(place)
        record = {"model": pair.model, "dataset": pair.dataset, "layers": list(asked)}
        write_json(place.with_name(f"{place.name}.json"), record, indent=2)
        # Workers elsewhere load the data themselves.
        data = dataset if isinstance(self.backend, Local) else pair.dataset
        try:
            store = extract(
                pair.model,
                data,
                out=place,
                layers=asked,
                device=self.device,
                backend=self.backend,
            )
        except (DataUnavailableError, MissingExtraError) as error:
            # The data are here, so it is the model that cannot be had.
            self._broken[pair.model] = error
            raise
        self.made += _files(place) != before
        self._opened[place] = store
        return store

    def _dataset(self, spec: str) -> Dataset:
        """Load a dataset; the last one is kept, since pairs come sorted by it."""
        if self._last is None or self._last[0] != spec:
            self._last = (spec, load_dataset(spec))
        return self._last[1]

    def _places(self, pair: Pair, layers: tuple[str, ...]) -> list[_Asked]:
        """Find the stores that have these layers, and a place for those that none has."""
        found: list[_Asked] = []
        open_ones = list(layers)
        for record in sorted(self.folder.glob(f"{pair.folder}*.json")):
            known = _read(record)
            asked = tuple(known.get("layers", ()))
            if (known.get("model"), known.get("dataset")) != (pair.model, pair.dataset):
                continue
            mine = tuple(layer for layer in open_ones if _covers(asked, layer, layers))
            if mine:
                found.append((record.with_suffix(""), asked, mine))
                open_ones = [layer for layer in open_ones if layer not in mine]
        if open_ones:
            suffix = ""
            if tuple(open_ones) != _DEFAULT:
                digest = hashlib.sha256("\0".join(open_ones).encode()).hexdigest()
                suffix = f"-{digest[:6]}"
            place = self.folder / f"{pair.folder}{suffix}"
            found.append((place, tuple(open_ones), tuple(open_ones)))
        return found


def _covers(asked: tuple[str, ...], layer: str, together: tuple[str, ...]) -> bool:
    """Tell whether a store of some layers has one that is wanted together with others.

    What "all" means hangs on what it is asked with, so such a choice is taken as a whole.
    """
    if _ALL in (*asked, *together):
        return asked == together
    return layer in asked or any(fits(pattern, layer) for pattern in asked)


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


def _read(record: Path) -> dict[str, Any]:
    """Read what a store was made for; a damaged record is as good as none."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

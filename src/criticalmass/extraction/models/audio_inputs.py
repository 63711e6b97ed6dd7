"""Preprocessing of sounds to input batches: resampling, and the front end of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.threads import map_ahead, thread_count
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.preprocess import Batches
from criticalmass.extraction.sounds import Sound, resample

# Sounds of about this many input values make a batch; a window of sounds is prepared at a time,
# and those of equal length in it share batches.
_VALUES_PER_BATCH = 1 << 20
_SOUNDS_PER_WINDOW = 256
# Types of the settings of an extractor that are recorded.
_PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class AudioPreprocess:
    """Resample sounds and apply a front end; a batch holds inputs of one shape, without padding.

    Attributes
    ----------
    rate: samples per second that the network was trained on.
    front_end: (n_samples,) float32 -> the network's input of one sound.
    description: the front end's settings, JSON-able.
    any_length: whether the shape of inputs depends on the length of the sound.
    """

    rate: int
    front_end: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    description: Mapping[str, Any]
    any_length: bool

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that decide the batches, JSON-able."""
        return {
            "channels": "mean",
            "rate": self.rate,
            "resampling": "scipy.signal.resample_poly",
            "front_end": dict(self.description),
            "padding": "none (batches of equal length)" if self.any_length else "to one length",
        }

    def batches(self, items: Sequence[Any] | NDArray[Any], size: int | None) -> Batches:
        """Yield (row indices, (n, ...) float32)."""
        workers = max(2, thread_count())
        prepared = map_ahead(
            lambda row: self._prepare(items[row], row),
            range(len(items)),
            workers=workers,
            ahead=4 * workers,
        )
        with closing(prepared):
            for start in range(0, len(items), _SOUNDS_PER_WINDOW):
                stop = min(start + _SOUNDS_PER_WINDOW, len(items))
                by_shape: dict[tuple[int, ...], dict[int, NDArray[np.float32]]] = {}
                for row in range(start, stop):
                    inputs = next(prepared)
                    by_shape.setdefault(inputs.shape, {})[row] = inputs
                for shape, group in sorted(by_shape.items()):
                    rows = np.array([*group], dtype=np.intp)
                    step = size or max(1, _VALUES_PER_BATCH // int(np.prod(shape)))
                    for first in range(0, len(rows), step):
                        part = rows[first : first + step]
                        yield part, np.stack([group[int(row)] for row in part])

    def _prepare(self, item: Any, row: int) -> NDArray[np.float32]:
        if not isinstance(item, Sound):
            raise CriticalMassError(
                f"sample {row} is of type {type(item).__name__}, not a sound; give audiofolder:DIR "
                "or a table with audio=COLUMN"
            )
        return np.ascontiguousarray(self.front_end(resample(item, self.rate)), dtype=np.float32)


@dataclass(frozen=True)
class ExtractorFrontEnd:
    """A feature extractor of transformers, called for one sound.

    Attributes
    ----------
    extractor: the feature extractor.
    argument: name of the network's input.
    shortest: shorter sounds are continued by zeros to this many samples.
    marks_frames: append a row that is 1 at the frames of the sound and 0 at those of the padding.
    """

    extractor: Any
    argument: str
    shortest: int = 0
    marks_frames: bool = False

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's input of one sound."""
        if len(samples) < self.shortest:
            samples = np.pad(samples, (0, self.shortest - len(samples)))
        rate = int(self.extractor.sampling_rate)
        made = self.extractor(samples, sampling_rate=rate, return_tensors="np")
        inputs = np.asarray(made[self.argument][0], dtype=np.float32)
        if not self.marks_frames:
            return inputs
        n_frames = -(-len(samples) // int(self.extractor.hop_length))
        mark = (np.arange(inputs.shape[1]) < n_frames).astype(np.float32)
        return np.vstack([inputs, mark])

    @property
    def description(self) -> dict[str, Any]:
        """Class and plain settings of the extractor."""
        values = self.extractor.to_dict()
        plain = {key: value for key, value in values.items() if isinstance(value, _PLAIN)}
        return {"class": type(self.extractor).__name__, **dict(sorted(plain.items()))}

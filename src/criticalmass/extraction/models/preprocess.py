"""Preprocessing of images, texts and vectors to input batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.arrays import as_numpy
from criticalmass.core.threads import map_ahead, thread_count
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.resize import INTERPOLATIONS, resize_crop
from criticalmass.extraction.pixels import BrokenImageError, to_rgb
from criticalmass.extraction.tensors import StoredTensors, to_inputs

if TYPE_CHECKING:
    from PIL.Image import Image

# Row indices and input array.
Batch = tuple[NDArray[np.intp], NDArray[Any]]
# Closing it stops the threads that prepare the next batches.
Batches = Generator[Batch, None, None]
_IMAGES_PER_BATCH = 32
_VECTORS_PER_BATCH = 256
_TENSORS_PER_BATCH = _TEXTS_PER_BATCH = 64
# Batches have texts of equal token length, so that nothing is padded. About this many tokens keep
# the matrix products large and the activations in the cache.
_TOKENS_PER_BATCH = 384
# Number of images that one thread prepares at a time, and number of images prepared in advance
# (at least one batch).
_IMAGES_PER_TASK = 8
_IMAGES_AHEAD = 128


class Preprocess(Protocol):
    """Turns items into input batches; the same batches for every engine."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that decide the batches, JSON-able; equal settings give equal batches."""
        ...

    def batches(self, items: Sequence[Any] | NDArray[Any], size: int | None) -> Batches:
        """Yield (row indices, input array) until every item has been yielded once.

        Parameters
        ----------
        items: the samples.
        size: largest number of items per batch; None for the choice of the preprocessing.
        """
        ...


@dataclass(frozen=True)
class ImagePreprocess:
    """Resize the shorter side to ``resize`` pixels, then crop the central square.

    The model itself subtracts the mean and divides by the standard deviation, so that batches
    hold 8-bit values.

    Attributes
    ----------
    pixels: side of the square.
    resize: length of the shorter side after resizing.
    interpolation: name of the interpolation, as Pillow calls it, in lower case.
    mean, std: mean and standard deviation per channel, of values in 0..1; empty for none.
    stretch: resize both sides to ``resize`` pixels.
    """

    pixels: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stretch: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> ImagePreprocess:
        """Make the preprocessing that `settings` describes."""
        side = "resize_both_sides" if "resize_both_sides" in settings else "resize_shorter_side"
        return cls(
            int(settings["centre_crop"]),
            int(settings[side]),
            str(settings["interpolation"]),
            mean=tuple(settings["mean"]),
            std=tuple(settings["std"]),
            stretch=side == "resize_both_sides",
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that decide the batches, JSON-able."""
        return {
            "channels": "RGB, grey replicated",
            ("resize_both_sides" if self.stretch else "resize_shorter_side"): self.resize,
            "interpolation": self.interpolation,
            "antialias": True,
            "centre_crop": self.pixels,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def batches(self, items: Sequence[Any] | NDArray[Any], size: int | None) -> Batches:
        """Yield (row indices, (n, 3, pixels, pixels) uint8)."""
        step = size or _IMAGES_PER_BATCH
        workers = max(2, thread_count())
        tasks = [
            slice(begin, min(begin + _IMAGES_PER_TASK, start + step, len(items)))
            for start in range(0, len(items), step)
            for begin in range(start, min(start + step, len(items)), _IMAGES_PER_TASK)
        ]
        ahead = max(workers, -(-max(step, _IMAGES_AHEAD) // _IMAGES_PER_TASK))
        prepared = map_ahead(
            lambda rows: self._prepare_rows(items, rows), tasks, workers=workers, ahead=ahead
        )
        with closing(prepared):
            for start in range(0, len(items), step):
                rows = np.arange(start, min(start + step, len(items)))
                parts = islice(prepared, -(-len(rows) // _IMAGES_PER_TASK))
                yield rows, np.concatenate(list(parts))

    def _prepare_rows(self, items: Sequence[Any] | NDArray[Any], rows: slice) -> NDArray[np.uint8]:
        if isinstance(items, np.ndarray):
            return self._prepare_array(items[rows])
        return np.stack([self._prepare_image(items[row]) for row in range(rows.start, rows.stop)])

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        if self.stretch:
            return self.resize, self.resize
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def _crop_corner(self, width: int, height: int) -> tuple[int, int]:
        return round((width - self.pixels) / 2), round((height - self.pixels) / 2)

    def _prepare_array(self, images: NDArray[Any]) -> NDArray[np.uint8]:
        """Prepare images of one size, (n, height, width[, 3])."""
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise CriticalMassError(
                f"image arrays must be uint8 (n, height, width[, 3]), got {images.dtype} "
                f"{images.shape}"
            )
        if images.ndim == 4 and images.shape[3] != 3:
            raise CriticalMassError(f"colour images must have 3 channels last, got {images.shape}")
        if self.interpolation not in INTERPOLATIONS:
            from PIL import Image

            return np.stack([self._resize_with_pillow(Image.fromarray(image)) for image in images])
        planes = [self._resize(image[..., None] if image.ndim == 2 else image) for image in images]
        shape = (len(images), 3, self.pixels, self.pixels)
        return np.ascontiguousarray(np.broadcast_to(np.stack(planes), shape))

    def _prepare_image(self, item: Image | NDArray[Any]) -> NDArray[np.uint8]:
        """Prepare one image -> (3, pixels, pixels)."""
        from PIL import Image

        image = _as_image(item) if isinstance(item, np.ndarray) else item
        if not isinstance(image, Image.Image):
            raise CriticalMassError(f"an image must be a PIL image or an array, got {type(item)}")
        try:
            image = to_rgb(image)
        except BrokenImageError as error:
            raise BrokenImageError(f"an image of the dataset cannot be used: {error}") from error
        if self.interpolation in INTERPOLATIONS:
            return self._resize(np.asarray(image))
        return self._resize_with_pillow(image)

    def _resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop (height, width, channels) -> (channels, pixels, pixels)."""
        size = self._resized_size(image.shape[1], image.shape[0])
        contiguous = np.ascontiguousarray(image)
        corner = self._crop_corner(*size)
        return resize_crop(contiguous, size, corner, self.pixels, self.interpolation)

    def _resize_with_pillow(self, image: Image) -> NDArray[np.uint8]:
        """Resize and crop one image -> (3, pixels, pixels)."""
        from PIL import Image as library

        image = image.convert("RGB")
        width, height = self._resized_size(*image.size)
        method = library.Resampling[self.interpolation.upper()]
        # One axis at a time: which axis Pillow resizes first depends on its version and the sizes.
        # The order changes values by a few levels, because Pillow rounds in between.
        image = image.resize((width, image.height), method).resize((width, height), method)
        left, top = self._crop_corner(width, height)
        image = image.crop((left, top, left + self.pixels, top + self.pixels))
        return np.ascontiguousarray(np.moveaxis(np.asarray(image, dtype=np.uint8), 2, 0))


def _as_image(array: NDArray[Any]) -> Image:
    from PIL import Image

    try:
        return Image.fromarray(array)
    except (TypeError, ValueError) as error:
        raise CriticalMassError(
            f"an array of type {array.dtype} and shape {array.shape} is no image; give 8-bit "
            "values (height, width[, 3])"
        ) from error


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that this package uses."""

    def __call__(self, text: list[str], *, truncation: bool, max_length: int) -> Any:
        """Return a mapping with ``input_ids``."""
        ...

    def save_pretrained(self, save_directory: str) -> Any:
        """Write its files into a folder."""
        ...


@dataclass(frozen=True)
class TextPreprocess:
    """Tokenize texts; a batch holds texts of equal token length, so that there is no padding.

    Attributes
    ----------
    tokenizer: the model's own tokenizer.
    max_length: longer texts are cut to this many tokens.
    prompt: prefix of every text.
    stages: description of the stages after the transformer (pooling, normalising), for the
        manifest.
    """

    tokenizer: Tokenizer
    max_length: int
    prompt: str = ""
    stages: tuple[str, ...] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that decide the batches, JSON-able."""
        return {
            "tokenizer": type(self.tokenizer).__name__,
            "max_tokens": self.max_length,
            "prompt": self.prompt,
            "padding": "none (batches of equal length)",
            "after_the_transformer": list(self.stages),
        }

    def batches(self, items: Sequence[Any] | NDArray[Any], size: int | None) -> Batches:
        """Yield (row indices, (n, tokens) int64), the shortest texts first."""
        texts = [f"{self.prompt}{item}" for item in items]
        if not texts:
            return
        tokens = self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]
        tokens = [ids or self._empty_text() for ids in tokens]
        lengths = np.array([len(ids) for ids in tokens])
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            step = size or max(1, _TOKENS_PER_BATCH // int(length))
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                yield part, np.array([tokens[row] for row in part], dtype=np.int64)

    def _empty_text(self) -> list[int]:
        """Return the tokens of an empty text, for a tokenizer that adds none by itself (GPT-2).

        Raises
        ------
        CriticalMassError: the tokenizer has no token for the start or the end of a text.
        """
        for name in ("bos_token_id", "eos_token_id", "cls_token_id", "unk_token_id"):
            token = getattr(self.tokenizer, name, None)
            if token is not None:
                return [int(token)]
        raise CriticalMassError(
            "a text is empty and the model's tokenizer has no token for an empty text; "
            "remove empty texts"
        )


@dataclass(frozen=True)
class PlainTextPreprocess:
    """Pass texts as they are, to a network that has its own tokenizer."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that decide the batches, JSON-able."""
        return {"tokenizer": "inside the network"}

    def batches(self, items: Sequence[Any] | NDArray[Any], size: int | None) -> Batches:
        """Yield (row indices, (n,) texts as Python objects)."""
        step = size or _TEXTS_PER_BATCH
        for start in range(0, len(items), step):
            rows = np.arange(start, min(start + step, len(items)))
            yield rows, np.array([str(items[int(row)]) for row in rows], dtype=object)


@dataclass(frozen=True)
class VectorPreprocess:
    """Cast vectors to float32."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that decide the batches, JSON-able."""
        return {"cast": "float32"}

    def batches(self, items: Sequence[Any] | NDArray[Any], size: int | None) -> Batches:
        """Yield (row indices, (n, d) float32)."""
        step = size or _VECTORS_PER_BATCH
        for start in range(0, len(items), step):
            stop = min(start + step, len(items))
            yield np.arange(start, stop), np.asarray(items[start:stop], dtype=np.float32)


@dataclass(frozen=True)
class TensorPreprocess:
    """Inputs as a network takes them: stored ones, or those that a function makes of each item.

    Attributes
    ----------
    function: item -> tensor without the axis of the batch, or name -> tensor; None for stored
        inputs.
    description: the function in words.
    names: the network's inputs that are passed by name; empty for one input.
    shape, dtype: of one sample, if there is one input and all samples have the same shape.
    """

    function: Callable[[Any], Any] | None = None
    description: str = "none (inputs as given)"
    names: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    dtype: str = ""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that decide the batches, JSON-able."""
        settings: dict[str, Any] = {"function": self.description}
        if self.names:
            settings["names"] = list(self.names)
        if self.shape is not None:
            settings |= {"shape": list(self.shape), "dtype": self.dtype}
        return settings

    def batches(self, items: Sequence[Any] | NDArray[Any], size: int | None) -> Batches:
        """Yield (row indices, inputs); structured arrays hold several named inputs.

        Raises
        ------
        CriticalMassError: the function fails on an item, or returns no numbers.
        """
        step = size or _TENSORS_PER_BATCH
        if isinstance(items, StoredTensors) and self.function is None:
            for rows, batch in items.batches(step):
                yield rows, self._select(batch)
            return
        for start in range(0, len(items), step):
            rows = np.arange(start, min(start + step, len(items)))
            parts = tuple(self._apply(items[row], row) for row in map(int, rows))
            places = np.stack([np.arange(len(rows)), np.zeros_like(rows)], axis=1)
            for members, batch in StoredTensors(parts, places).batches(step):
                yield rows[members], self._select(batch)

    def _apply(self, item: Any, row: int) -> NDArray[Any]:
        """Return the inputs of one item, with an axis of the batch of length 1."""
        result = item
        if self.function is not None:
            try:
                result = self.function(item)
            except Exception as error:
                raise CriticalMassError(
                    f"preprocess={self.description} fails on sample {row} of type "
                    f"{type(item).__name__} ({type(error).__name__}: {error})"
                ) from error
        name = f"preprocess={self.description} of sample {row}" if self.function else "an input"
        if isinstance(result, Mapping):
            return to_inputs({key: _as_batch(value) for key, value in result.items()}, name)
        return to_inputs(_as_batch(result), name)

    def _select(self, batch: NDArray[Any]) -> NDArray[Any]:
        if not self.names or batch.dtype.names in (None, self.names):
            return batch
        return to_inputs({name: batch[name] for name in self.names}, "the inputs")


def _as_batch(value: Any) -> Any:
    return np.asarray(as_numpy(value, "the output of preprocess"))[None]

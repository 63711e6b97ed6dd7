"""ONNX graphs from a file; every tensor in them is a layer that can be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.frozen import PENULTIMATE, FrozenModel, Tap, files_digest
from criticalmass.extraction.models.preprocess import ImagePreprocess, Preprocess, VectorPreprocess
from criticalmass.extraction.specs import Spec, choice_option, integer_option
from criticalmass.storage.untrusted import check_beside

EXTRA = "export"
# Mean and deviation, of values in 0..1, that an image model was trained with.
NORMS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_PIXELS = 224


@dataclass(frozen=True)
class OnnxGraph:
    """A graph with one input.

    Attributes
    ----------
    path: its file.
    input: name of the input.
    shape: of one sample; -1 where any size goes.
    dtype: NumPy type of the input.
    batch: how many samples it takes at once; None for any number.
    tensors: name of each inner tensor -> the operation that makes it.
    output: the first output.
    mean, std: applied to images before; empty if the graph takes 8-bit values or vectors.
    """

    path: Path
    input: str
    shape: tuple[int, ...]
    dtype: str
    batch: int | None
    tensors: Mapping[str, str]
    output: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def channels_last(self) -> bool:
        """Whether images go in as (n, height, width, 3)."""
        return len(self.shape) == 3 and self.shape[2] == 3 and self.shape[0] != 3

    def prepare(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Turn an input batch into what the graph takes, (n, *shape)."""
        if self.mean:
            shape = (1, len(self.mean), 1, 1)
            mean = np.array(self.mean, np.float32).reshape(shape)
            std = np.array(self.std, np.float32).reshape(shape)
            batch = (batch.astype(np.float32) / np.float32(255.0) - mean) / std
        if self.channels_last:
            batch = np.moveaxis(batch, 1, 3)
        return np.ascontiguousarray(batch, dtype=self.dtype)


def onnx_files(path: Path) -> tuple[Path, ...]:
    """List a graph's file and the files beside it that large graphs keep their weights in.

    Raises
    ------
    CriticalMassError: no such file, no graph, or weights outside its folder or gone.
    """
    if not path.is_file():
        raise CriticalMassError(f"no ONNX file {str(path)!r}")
    places = dict.fromkeys(_external(_parse(path).graph))
    beside = [check_beside(path.parent, place, path) for place in places]
    for file in beside:
        if not file.is_file():
            raise CriticalMassError(f"{str(path)!r} keeps weights in {str(file)!r}, which is gone")
    return (path, *beside)


def _external(graph: Any) -> Iterator[str]:
    """Yield where the tensors of a graph, and of the graphs within it, lie outside its file."""
    inner = [a for node in graph.node for a in node.attribute]
    tensors = [*graph.initializer, *(t for a in inner for t in (a.t, *a.tensors))]
    sparse = [*graph.sparse_initializer, *(s for a in inner for s in a.sparse_tensors)]
    tensors += [part for one in sparse for part in (one.values, one.indices)]
    for tensor in tensors:
        yield from (e.value for e in tensor.external_data if e.key == "location")
    for attribute in inner:
        for below in (attribute.g, *attribute.graphs):
            # An attribute that holds no graph gives an empty one.
            if below.node or below.initializer:
                yield from _external(below)


def _parse(path: Path) -> Any:
    """Read a graph's file without the weights that it keeps elsewhere."""
    onnx = import_package("onnx", EXTRA)
    decode = import_package("google.protobuf.message", EXTRA).DecodeError
    try:
        return onnx.load(str(path), load_external_data=False)
    except (decode, ValueError, OSError) as error:
        raise CriticalMassError(f"{str(path)!r} is no ONNX file") from error


def load_onnx(spec: Spec) -> FrozenModel:
    """Open an ONNX graph that takes images or vectors; ``penultimate`` is its first output.

    Parameters
    ----------
    spec: ``onnx:FILE``, with ``px`` where the graph leaves the size of images open, and ``norm``
        (``half``, ``imagenet`` or ``none``): how images are scaled.

    Raises
    ------
    CriticalMassError: no such file, no ONNX graph, or one with inputs of another kind.
    MissingExtraError: onnx is not installed.
    """
    path = Path(spec.name)
    digest = files_digest(onnx_files(path))
    graph = _read(spec, path)
    preprocess: Preprocess = VectorPreprocess()
    if len(graph.shape) == 3:
        height, width = graph.shape[:2] if graph.channels_last else graph.shape[1:]
        if height != width:
            raise CriticalMassError(f"{spec.text!r} takes {height} x {width} pixels, not a square")
        preprocess = ImagePreprocess(height, height, "bicubic", mean=graph.mean, std=graph.std)
    return FrozenModel(
        spec=spec.text,
        name=path.stem,
        modality="image" if len(graph.shape) == 3 else "vector",
        module=graph,
        root=graph,
        preprocess=preprocess,
        weights=f"file {path.name}",
        weights_digest=digest,
        penultimate=Tap(PENULTIMATE, graph.output, "output"),
    )


def _read(spec: Spec, path: Path) -> OnnxGraph:
    onnx = import_package("onnx", EXTRA)
    content = _parse(path).graph
    weights = {one.name for one in content.initializer}
    inputs = [one for one in content.input if one.name not in weights]
    if len(inputs) != 1 or not content.output or not content.node:
        names = ", ".join(one.name for one in inputs) or "none"
        raise CriticalMassError(
            f"{spec.text!r} has the inputs {names}; it must take one, images or vectors "
            "(of a text model give the model itself: hf:FOLDER or st:FOLDER)"
        )
    kind = inputs[0].type.tensor_type
    dims = [one.dim_value if one.HasField("dim_value") else -1 for one in kind.shape.dim]
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    shape = _sample_shape(spec, dims, dtype)
    tensors = {name: one.op_type for one in content.node for name in one.output if name}
    mean, std = NORMS[choice_option(spec, "norm", "half", tuple(NORMS))]
    scaled = len(shape) == 3 and dtype.kind == "f"
    return OnnxGraph(
        path=path,
        input=inputs[0].name,
        shape=shape,
        dtype=dtype.name,
        batch=dims[0] if dims[0] > 0 else None,
        tensors=tensors,
        output=content.output[0].name,
        mean=mean if scaled else (),
        std=std if scaled else (),
    )


def _sample_shape(spec: Spec, dims: list[int], dtype: np.dtype[Any]) -> tuple[int, ...]:
    floats, bytes_ = dtype.kind == "f", dtype == np.uint8
    if len(dims) == 2 and floats:
        return (dims[1],)
    if len(dims) == 4 and (floats or bytes_):
        last = dims[3] == 3 and dims[1] != 3
        sides = [size for size in (dims[1:3] if last else dims[2:]) if size > 0]
        pixels = integer_option(spec, "px", sides[0] if sides else _PIXELS)
        if any(size != pixels for size in sides):
            raise CriticalMassError(
                f"{spec.text!r} takes {' x '.join(map(str, sides))} pixels; leave out px"
            )
        if dims[3 if last else 1] in (3, -1):
            return (pixels, pixels, 3) if last else (3, pixels, pixels)
    raise CriticalMassError(
        f"{spec.text!r} takes {dtype} {tuple(dims)}; images (n, 3, height, width) or vectors "
        "(n, d) can be given"
    )

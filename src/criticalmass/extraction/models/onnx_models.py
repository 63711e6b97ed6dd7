"""ONNX graphs from a file; every tensor of a graph is a layer that can be read."""

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
from criticalmass.storage.untrusted import check_inside_folder

ONNX_EXTRA = "export"
#: The package that runs operations which ONNX Runtime lacks, and its extra.
CUSTOM_OPERATIONS = ("onnxruntime_extensions", "multilingual")
_STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
# Mean and standard deviation, of values in 0..1, that an image model was trained with.
NORMS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_DEFAULT_PIXELS = 224


@dataclass(frozen=True)
class OnnxGraph:
    """A graph with one input.

    Attributes
    ----------
    path: its file.
    input: name of the input.
    shape: shape of one sample; -1 for a free size.
    dtype: NumPy type of the input.
    batch: number of samples per run; None for any number.
    tensors: name of each inner tensor -> type of the operation that makes it.
    output: name of the first output.
    mean, std: mean and standard deviation for images; empty if the graph takes 8-bit values or
        vectors.
    is_custom: whether operations need `CUSTOM_OPERATIONS`.
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
    is_custom: bool = False

    @property
    def channels_last(self) -> bool:
        """Whether the graph takes images as (n, height, width, 3)."""
        return len(self.shape) == 3 and self.shape[2] == 3 and self.shape[0] != 3

    def prepare(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Turn an input batch into the input of the graph, (n, *shape)."""
        if self.mean:
            shape = (1, len(self.mean), 1, 1)
            mean = np.array(self.mean, np.float32).reshape(shape)
            std = np.array(self.std, np.float32).reshape(shape)
            batch = (batch.astype(np.float32) / np.float32(255.0) - mean) / std
        if self.channels_last:
            batch = np.moveaxis(batch, 1, 3)
        return np.ascontiguousarray(batch, dtype=self.dtype)


def onnx_files(path: Path) -> tuple[Path, ...]:
    """List a graph's file, and the files in its folder that hold weights of a large graph.

    Raises
    ------
    CriticalMassError: the file does not exist or is not a graph, or a file of weights is missing
        or outside the folder.
    """
    if not path.is_file():
        raise CriticalMassError(f"no ONNX file {str(path)!r}")
    locations = dict.fromkeys(_external_locations(_parse_file(path).graph))
    weight_files = [check_inside_folder(path.parent, location, path) for location in locations]
    for file in weight_files:
        if not file.is_file():
            raise CriticalMassError(f"{str(path)!r} has weights in {str(file)!r}, which is missing")
    return (path, *weight_files)


def _external_locations(graph: Any) -> Iterator[str]:
    """Yield the files that hold tensors of a graph, or of the graphs nested in it."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    tensors = [
        *graph.initializer,
        *(tensor for one in attributes for tensor in (one.t, *one.tensors)),
    ]
    sparse = [
        *graph.sparse_initializer,
        *(tensor for one in attributes for tensor in one.sparse_tensors),
    ]
    tensors += [part for tensor in sparse for part in (tensor.values, tensor.indices)]
    for tensor in tensors:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")
    for attribute in attributes:
        for nested in (attribute.g, *attribute.graphs):
            # An attribute without a graph gives an empty one.
            if nested.node or nested.initializer:
                yield from _external_locations(nested)


def _parse_file(path: Path) -> Any:
    """Read a graph's file without the weights in other files."""
    onnx = import_package("onnx", ONNX_EXTRA)
    decode_error = import_package("google.protobuf.message", ONNX_EXTRA).DecodeError
    try:
        return onnx.load(str(path), load_external_data=False)
    except (decode_error, ValueError, OSError) as error:
        raise CriticalMassError(f"{str(path)!r} is not an ONNX file") from error


def load_onnx(spec: Spec) -> FrozenModel:
    """Open an ONNX graph that takes images or vectors; ``penultimate`` is its first output.

    Parameters
    ----------
    spec: ``onnx:FILE``, with ``px`` if the graph takes images of any size, and ``norm``
        (``half``, ``imagenet`` or ``none``), which says how images are scaled.

    Raises
    ------
    CriticalMassError: the file does not exist, is not an ONNX graph, or takes another input.
    MissingExtraError: onnx is not installed.
    """
    path = Path(spec.name)
    digest = files_digest(onnx_files(path))
    graph = _read_graph(spec, path)
    preprocess: Preprocess = VectorPreprocess()
    if len(graph.shape) == 3:
        height, width = graph.shape[:2] if graph.channels_last else graph.shape[1:]
        if height != width:
            raise CriticalMassError(
                f"{spec.text!r} takes {height} x {width} pixels; only squares are supported"
            )
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


def _read_graph(spec: Spec, path: Path) -> OnnxGraph:
    onnx = import_package("onnx", ONNX_EXTRA)
    graph = _parse_file(path).graph
    weights = {initializer.name for initializer in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or not graph.output or not graph.node:
        names = ", ".join(value.name for value in inputs) or "none"
        raise CriticalMassError(
            f"{spec.text!r} has the inputs {names}; a graph must have one input, images or vectors "
            "(for a text model use the model itself: hf:FOLDER or st:FOLDER)"
        )
    kind = inputs[0].type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    shape = _sample_shape(spec, dims, dtype)
    tensors = {name: node.op_type for node in graph.node for name in node.output if name}
    mean, std = NORMS[choice_option(spec, "norm", "half", tuple(NORMS))]
    is_scaled = len(shape) == 3 and dtype.kind == "f"
    return OnnxGraph(
        path=path,
        input=inputs[0].name,
        shape=shape,
        dtype=dtype.name,
        batch=dims[0] if dims[0] > 0 else None,
        tensors=tensors,
        output=graph.output[0].name,
        mean=mean if is_scaled else (),
        std=std if is_scaled else (),
    )


def read_text_graph(path: Path) -> OnnxGraph:
    """Open a graph whose input is texts, (n,), which run one at a time.

    Raises
    ------
    CriticalMassError: the file is not a graph, or takes another input.
    MissingExtraError: onnx is not installed.
    """
    onnx = import_package("onnx", ONNX_EXTRA)
    graph = _parse_file(path).graph
    kinds = [value.type.tensor_type.elem_type for value in graph.input]
    if kinds != [onnx.TensorProto.STRING]:
        raise CriticalMassError(f"{str(path)!r} takes other inputs than texts")
    return OnnxGraph(
        path=path,
        input=graph.input[0].name,
        shape=(),
        dtype="object",
        batch=1,
        tensors={name: node.op_type for node in graph.node for name in node.output if name},
        output=graph.output[0].name,
        is_custom=any(node.domain not in _STANDARD_DOMAINS for node in graph.node),
    )


def _sample_shape(spec: Spec, dims: list[int], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Derive the shape of one sample from the input's dimensions (-1 for a free size)."""
    is_float, is_bytes = dtype.kind == "f", dtype == np.uint8
    if len(dims) == 2 and is_float:
        return (dims[1],)
    if len(dims) == 4 and (is_float or is_bytes):
        channels_last = dims[3] == 3 and dims[1] != 3
        sides = [size for size in (dims[1:3] if channels_last else dims[2:]) if size > 0]
        pixels = integer_option(spec, "px", sides[0] if sides else _DEFAULT_PIXELS)
        if any(size != pixels for size in sides):
            raise CriticalMassError(
                f"{spec.text!r} takes {' x '.join(map(str, sides))} pixels; leave out px"
            )
        if dims[3 if channels_last else 1] in (3, -1):
            return (pixels, pixels, 3) if channels_last else (3, pixels, pixels)
    raise CriticalMassError(
        f"{spec.text!r} takes {dtype} {tuple(dims)}; supported are images (n, 3, height, width) "
        "and vectors (n, d)"
    )

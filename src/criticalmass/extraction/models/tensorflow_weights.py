"""Read the weights in files of TensorFlow, TensorFlow.js and Keras; nothing in them is run."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.storage.untrusted import check_zip

Weights = dict[str, NDArray[Any]]
_FLOAT = 1  # DT_FLOAT of tensorflow/core/framework/types.proto
_STORED_TYPES = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "uint8": "u1", "uint16": "<u2"}
# Names of Keras's layers in a weight file, which numbers the layers of each kind.
_KERAS_KINDS = {
    "BatchNormalization": "batch_normalization",
    "Conv2D": "conv2d",
    "SeparableConv2D": "separable_conv2d",
}


def read_frozen_graph(path: Path) -> Weights:
    """Read the float32 constants of a frozen graph (``.pb``); -> name of the node -> array.

    The file is a protocol buffer, ``GraphDef`` of tensorflow/core/framework/graph.proto.

    Raises
    ------
    CriticalMassError: the file is no such graph.
    """
    weights: Weights = {}
    try:
        for number, node in _fields(path.read_bytes()):
            if number != 1:
                continue
            fields = list(_fields(node))
            name = next(bytes(value).decode() for field, value in fields if field == 1)
            for field, value in fields:
                attribute = dict(_fields(value)) if field == 5 else {}
                tensor = (
                    dict(_fields(attribute[2])).get(8) if attribute.get(1) == b"value" else None
                )
                array = None if tensor is None else _constant(tensor)
                if array is not None:
                    weights[name] = array
    except (IndexError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise CriticalMassError(f"{str(path)!r} is no frozen graph of TensorFlow") from error
    return weights


def _constant(tensor: Any) -> NDArray[np.float32] | None:
    """Decode a ``TensorProto`` with float32 content; None for another type or form."""
    fields = dict(_fields(tensor))
    if fields.get(1) != _FLOAT or 4 not in fields:
        return None
    sizes = [dict(_fields(size)).get(1, 0) for number, size in _fields(fields[2]) if number == 2]
    return np.frombuffer(fields[4], "<f4").reshape(sizes)


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of the fields of a protocol buffer: an integer or bytes.

    The encoding: a key (field number and wire type), then an integer of 7 bits a byte, 8 or 4
    bytes, or a length and so many bytes.
    """
    place, view = 0, memoryview(message)

    def integer() -> int:
        nonlocal place
        value, shift = 0, 0
        while True:
            byte = view[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while place < len(view):
        key = integer()
        if key & 7 == 0:
            yield key >> 3, integer()
            continue
        size = {1: 8, 5: 4}[key & 7] if key & 7 != 2 else integer()
        if place + size > len(view):
            raise ValueError("truncated")
        yield key >> 3, view[place : place + size]
        place += size


def read_tfjs(path: Path) -> Weights:
    """Read a model of TensorFlow.js: ``model.json`` and, beside it, the files that it names.

    Raises
    ------
    CriticalMassError: the model's files do not hold what it describes.
    """
    groups = json.loads(path.read_text(encoding="utf-8"))["weightsManifest"]
    return _read_groups(path, groups, lambda name: (path.parent / name).read_bytes())


def read_tfjs_scripts(path: Path) -> Weights:
    """Read a model of TensorFlow.js that was packed as scripts: ``model.min.js`` and its shards.

    The scripts are searched for the list of weights, an object literal, and for the content, a
    string in base64. They are not run.

    Raises
    ------
    CriticalMassError: the scripts do not hold what the list describes.
    """
    _, _, text = path.read_text(encoding="utf-8").partition("weightsManifest:")
    # An object literal becomes JSON: quoted keys, and a digit before the decimal point.
    text = re.sub(r"([{,])(\w+):", r'\1"\2":', text)
    text = re.sub(r"(?<=[:,\[-])\.(?=\d)", "0.", text)
    try:
        groups, _ = json.JSONDecoder().raw_decode(text)
    except ValueError as error:
        raise CriticalMassError(f"{str(path)!r} holds no list of weights") from error

    def content(name: str) -> bytes:
        script = (path.parent / f"{name}.min.js").read_text(encoding="utf-8")
        return base64.b64decode(max(re.findall(r'"([A-Za-z0-9+/=]*)"', script), key=len))

    return _read_groups(path, groups, content)


def _read_groups(path: Path, groups: Sequence[Mapping[str, Any]], content: Any) -> Weights:
    """Read the groups of a ``weightsManifest``; a group's files form one sequence of bytes."""
    weights: Weights = {}
    for group in groups:
        buffer = b"".join(content(Path(name).name) for name in group["paths"])
        place = 0
        for entry in group["weights"]:
            quantised = entry.get("quantization") or {}
            stored = np.dtype(_STORED_TYPES[quantised.get("dtype", entry["dtype"])])
            count = math.prod(entry["shape"])
            end = place + count * stored.itemsize
            if end > len(buffer):
                raise CriticalMassError(f"{str(path)!r} lists more weights than its files hold")
            values = np.frombuffer(buffer[place:end], stored)
            if "scale" in quantised:
                scaled = values.astype(np.float32) * quantised["scale"] + quantised.get("min", 0.0)
                values = scaled.astype(np.float32)
            elif entry["dtype"] == "float32":
                values = values.astype(np.float32)
            weights[entry["name"]] = values.reshape(entry["shape"])
            place = end
        if place != len(buffer):
            raise CriticalMassError(f"{str(path)!r} lists fewer weights than its files hold")
    return weights


def read_keras(path: Path, model: str) -> dict[str, list[NDArray[Any]]]:
    """Read the convolutions and batch normalisations of a model inside a ``.keras`` file.

    Parameters
    ----------
    path: the archive of Keras 3: ``config.json`` and ``model.weights.h5``.
    model: name of the functional model inside it, as Keras's applications are called.

    Returns
    -------
    Name of the layer -> its variables, in the order of Keras.

    Raises
    ------
    CriticalMassError: the archive holds no such model.
    MissingExtraError: h5py is not installed.
    """
    h5py = import_package("h5py", "data")
    check_zip(path)
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            content = io.BytesIO(archive.read("model.weights.h5"))
        layers = next(
            layer["config"]["layers"]
            for layer in config["config"]["layers"]
            if layer["config"].get("name") == model
        )
        weights, numbers = {}, Counter[str]()
        with h5py.File(content, "r") as file:
            stored = file["layers/functional/layers"]
            for layer in layers:
                kind = _KERAS_KINDS.get(layer["class_name"])
                if kind is None:
                    continue
                name = f"{kind}_{numbers[kind]}" if numbers[kind] else kind
                numbers[kind] += 1
                variables = stored[name]["vars"]
                weights[layer["config"]["name"]] = [
                    variables[str(index)][()] for index in range(len(variables))
                ]
    except (zipfile.BadZipFile, StopIteration, KeyError, ValueError, OSError) as error:
        raise CriticalMassError(f"{str(path)!r} holds no model {model!r} of Keras") from error
    return weights

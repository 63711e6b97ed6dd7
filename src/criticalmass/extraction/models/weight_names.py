"""Weights into a network: names of other libraries, and what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.weight_files import WeightFile

if TYPE_CHECKING:
    from torch import Tensor, nn

State = Mapping[str, "Tensor"]
_NAMED = 6
# Batch normalisation counts its batches since torch 0.4.1; the count plays no part in inference.
_COUNTER = "num_batches_tracked"


def load_into(net: nn.Module, file: WeightFile, name: str) -> None:
    """Put a file's weights into a network, every one of them.

    The names may be wrapped in prefixes, or be torchvision's (VGG) or Flax's (vision
    transformers). A classifier takes the number of classes of the file; without one in the file
    the network (of timm) has none.

    Parameters
    ----------
    net: changed in place.
    file: what to put in.
    name: of the network, for errors.

    Raises
    ------
    CriticalMassError: names or shapes that do not fit; it lists them.
    """
    state = _best_reading(net, file)
    _fit_classifier(net, state)
    wanted = net.state_dict()
    misfits = _misfits(wanted, state)
    if misfits:
        raise CriticalMassError(f"{str(file.path)!r} does not fit {name!r}: {'; '.join(misfits)}")
    # The file's tensors become the network's, without a copy, in the network's type.
    given = {key: value.to(wanted[key].dtype) for key, value in state.items()}
    net.load_state_dict({**wanted, **given}, strict=True, assign=True)
    net.requires_grad_(False)


def _best_reading(net: nn.Module, file: WeightFile) -> State:
    wanted = net.state_dict()
    renamers: Sequence[Callable[[State], State]] = (dict, rename_vgg, rename_flax)
    readings = [renamed(one) for one in file.readings() for renamed in renamers]
    return min(readings, key=lambda state: len(state.keys() ^ wanted.keys()))


def _fit_classifier(net: nn.Module, state: State) -> None:
    """Give a network of timm as many classes as the weights have."""
    reset = getattr(net, "reset_classifier", None)
    classifier: Any = net.get_classifier() if callable(reset) else None  # type: ignore[operator]
    path = next((name for name, one in net.named_modules() if one is classifier), None)
    if path is None or f"{path}.weight" not in net.state_dict():
        return
    given = state.get(f"{path}.weight")
    # A classifier that reads other than the network's neurons is the paper's, and stays.
    is_usual = getattr(classifier, "in_features", None) == getattr(net, "head_hidden_size", None)
    if not is_usual or not callable(reset):
        return
    if given is not None and given.shape[0] != classifier.out_features:
        reset(int(given.shape[0]))
    elif not any(name.startswith(f"{path}.") for name in state):
        reset(0)


def _misfits(wanted: State, given: State) -> list[str]:
    missing = [key for key in wanted if key not in given and not key.endswith(_COUNTER)]
    unknown = [key for key in given if key not in wanted]
    shapes = [
        f"{key} {tuple(given[key].shape)} for {tuple(one.shape)}"
        for key, one in wanted.items()
        if key in given and given[key].shape != one.shape
    ]
    found = (("missing", missing), ("not in the model", unknown), ("of another shape", shapes))
    return [f"{len(keys)} {what}: {_some(keys)}" for what, keys in found if keys]


def _some(keys: Sequence[str]) -> str:
    more = len(keys) - _NAMED
    return ", ".join(keys[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def rename_vgg(state: State) -> State:
    """Rename torchvision's VGG as timm names it: its linear layers are convolutions there."""
    first = state.get("classifier.0.weight")
    last_map = [one for name, one in state.items() if re.fullmatch(r"features\.\d+\.weight", name)]
    if first is None or not last_map:
        return state
    channels = last_map[-1].shape[0]
    side = round((first.shape[1] / channels) ** 0.5)
    renamed = {}
    for name, value in state.items():
        place, _, what = name.rpartition(".")
        target = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}.get(place)
        if target is not None and what == "weight":
            size = side if place == "classifier.0" else 1
            value = value.reshape(value.shape[0], -1, size, size)
        target = "head.fc" if place == "classifier.6" else target or place
        renamed[f"{target}.{what}"] = value
    return renamed


_FLAX_OUTSIDE = {
    "cls": "cls_token",
    "embedding/kernel": "patch_embed.proj.weight",
    "embedding/bias": "patch_embed.proj.bias",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "Transformer/encoder_norm/scale": "norm.weight",
    "Transformer/encoder_norm/bias": "norm.bias",
    "head/kernel": "head.weight",
    "head/bias": "head.bias",
}
_FLAX_BLOCK = {
    "LayerNorm_0/scale": "norm1.weight",
    "LayerNorm_0/bias": "norm1.bias",
    "LayerNorm_2/scale": "norm2.weight",
    "LayerNorm_2/bias": "norm2.bias",
    "MultiHeadDotProductAttention_1/out/kernel": "attn.proj.weight",
    "MultiHeadDotProductAttention_1/out/bias": "attn.proj.bias",
    "MlpBlock_3/Dense_0/kernel": "mlp.fc1.weight",
    "MlpBlock_3/Dense_0/bias": "mlp.fc1.bias",
    "MlpBlock_3/Dense_1/kernel": "mlp.fc2.weight",
    "MlpBlock_3/Dense_1/bias": "mlp.fc2.bias",
}
_FLAX_ATTENTION = "MultiHeadDotProductAttention_1/{}/{}"


def rename_flax(state: State) -> State:
    """Rename the vision transformers of Google's ``.npz`` archives (AugReg) as timm names them.

    Flax keeps kernels with the input first, and queries, keys and values apart, one matrix a head.
    """
    if "embedding/kernel" not in state:
        return state
    renamed: dict[str, Tensor] = {}
    rest = dict(state)
    for name in list(rest):
        parts = re.fullmatch(r"Transformer/encoderblock_(\d+)/(.+)", name)
        target = _FLAX_OUTSIDE.get(name) if parts is None else _FLAX_BLOCK.get(parts[2])
        if target is not None:
            place = "" if parts is None else f"blocks.{parts[1]}."
            renamed[f"{place}{target}"] = _turned(name, rest.pop(name))
    for number in range(_n_blocks(state)):
        for kind, target in (("kernel", "weight"), ("bias", "bias")):
            names = [
                f"Transformer/encoderblock_{number}/{_FLAX_ATTENTION.format(one, kind)}"
                for one in ("query", "key", "value")
            ]
            if all(name in rest for name in names):
                flat = [rest.pop(name) for name in names]
                renamed[f"blocks.{number}.attn.qkv.{target}"] = _stacked(flat, kind)
    return {**renamed, **rest}


def _n_blocks(state: Iterable[str]) -> int:
    numbers = (re.match(r"Transformer/encoderblock_(\d+)/", name) for name in state)
    return 1 + max((int(found[1]) for found in numbers if found), default=-1)


def _turned(name: str, value: Any) -> Tensor:
    if not name.endswith("/kernel"):
        turned: Tensor = value
    elif name == "embedding/kernel":
        turned = value.permute(3, 2, 0, 1)
    else:
        turned = value.reshape(-1, value.shape[-1]).T
    return turned.contiguous()


def _stacked(parts: Sequence[Any], kind: str) -> Tensor:
    import torch

    if kind == "bias":
        return torch.cat([one.flatten() for one in parts])
    return torch.cat([one.flatten(1).T for one in parts]).contiguous()

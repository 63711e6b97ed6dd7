"""Load weights into a network: translate names of other libraries, report what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.weight_files import WeightFile

if TYPE_CHECKING:
    from torch import Tensor, nn

StateDict = Mapping[str, "Tensor"]
# Most names that an error lists.
_MAX_LISTED = 6
# Batch normalisation counts its batches since torch 0.4.1; inference does not use the count.
_BATCH_COUNTER = "num_batches_tracked"


def load_into(net: nn.Module, file: WeightFile, name: str) -> None:
    """Load all weights of a file into a network.

    The names may have prefixes of wrappers, or be those of torchvision (VGG) or of Flax (vision
    transformers). The classifier gets the number of classes of the file; if the file has no
    classifier, neither does the network (of timm).

    Parameters
    ----------
    net: changed in place.
    file: the weights.
    name: name of the network, for errors.

    Raises
    ------
    CriticalMassError: names or shapes do not fit; the error lists them.
    """
    state = _best_naming(net, file)
    _fit_classifier(net, state)
    expected = net.state_dict()
    mismatches = _mismatches(expected, state)
    if mismatches:
        raise CriticalMassError(
            f"{str(file.path)!r} does not fit {name!r}: {'; '.join(mismatches)}"
        )
    # The tensors of the file become those of the network without a copy, in the network's type.
    cast = {key: value.to(expected[key].dtype) for key, value in state.items()}
    net.load_state_dict({**expected, **cast}, strict=True, assign=True)
    net.requires_grad_(False)


def _best_naming(net: nn.Module, file: WeightFile) -> StateDict:
    """Return the weights under the names that fit the network best."""
    expected = net.state_dict()
    renamers: Sequence[Callable[[StateDict], StateDict]] = (dict, rename_vgg, rename_flax)
    candidates = [rename(state) for state in file.unwrapped_states() for rename in renamers]
    return min(candidates, key=lambda state: len(state.keys() ^ expected.keys()))


def _fit_classifier(net: nn.Module, state: StateDict) -> None:
    """Give a network of timm as many classes as the weights have."""
    reset = getattr(net, "reset_classifier", None)
    classifier: Any = net.get_classifier() if callable(reset) else None  # type: ignore[operator]
    path = next((name for name, module in net.named_modules() if module is classifier), None)
    if path is None or f"{path}.weight" not in net.state_dict():
        return
    weight = state.get(f"{path}.weight")
    # A classifier with another input width than the network's representation is one of the
    # paper's networks, and stays.
    is_usual = getattr(classifier, "in_features", None) == getattr(net, "head_hidden_size", None)
    if not is_usual or not callable(reset):
        return
    if weight is not None and weight.shape[0] != classifier.out_features:
        reset(int(weight.shape[0]))
    elif not any(name.startswith(f"{path}.") for name in state):
        reset(0)


def _mismatches(expected: StateDict, state: StateDict) -> list[str]:
    missing = [key for key in expected if key not in state and not key.endswith(_BATCH_COUNTER)]
    unknown = [key for key in state if key not in expected]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    groups = (("missing", missing), ("not in the model", unknown), ("of another shape", shapes))
    return [f"{len(keys)} {problem}: {_list_keys(keys)}" for problem, keys in groups if keys]


def _list_keys(keys: Sequence[str]) -> str:
    more = len(keys) - _MAX_LISTED
    return ", ".join(keys[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def rename_vgg(state: StateDict) -> StateDict:
    """Rename the weights of torchvision's VGG as timm names them.

    The linear layers of torchvision are convolutions in timm.
    """
    first = state.get("classifier.0.weight")
    convolutions = [
        value for name, value in state.items() if re.fullmatch(r"features\.\d+\.weight", name)
    ]
    if first is None or not convolutions:
        return state
    channels = convolutions[-1].shape[0]
    side = round((first.shape[1] / channels) ** 0.5)
    renamed = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        target = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}.get(module)
        if target is not None and kind == "weight":
            size = side if module == "classifier.0" else 1
            value = value.reshape(value.shape[0], -1, size, size)
        target = "head.fc" if module == "classifier.6" else target or module
        renamed[f"{target}.{kind}"] = value
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


def rename_flax(state: StateDict) -> StateDict:
    """Rename the vision transformers of Google's ``.npz`` archives (AugReg) as timm names them.

    Flax stores kernels with the input axis first, and queries, keys and values separately, with
    one matrix per head.
    """
    if "embedding/kernel" not in state:
        return state
    renamed: dict[str, Tensor] = {}
    rest = dict(state)
    for name in list(rest):
        parts = re.fullmatch(r"Transformer/encoderblock_(\d+)/(.+)", name)
        target = _FLAX_OUTSIDE.get(name) if parts is None else _FLAX_BLOCK.get(parts[2])
        if target is not None:
            prefix = "" if parts is None else f"blocks.{parts[1]}."
            renamed[f"{prefix}{target}"] = _to_torch_layout(name, rest.pop(name))
    for number in range(_n_blocks(state)):
        for kind, target in (("kernel", "weight"), ("bias", "bias")):
            names = [
                f"Transformer/encoderblock_{number}/{_FLAX_ATTENTION.format(part, kind)}"
                for part in ("query", "key", "value")
            ]
            if all(name in rest for name in names):
                qkv = [rest.pop(name) for name in names]
                renamed[f"blocks.{number}.attn.qkv.{target}"] = _concatenate_qkv(qkv, kind)
    return {**renamed, **rest}


def _n_blocks(state: Iterable[str]) -> int:
    matches = (re.match(r"Transformer/encoderblock_(\d+)/", name) for name in state)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _to_torch_layout(name: str, value: Any) -> Tensor:
    """Put the output axis first, as torch does."""
    if not name.endswith("/kernel"):
        tensor: Tensor = value
    elif name == "embedding/kernel":
        tensor = value.permute(3, 2, 0, 1)
    else:
        tensor = value.reshape(-1, value.shape[-1]).T
    return tensor.contiguous()


def _concatenate_qkv(parts: Sequence[Any], kind: str) -> Tensor:
    import torch

    if kind == "bias":
        return torch.cat([part.flatten() for part in parts])
    return torch.cat([part.flatten(1).T for part in parts]).contiguous()

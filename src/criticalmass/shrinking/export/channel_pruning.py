"""Removal of the channels of dropped neurons from a network, if the kept neurons stay the same.

The penultimate layer of many networks is one convolution or linear module, followed by a
normalisation of each channel on its own, an activation and an average over positions. Then each
neuron is one channel of the convolution, and removing the channels of dropped neurons does not
change the kept ones. If a later module reads the channels as well (a residual sum, a layer norm),
the kept neurons would change, and an error is raised. Torch-Pruning follows the channels through
the network's graph.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.shrinking.export.backbone import STATIC_KIND, Backbone

if TYPE_CHECKING:
    from torch import Tensor, nn

# Torch-Pruning's names of operations without parameters that act on each channel alone. The
# channels of a reshape are compared at the module before it.
_CHANNEL_WISE_OPS = ("_ElementWiseOp", "_ReshapeOp")
_MAX_RUNS = 31
_MAX_SECONDS = 10.0


def cut_channels(backbone: Backbone, indices: NDArray[np.intp], n_neurons: int) -> Backbone:
    """Remove the channels of all neurons except the kept ones.

    Parameters
    ----------
    backbone: a timm network whose layer is its classifier's input, or a table of token embeddings,
        whose columns are its neurons; not changed.
    indices: (n_kept,) neurons to keep, ascending.
    n_neurons: width of the layer.

    Returns
    -------
    A backbone that returns the kept neurons, (n, n_kept).

    Raises
    ------
    CriticalMassError: if the removal would change the kept neurons.
    MissingExtraError: if torch-pruning is not installed.
    """
    if backbone.kind == STATIC_KIND:
        # The table is described by its width, so that nothing is cut when it is read.
        return dataclasses.replace(keep_channels(backbone, ["embedding"], indices), cut_modules=())
    tap = backbone.model.tap(backbone.layer)
    if backbone.kind not in ("timm", "package") or tap.side != "input" or tap.more_paths:
        raise _cut_error(backbone, "only the input of a timm network's classifier can be cut")
    paths = _producing_modules(backbone, indices, n_neurons)
    return keep_channels(backbone, paths, indices)


def keep_channels(backbone: Backbone, paths: Sequence[str], indices: NDArray[np.intp]) -> Backbone:
    """Keep only the channels ``indices`` of the modules at ``paths``, in a copy of the network.

    Raises
    ------
    CriticalMassError: if a module is no convolution, linear module, batch norm or table of
        embeddings, or lacks the channels.
    """
    old = backbone.model
    module, root = copy.deepcopy((old.module, old.root))
    for path in paths:
        _slice_module(backbone, root.get_submodule(path), path, indices)
    model = dataclasses.replace(old, module=module, root=root)
    return dataclasses.replace(backbone, model=model, cut_modules=tuple(paths))


def _producing_modules(backbone: Backbone, indices: NDArray[np.intp], n_neurons: int) -> list[str]:
    """Return the paths of the modules whose output channels are the layer's neurons, one each."""
    pruning = import_package("torch_pruning", "export")
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    root = copy.deepcopy(backbone.model.root).requires_grad_(True)
    path = backbone.model.tap(backbone.layer).path
    reader = nn.Linear(n_neurons, 1)
    root.set_submodule(path, reader)
    dropped = np.setdiff1d(np.arange(n_neurons), indices).tolist()
    if not dropped:
        return []
    with warnings.catch_warnings():
        # It warns of parameters outside of modules. The loop below raises if they matter.
        warnings.simplefilter("ignore")
        graph = pruning.DependencyGraph().build_dependency(
            root, example_inputs=_example_image(backbone)
        )
    group = graph.get_pruning_group(reader, pruning.prune_linear_in_channels, idxs=dropped)
    names = {module: name for name, module in root.named_modules()}
    paths: list[str] = []
    n_sources = 0
    for link, channels in group:
        module, is_output = link.target.module, graph.is_out_channel_pruning_fn(link.handler)
        if module is reader or type(module).__name__ in _CHANNEL_WISE_OPS:
            continue
        name = names.get(module, "a parameter outside of modules")
        is_source = isinstance(module, nn.Conv2d | nn.Linear) and getattr(module, "groups", 1) == 1
        is_separate = is_output and list(channels) == dropped
        if not (is_separate and (is_source or isinstance(module, _BatchNorm))):
            raise _cut_error(backbone, f"{name!r} reads or mixes its channels as well")
        n_sources += is_source
        paths.append(name)
    if n_sources != 1:
        raise _cut_error(backbone, f"its channels come from {n_sources} modules, not from one")
    return list(dict.fromkeys(paths))


def _slice_module(
    backbone: Backbone, module: nn.Module, path: str, indices: NDArray[np.intp]
) -> None:
    """Keep some output channels of a module, in place."""
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    widths = {
        nn.Conv2d: "out_channels",
        nn.Linear: "out_features",
        _BatchNorm: "num_features",
        nn.Embedding: "embedding_dim",
    }
    width = next((name for kind, name in widths.items() if isinstance(module, kind)), None)
    if width is None or int(indices.max()) >= getattr(module, width):
        raise _cut_error(backbone, f"{path!r} has no such output channels")
    channels = torch.from_numpy(indices.astype(np.int64))
    for name, weight in list(module.named_parameters(recurse=False)):
        axis = 1 if isinstance(module, nn.Embedding) else 0
        part = weight.index_select(axis, channels)
        setattr(module, name, nn.Parameter(part, requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.ndim == 1:
            setattr(module, name, buffer[channels].clone())
    setattr(module, width, int(indices.size))


def measure_savings(
    before: Backbone, after: Backbone, n_kept: int, n_present: int
) -> dict[str, Any]:
    """Compare two networks, each with a linear head on its output.

    Parameters
    ----------
    before, after: the whole network and the one with fewer channels.
    n_kept: number of neurons that the second returns.
    n_present: rows of the head; 0 without a head.

    Returns
    -------
    JSON-able: number of parameters, multiply-adds of one image, and milliseconds of one image on
    this machine (median and fastest of interleaved runs), each before and after; of a table of
    token embeddings the number of parameters alone.
    """
    import torch

    if before.kind == STATIC_KIND:
        tables = [backbone.model.root.embedding.weight for backbone in (before, after)]
        sizes = [table.numel() + n_present * (table.shape[1] + 1) for table in tables]
        return {"n_kept": n_kept, "parameters_before": sizes[0], "parameters_after": sizes[1]}

    counter = import_package("torch_pruning", "export").utils
    example = _example_image(before)
    nets = [copy.deepcopy(backbone.model.root).eval() for backbone in (before, after)]
    with torch.inference_mode():
        widths = [int(net(example).shape[1]) for net in nets]
        seconds = _time_runs(nets, example)
    savings: dict[str, Any] = {"n_kept": n_kept, "pixels": int(example.shape[-1])}
    for when, net, width, runs in zip(("before", "after"), nets, widths, seconds, strict=True):
        macs, parameters = counter.count_ops_and_params(net, example)
        savings |= {
            f"parameters_{when}": int(parameters) + n_present * (width + 1),
            f"multiply_adds_{when}": int(macs) + n_present * width,
            f"milliseconds_{when}": round(statistics.median(runs) * 1e3, 3),
            f"milliseconds_fastest_{when}": round(min(runs) * 1e3, 3),
        }
    return {**savings, "runs": len(seconds[0]), "threads": int(torch.get_num_threads())}


def _time_runs(nets: Sequence[nn.Module], example: Tensor) -> list[list[float]]:
    """Run one image in each network in turn; -> seconds per run of each network."""
    seconds: list[list[float]] = [[] for _ in nets]
    for net in nets:
        net(example)
    begin = time.perf_counter()
    while len(seconds[-1]) < _MAX_RUNS and time.perf_counter() - begin < _MAX_SECONDS:
        for net, runs in zip(nets, seconds, strict=True):
            start = time.perf_counter()
            net(example)
            runs.append(time.perf_counter() - start)
    return seconds


def _example_image(backbone: Backbone) -> Tensor:
    """Return one scaled image for the network, (1, 3, height, width) zeros."""
    import torch

    preprocess = backbone.model.preprocess
    assert isinstance(preprocess, ImagePreprocess)
    return torch.zeros(1, 3, preprocess.pixels, preprocess.pixels)


def _cut_error(backbone: Backbone, reason: str) -> CriticalMassError:
    return CriticalMassError(
        f"removing channels of layer {backbone.layer!r} of {backbone.model.name!r} would change "
        f"the kept neurons or is not possible: {reason}; export without cut"
    )

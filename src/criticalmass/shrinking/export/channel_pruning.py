"""Taking the channels that nobody reads out of a network, where that changes nothing else.

The penultimate layer of many networks is one convolution or linear module, then normalisation of
each channel on its own, an activation and an average over positions. There a neuron is a channel
from the convolution on, and cutting those that are not kept leaves the kept ones as they were.
Where a later module reads the channels too (a residual sum, a layer norm), it does not, and the
cut is refused. Torch-Pruning follows the channels through the network's graph.
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
from criticalmass.shrinking.export.backbone import Backbone

if TYPE_CHECKING:
    from torch import Tensor, nn

# Torch-Pruning's names of operations without parameters that act on each channel alone; of a
# reshaping, the places of what stands before it are compared.
_HARMLESS = ("_ElementWiseOp", "_ReshapeOp")
_RUNS = 31
_SECONDS = 10.0


def cut_channels(backbone: Backbone, indices: NDArray[np.intp], n_neurons: int) -> Backbone:
    """Cut the channels of all neurons but the kept ones.

    Parameters
    ----------
    backbone: of timm, read at its classifier's input; stays as it is.
    indices: (n_kept,) neurons to keep, ascending.
    n_neurons: width of the layer.

    Returns
    -------
    A backbone that gives (n, n_kept), the kept neurons.

    Raises
    ------
    CriticalMassError: the layer is made in a way in which a cut changes the kept neurons.
    MissingExtraError: torch-pruning is not installed.
    """
    tap = backbone.model.tap(backbone.layer)
    if backbone.kind != "timm" or tap.side != "input":
        raise _refusal(backbone, "only the input of a timm network's classifier can be cut")
    producers = _producers(backbone, indices, n_neurons)
    return cut_at(backbone, producers, indices)


def cut_at(backbone: Backbone, sites: Sequence[str], indices: NDArray[np.intp]) -> Backbone:
    """Keep the channels ``indices`` of named modules, in a copy of the network.

    Raises
    ------
    CriticalMassError: a module that is not there or has no such channels.
    """
    old = backbone.model
    module, root = copy.deepcopy((old.module, old.root))
    for path in sites:
        _keep(backbone, root.get_submodule(path), path, indices)
    model = dataclasses.replace(old, module=module, root=root)
    return dataclasses.replace(backbone, model=model, cut=tuple(sites))


def _producers(backbone: Backbone, indices: NDArray[np.intp], n_neurons: int) -> list[str]:
    """Name the modules whose output channels are the layer's neurons, one by one."""
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
        # It tells of parameters outside of modules, which are refused below where they matter.
        warnings.simplefilter("ignore")
        graph = pruning.DependencyGraph().build_dependency(root, example_inputs=_example(backbone))
    group = graph.get_pruning_group(reader, pruning.prune_linear_in_channels, idxs=dropped)
    names = {module: name for name, module in root.named_modules()}
    found: list[str] = []
    sources = 0
    for link, places in group:
        module, is_output = link.target.module, graph.is_out_channel_pruning_fn(link.handler)
        if module is reader or type(module).__name__ in _HARMLESS:
            continue
        name = names.get(module, "a parameter outside of modules")
        source = isinstance(module, nn.Conv2d | nn.Linear) and getattr(module, "groups", 1) == 1
        alone = is_output and list(places) == dropped
        if not (alone and (source or isinstance(module, _BatchNorm))):
            raise _refusal(backbone, f"{name!r} reads or mixes its channels as well")
        sources += source
        found.append(name)
    if sources != 1:
        raise _refusal(backbone, f"its channels come from {sources} modules, not from one")
    return list(dict.fromkeys(found))


def _keep(backbone: Backbone, module: nn.Module, path: str, indices: NDArray[np.intp]) -> None:
    """Keep some output channels of a module, in place."""
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    widths = {nn.Conv2d: "out_channels", nn.Linear: "out_features", _BatchNorm: "num_features"}
    width = next((name for kind, name in widths.items() if isinstance(module, kind)), None)
    if width is None or int(indices.max()) >= getattr(module, width):
        raise _refusal(backbone, f"{path!r} has no such output channels")
    kept = torch.from_numpy(indices.astype(np.int64))
    for name, weight in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(weight[kept].clone(), requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.ndim == 1:
            setattr(module, name, buffer[kept].clone())
    setattr(module, width, int(indices.size))


def savings(whole: Backbone, cut: Backbone, n_kept: int, n_present: int) -> dict[str, Any]:
    """Compare a network before and after, each with a linear head on what it gives.

    Parameters
    ----------
    whole, cut: the backbones.
    n_kept: neurons that the second gives.
    n_present: rows of the head; 0 without.

    Returns
    -------
    parameters and multiply-adds of one image, and milliseconds of one image on this machine
    (median and fastest of interleaved runs), each before and after; JSON-able.
    """
    import torch

    counter = import_package("torch_pruning", "export").utils
    example = _example(whole)
    nets = [copy.deepcopy(one.model.root).eval() for one in (whole, cut)]
    with torch.inference_mode():
        widths = [int(net(example).shape[1]) for net in nets]
        times = _times(nets, example)
    rows: dict[str, Any] = {"n_kept": n_kept, "pixels": int(example.shape[-1])}
    for when, net, width, spent in zip(("before", "after"), nets, widths, times, strict=True):
        macs, parameters = counter.count_ops_and_params(net, example)
        rows |= {
            f"parameters_{when}": int(parameters) + n_present * (width + 1),
            f"multiply_adds_{when}": int(macs) + n_present * width,
            f"milliseconds_{when}": round(statistics.median(spent) * 1e3, 3),
            f"milliseconds_fastest_{when}": round(min(spent) * 1e3, 3),
        }
    return {**rows, "runs": len(times[0]), "threads": int(torch.get_num_threads())}


def _times(nets: Sequence[nn.Module], example: Tensor) -> list[list[float]]:
    """Time one image in turn in each network: seconds per run."""
    spent: list[list[float]] = [[] for _ in nets]
    for net in nets:
        net(example)
    begin = time.perf_counter()
    while len(spent[-1]) < _RUNS and time.perf_counter() - begin < _SECONDS:
        for net, mine in zip(nets, spent, strict=True):
            start = time.perf_counter()
            net(example)
            mine.append(time.perf_counter() - start)
    return spent


def _example(backbone: Backbone) -> Tensor:
    """Return one scaled image as the network itself takes it."""
    import torch

    preprocess = backbone.model.preprocess
    assert isinstance(preprocess, ImagePreprocess)
    return torch.zeros(1, 3, preprocess.pixels, preprocess.pixels)


def _refusal(backbone: Backbone, why: str) -> CriticalMassError:
    return CriticalMassError(
        f"cutting channels for {backbone.layer!r} of {backbone.model.name!r} would change the kept "
        f"neurons or is not possible: {why}; export without cut"
    )

"""One training on several devices, with a process for each. This module imports torch.

Every process draws the same numbers, sends its part of each batch through the network, and gathers
the features of all parts, so that the losses see the whole batch. Batch normalisation has the mean
and the variance of the whole batch as well, and gradients are averaged. The weights are therefore
those of a training on one device, up to the order in which numbers are added. Only what a network
itself draws, such as the blocks that stochastic depth leaves out, is drawn for each part apart.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import (
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)
from torch.overrides import TorchFunctionMode

from criticalmass.core.optional import import_package
from criticalmass.core.progress import quiet, shows_progress
from criticalmass.errors import CriticalMassError

if TYPE_CHECKING:
    from accelerate import PartialState


@dataclass(frozen=True)
class DeviceGroup:
    """The processes of a training, seen by one of them.

    Attributes
    ----------
    state: rank of this process, number of processes, and device, by accelerate.
    """

    state: PartialState

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return bool(self.state.is_main_process)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return torch.device(self.state.device)

    def part(self, images: Tensor) -> Tensor:
        """Return the rows of a batch that this process computes; there may be none."""
        begin, end = self._bounds(len(images))
        return images[begin:end]

    def gather(self, part: Tensor, count: int) -> Tensor:
        """Return all ``count`` rows of a batch from the parts of all processes."""
        begin, end = self._bounds(count)
        return _sum(F.pad(part, (0, 0, begin, count - end)))

    def _bounds(self, count: int) -> tuple[int, int]:
        rank, size = self.state.process_index, self.state.num_processes
        return count * rank // size, count * (rank + 1) // size

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their mean over the processes.

        All processes have the same loss, and each the gradient by way of its own part, times the
        number of processes.
        """
        from accelerate.utils import reduce

        gradients = [one.grad for one in parameters if one.grad is not None]
        means = reduce(torch.cat([one.flatten() for one in gradients]), "mean")
        sizes = [one.numel() for one in gradients]
        for gradient, mean in zip(gradients, means.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def share(self, value: Any) -> Any:
        """Return the value that the first process gives."""
        from accelerate.utils import broadcast_object_list

        [shared] = broadcast_object_list([value])
        return shared


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(_, gradient)


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


class SharedStatistics(TorchFunctionMode):
    """While it is active, batch normalisation has the statistics of all parts of the batch.

    torch's SyncBatchNorm does so for CUDA only, and must replace each kind of layer.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute batch normalisation, and leave all else to torch."""
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    values: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise (n, channels, ...) values by the moments of all processes; as ``F.batch_norm``."""
    if not training:
        return F.batch_norm(values, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = [dim for dim in range(values.ndim) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(values.ndim)]
    x = values.float()
    here = x.new_tensor([x.numel() / x.shape[1]])
    total = _sum(torch.cat([x.sum(dims), here]))
    mean, count = total[:-1] / total[-1], total[-1].detach()
    centred = x - mean.view(shape)
    variance = _sum(centred.square().sum(dims)) / count
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.detach(), momentum)
        running_var.lerp_(variance.detach() * count / (count - 1), momentum)
    scale = (variance + eps).rsqrt() if weight is None else (variance + eps).rsqrt() * weight
    result = centred * scale.view(shape)
    return (result if bias is None else result + bias.view(shape)).to(values.dtype)


def run_on_devices(count: int, kind: str, work: Callable[..., None], *arguments: Any) -> None:
    """Call ``work(group, *arguments)`` in as many processes as devices.

    Parameters
    ----------
    count: number of devices.
    kind: ``"cpu"`` or ``"cuda"``.
    work: a function of a module.
    arguments: of the function.

    Raises
    ------
    CriticalMassError: that of a process; there are not so many devices; accelerate is missing; or
        a process was killed.
    """
    import_package("accelerate", "train")
    if kind != "cpu" and count > torch.cuda.device_count():
        raise CriticalMassError(
            f"devices={count}: this machine has {torch.cuda.device_count()}; use at most so many"
        )
    errors = get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="criticalmass-") as folder:
        place = (kind, count, f"file://{Path(folder).resolve() / 'meeting'}")
        job = (place, shows_progress(), errors, work, arguments)
        # It says of each process that it is ended after the error of another.
        logger = logging.getLogger("torch.multiprocessing.spawn")
        before = logger.level
        try:
            logger.setLevel(logging.ERROR)
            start_processes(_work, (job,), nprocs=count)  # type: ignore[no-untyped-call]
        except ProcessRaisedException as error:
            if errors.empty():
                raise
            raise errors.get() from error
        except ProcessExitedException as error:
            raise CriticalMassError(
                f"a process of the training was killed ({error}), probably for lack of memory; run "
                "the same command again"
            ) from error
        finally:
            logger.setLevel(before)


def _work(rank: int, job: tuple[Any, ...]) -> None:
    """Join the other processes and do the work; put its error where the first process reads it."""
    (kind, count, meeting), shows, errors, work, arguments = job
    for prefix in ("", "LOCAL_"):
        os.environ |= {f"{prefix}RANK": str(rank), f"{prefix}WORLD_SIZE": str(count)}
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    from accelerate import PartialState

    state = PartialState(cpu=kind == "cpu", init_method=meeting, rank=rank, world_size=count)
    with quiet(rank > 0 or not shows):
        try:
            work(DeviceGroup(state), *arguments)
        except CriticalMassError as error:
            errors.put(error)
            raise
    torch.distributed.destroy_process_group()

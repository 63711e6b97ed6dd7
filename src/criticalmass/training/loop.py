"""The loop over epochs and steps. This module imports torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.extraction.models.pixel_order import pixel_order
from criticalmass.training.data import N_ROTATIONS, TrainingData, augment, turn
from criticalmass.training.devices import DeviceGroup, SharedStatistics
from criticalmass.training.evaluation import VALUE_RANGE, NetworkReader, evaluate
from criticalmass.training.objectives import count_views
from criticalmass.training.recipe import Recipe
from criticalmass.training.start import Start
from criticalmass.training.terms import Objectives, TermContext


class TrainingError(CriticalMassError):
    """A training that cannot go on."""


@dataclass(frozen=True)
class Batch:
    """The images of one step.

    Attributes
    ----------
    images: (n_views * n, 3, pixels, pixels) in 0..1; the first views come first.
    labels: (n_views * n,) class numbers.
    """

    images: Tensor
    labels: Tensor


class Trainer:
    """Trains one network by one recipe.

    All that is drawn depends on the training seed and the number of the epoch only, so a training
    that is resumed after any epoch ends with the same weights.

    Parameters
    ----------
    recipe: the recipe.
    start: the network before its training.
    data: the images.
    device: where it is trained.
    group: the processes that train it together; None for one.

    Attributes
    ----------
    rows: the log, one row per finished epoch, from epoch 0.
    epoch: number of finished epochs.
    """

    def __init__(
        self,
        recipe: Recipe,
        start: Start,
        data: TrainingData,
        device: torch.device,
        group: DeviceGroup | None = None,
    ) -> None:
        self.recipe = recipe
        self.start = start
        self.data = data
        self.device = device
        self.group = group
        self.network = start.network.to(device)
        self._order = pixel_order(self.network)
        for weight in self.network.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=self._order)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed + 1)
            context = TermContext(self.network, len(data.class_names))
            self.objectives = Objectives(recipe.objectives, context).to(device)
        self.rows: list[dict[str, Any]] = []
        self.epoch = 0
        self.n_views = count_views([entry.name for entry in recipe.objectives])
        preprocess = start.preprocess
        mean = torch.tensor(preprocess.mean or (0.0,), device=device).view(1, -1, 1, 1)
        std = torch.tensor(preprocess.std or (1.0,), device=device).view(1, -1, 1, 1)
        self.reader = NetworkReader(self.network, mean, std)
        self._optimizer, self._schedule = self._make_optimizer()

    def _make_optimizer(self) -> tuple[Any, Any]:
        optimizers = import_after_torchvision("timm.optim", "torch")
        schedulers = import_after_torchvision("timm.scheduler", "torch")
        keys = self.recipe.optimizer
        trained = nn.ModuleList([self.network, self.objectives])
        # timm's sgd is Nesterov's, which needs momentum.
        others = {"nesterov": False} if keys.name == "sgd" and not keys.momentum else {}
        try:
            optimizer = optimizers.create_optimizer_v2(
                trained,
                opt=keys.name,
                lr=keys.lr,
                weight_decay=keys.weight_decay,
                momentum=keys.momentum,
                **others,
            )
        except (ValueError, RuntimeError, TypeError, AssertionError) as error:
            reason = str(error).splitlines()[0][:160]
            raise CriticalMassError(
                f"optimizer {keys.name!r} cannot be made ({reason}); use e.g. sgd or adamw"
            ) from error
        if getattr(optimizer, "is_second_order", False):
            raise CriticalMassError(
                f"optimizer {keys.name!r} needs second derivatives; use e.g. sgd or adamw"
            )
        if self.n_steps < 2 or (keys.schedule == "constant" and not keys.warmup):
            return optimizer, None
        schedule = schedulers.CosineLRScheduler(
            optimizer,
            t_initial=max(1, self.n_steps),
            lr_min=keys.lr if keys.schedule == "constant" else 0.0,
            warmup_t=round(keys.warmup * self.steps_per_epoch),
            warmup_lr_init=0.0,
            t_in_epochs=False,
        )
        schedule.step_update(0)
        return optimizer, schedule

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of an epoch; a single left-over image is left out."""
        n, size = len(self.data.train), self.recipe.optimizer.batch
        return max(1, n // size + (n % size > 1))

    @property
    def n_steps(self) -> int:
        """Number of steps of the training."""
        return self.recipe.epochs * self.steps_per_epoch

    def run_epoch(self, advance: Any) -> dict[str, Any]:
        """Train one epoch and return its row of the log.

        Parameters
        ----------
        advance: called after each step.

        Raises
        ------
        TrainingError: a loss is not finite.
        """
        began = time.perf_counter()
        epoch = self.epoch
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.data.train), generator=generator)
        sums: dict[str, float] = {}
        n_right = n_seen = 0
        with torch.random.fork_rng(devices=[]):
            # What layers of the network draw, e.g. stochastic depth.
            torch.manual_seed(self.recipe.seed * 1_000_003 + epoch)
            for step in range(self.steps_per_epoch):
                size = self.recipe.optimizer.batch
                rows = order[step * size : (step + 1) * size]
                batch = self._batch(rows, generator)
                values, right = self._step(batch, generator, epoch * self.steps_per_epoch + step)
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value * len(rows)
                n_right += right
                n_seen += len(rows)
                advance()
        self._check_weights()
        self.epoch += 1
        means = {f"loss_{name}": value / n_seen for name, value in sums.items()}
        return {
            "epoch": self.epoch,
            "step": self.epoch * self.steps_per_epoch,
            "lr": float(self._optimizer.param_groups[0]["lr"]),
            "loss": sum(means.values()),
            **means,
            "train_accuracy": n_right / (n_seen * self.n_views) if self._has_head else float("nan"),
            "seconds": time.perf_counter() - began,
        }

    @property
    def _has_head(self) -> bool:
        return self.network.get_classifier() is not None

    def _batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        part = self.data.train
        images = part.images[rows].to(self.device, torch.float32) / VALUE_RANGE
        labels = part.labels[rows].to(self.device)
        if part.rotates:
            turns = torch.randint(0, N_ROTATIONS, (len(rows),), generator=generator)
            images, labels = turn(images, labels, turns.to(self.device))
        how = self.recipe.data.augment
        if self.n_views > 1 and how == "none":
            how = "views"
        views = [augment(images, how, generator) for _ in range(self.n_views)]
        stacked = torch.cat(views).contiguous(memory_format=self._order)
        return Batch(stacked, labels.repeat(self.n_views))

    def _losses(
        self, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the value of each term, and the features."""
        is_short = self.recipe.optimizer.precision == "bf16"
        group = self.group
        own = images if group is None else group.part(images)
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=is_short),
            nullcontext() if group is None else SharedStatistics(),
        ):
            features = self.network.features(self.reader.scale(own))
        features = features.float()
        if group is not None:
            features = group.gather(features, len(images))
        values = self.objectives.values(self.network, features, labels, self.n_views, generator)
        return values, features

    def _step(
        self, batch: Batch, generator: torch.Generator, step: int
    ) -> tuple[dict[str, float], int]:
        """Make one step; return the value of each term, and how many images were right."""
        self._set_mode(training=False)
        images = self.objectives.perturb(
            batch.images,
            lambda moved: torch.stack(
                list(self._losses(moved, batch.labels, generator)[0].values())
            ).sum(),
            generator,
        )
        self._set_mode(training=True)
        values, features = self._losses(images, batch.labels, generator)
        total = torch.stack(list(values.values())).sum()
        if not bool(torch.isfinite(total)):
            terms = ", ".join(f"{name} {float(value.detach()):g}" for name, value in values.items())
            raise self._not_finite(f"the loss ({terms})", step + 1)
        right = 0
        if self._has_head:
            with torch.no_grad():
                logits = self.network.head(features)
            right = int((logits.argmax(dim=1) == batch.labels).sum())
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        parameters = [*self.network.parameters(), *self.objectives.parameters()]
        if self.group is not None:
            self.group.average_gradients(parameters)
        if self.recipe.optimizer.clip:
            nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.clip)
        self._optimizer.step()
        if self._schedule is not None:
            self._schedule.step_update(step + 1)
        self.objectives.after_step()
        return {name: float(value.detach()) for name, value in values.items()}, right

    def _set_mode(self, *, training: bool) -> None:
        self.network.train(training)
        self.objectives.train(training)
        if self.start.frozen_body:
            self.network.eval()

    def _check_weights(self) -> None:
        """Check the weights after an epoch: the last step may have broken them."""
        for name, value in self.network.state_dict().items():
            if not bool(torch.isfinite(value).all()):
                raise self._not_finite(f"weight {name}", (self.epoch + 1) * self.steps_per_epoch)

    def _not_finite(self, what: str, step: int) -> TrainingError:
        return TrainingError(
            f"recipe {self.recipe.name!r} (seed {self.recipe.seed}): {what} is not finite at step "
            f"{step:,}, in epoch {-(-step // self.steps_per_epoch)}; use a smaller lr than "
            f"{self.recipe.optimizer.lr:g}, or optimizer: {{clip: 1.0}}"
        )

    def validate(self) -> float:
        """Return the accuracy of the classifier on the validation images; NaN without either."""
        if self.data.validation is None or not self._has_head:
            return float("nan")
        return self.reader.accuracy(self.data.validation)

    def measure(self) -> dict[str, float]:
        """Return what the log says of a checkpoint; see `evaluation.evaluate`.

        Raises
        ------
        TrainingError: an activation is not finite.
        """
        try:
            return evaluate(self.reader, self.data)
        except FloatingPointError as error:
            step = self.epoch * self.steps_per_epoch
            raise self._not_finite(str(error), step) from error

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on after this epoch."""
        return {
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "objectives": self.objectives.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "rows": self.rows,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.network.load_state_dict(state["network"])
        self.objectives.load_state_dict(state["objectives"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epoch = int(state["epoch"])
        self.rows = list(state["rows"])
        if self._schedule is not None:
            self._schedule.step_update(self.epoch * self.steps_per_epoch)

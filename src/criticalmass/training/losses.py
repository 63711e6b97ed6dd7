"""Losses and penalties: from the activations of a batch to a number. This module imports torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.training.terms import Outputs, Readout, Term, TermContext


class _ClassifierLoss(Term, ABC):
    """A loss of logits, averaged over the classifiers."""

    def loss(self, outputs: Outputs) -> Tensor:
        """Return weight times the mean over classifiers."""
        losses = [self._of_readout(one, outputs.labels) for one in outputs.readouts]
        return float(self.options["weight"]) * torch.stack(losses).mean()

    @abstractmethod
    def _of_readout(self, readout: Readout, labels: Tensor) -> Tensor:
        """Return the loss of one classifier."""


class CrossEntropy(_ClassifierLoss):
    """Softmax cross-entropy with label smoothing (Szegedy et al. 2016)."""

    def _of_readout(self, readout: Readout, labels: Tensor) -> Tensor:
        smoothing = float(self.options["smoothing"])
        return F.cross_entropy(readout.logits, labels, label_smoothing=smoothing)


class Sigmoid(_ClassifierLoss):
    """The sum over classes of the logistic loss of "this class or not"."""

    def _of_readout(self, readout: Readout, labels: Tensor) -> Tensor:
        logits = readout.logits
        target = F.one_hot(labels, logits.shape[1]).to(logits)
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return losses.sum(dim=1).mean()


class SquaredError(_ClassifierLoss):
    """Mean over classes of the squared distance from one-hot targets (Hui and Belkin 2021)."""

    def _of_readout(self, readout: Readout, labels: Tensor) -> Tensor:
        logits = readout.logits
        hot = F.one_hot(labels, logits.shape[1]).to(logits)
        errors = (logits - float(self.options["scale"]) * hot).square()
        return ((1 + (float(self.options["kappa"]) - 1) * hot) * errors).mean()


class Cosine(_ClassifierLoss):
    """Cross-entropy of cosines over a temperature (Kornblith et al. 2021, "cosine softmax").

    The rows of the classifier are held at length 1 and its bias at 0, so that the largest logit
    of the plain classifier is the largest cosine.
    """

    def __init__(self, options: Mapping[str, Any], context: TermContext) -> None:
        super().__init__(options, context)
        # Hidden in a tuple, so that the network is not registered a second time.
        self._network = (context.network,)
        self.after_step()

    def _of_readout(self, readout: Readout, labels: Tensor) -> Tensor:
        cosines = F.normalize(readout.features, dim=1) @ F.normalize(readout.weight, dim=1).T
        return F.cross_entropy(cosines / float(self.options["temperature"]), labels)

    def after_step(self) -> None:
        """Scale the rows to length 1; the loss does not depend on their length."""
        head = self._network[0].linear_head()
        with torch.no_grad():
            head.weight.copy_(F.normalize(head.weight, dim=1))
            head.bias.zero_()


class _ViewLoss(Term, ABC):
    """A loss of two views of each image, on a projection that is not part of the network."""

    def __init__(self, options: Mapping[str, Any], context: TermContext) -> None:
        super().__init__(options, context)
        width = int(options["projection"])
        self.projector = nn.Sequential(
            nn.Linear(context.n_neurons, context.n_neurons, bias=False),
            nn.BatchNorm1d(context.n_neurons),
            nn.ReLU(),
            nn.Linear(context.n_neurons, width),
        )

    def loss(self, outputs: Outputs) -> Tensor:
        """Return weight times the loss of the projected views."""
        projected = self.projector(outputs.wrapped.float()).float()
        return float(self.options["weight"]) * self._of_views(projected, outputs)

    @abstractmethod
    def _of_views(self, projected: Tensor, outputs: Outputs) -> Tensor:
        """Return the loss of the projections, those of the first views first."""


def _metric_losses() -> Any:
    return import_after_torchvision("pytorch_metric_learning.losses", "train")


class SupCon(_ViewLoss):
    """Pulls the views of one class together (Khosla et al. 2020, L_out)."""

    def _of_views(self, projected: Tensor, outputs: Outputs) -> Tensor:
        loss = _metric_losses().SupConLoss(temperature=float(self.options["temperature"]))
        value: Tensor = loss(projected, outputs.labels)
        return value


class SimClr(_ViewLoss):
    """Pulls the two views of an image together (NT-Xent, Chen et al. 2020, equation 1)."""

    def _of_views(self, projected: Tensor, outputs: Outputs) -> Tensor:
        losses = _metric_losses()
        loss = losses.NTXentLoss(temperature=float(self.options["temperature"]))
        images = torch.arange(len(projected) // outputs.n_views, device=projected.device)
        value: Tensor = loss(projected, images.repeat(outputs.n_views))
        return value


class VicReg(_ViewLoss):
    """Variance, invariance, covariance (Bardes et al. 2022), as in the authors' code.

    In it the invariance is a mean over the dimensions too, and the two variance terms are halved;
    the weights 25, 25 and 1 belong to this form of equation 6.
    """

    def _of_views(self, projected: Tensor, outputs: Outputs) -> Tensor:
        first, second = projected.chunk(2)
        loss = _metric_losses().VICRegLoss(
            invariance_lambda=float(self.options["invariance"]),
            variance_mu=float(self.options["variance"]),
            covariance_v=float(self.options["covariance"]),
        )
        value: Tensor = loss(first, ref_emb=second)
        return value


class DeCov(Term):
    """The off-diagonal energy of the batch's covariances over their diagonal energy.

    Cogswell et al. (2016) penalise half of the sum of squared covariances. Their effect depends on
    the scale of the activations; here it is divided by the sum of squared variances.
    """

    def loss(self, outputs: Outputs) -> Tensor:
        """Return weight times the ratio; the mean square of correlations times d if asked for."""
        centred = outputs.features.float() - outputs.features.float().mean(dim=0)
        if self.options["correlations"]:
            centred = centred / (centred.square().mean(dim=0) + 1e-5).sqrt()
        covariance = centred.T @ centred / len(centred)
        diagonal = covariance.diagonal().square().sum()
        ratio = (covariance.square().sum() - diagonal) / diagonal.clamp_min(1e-12)
        return float(self.options["weight"]) * 0.5 * ratio

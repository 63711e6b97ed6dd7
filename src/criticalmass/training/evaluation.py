"""What the log says of a checkpoint: accuracies, live neurons, spectrum.

This module imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from criticalmass.core.moments import moments
from criticalmass.extraction.models.small_networks import TrainableNetwork
from criticalmass.measures.probes.closed_form import ridge
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.measures.protocol import validation_rows
from criticalmass.theory.spectrum import correlation, participation_ratio
from criticalmass.training.data import N_ROTATIONS, LabelledImages, TrainingData, turn

VALUE_RANGE = 255.0
"""Largest value of a pixel."""
_ROWS = 100
_TURN_SEED = 0
# Images on which the training error and the ridge probe are computed; enough for a tenth of a
# point.
_MOST_IMAGES = 10_000


@dataclass(frozen=True, eq=False)
class NetworkReader:
    """Reads the features of a network in evaluation mode.

    Attributes
    ----------
    network: the network.
    mean, std: (1, channels, 1, 1), of pixels in 0..1.
    """

    network: TrainableNetwork
    mean: Tensor
    std: Tensor

    def scale(self, images: Tensor) -> Tensor:
        """Return the network's input of (n, 3, pixels, pixels) images in 0..1."""
        return (images - self.mean) / self.std

    @torch.no_grad()
    def features(self, part: LabelledImages) -> tuple[Tensor, Tensor]:
        """Return the (n, n_neurons) features and the (n,) labels of images."""
        self.network.eval()
        device = self.mean.device
        features, labels = [], []
        # Drawn: the labels of some datasets have a period that a pattern would meet.
        generator = torch.Generator().manual_seed(_TURN_SEED)
        turns = torch.randint(0, N_ROTATIONS, (len(part),), generator=generator).to(device)
        for begin in range(0, len(part), _ROWS):
            images = part.images[begin : begin + _ROWS].to(device, torch.float32) / VALUE_RANGE
            given = part.labels[begin : begin + _ROWS].to(device)
            if part.rotates:
                images, given = turn(images, given, turns[begin : begin + _ROWS])
            images = images.contiguous(memory_format=torch.channels_last)
            features.append(self.network.features(self.scale(images)).float())
            labels.append(given)
        return torch.cat(features), torch.cat(labels)

    @torch.no_grad()
    def accuracy(self, part: LabelledImages) -> float:
        """Return the share of images whose largest logit is that of their class."""
        features, labels = self.features(part)
        right = self.network.linear_head()(features).argmax(dim=1) == labels
        return float(right.float().mean())


@torch.no_grad()
def evaluate(reader: NetworkReader, data: TrainingData) -> dict[str, float]:
    """Evaluate a checkpoint.

    Returns
    -------
    ``train_error`` of the classifier on (up to 10,000) training images as they are,
    ``test_accuracy`` of the classifier, ``probe_accuracy``: of a ridge probe on the features for
    the classes of the dataset, whatever labels the recipe gave them; ``live_share``: share of the
    neurons whose test activations differ; ``participation_ratio`` and
    ``participation_ratio_standardised`` of the test features. NaN where there is no classifier.

    Raises
    ------
    FloatingPointError: an activation is not finite.
    """
    train = data.train
    few = LabelledImages(
        train.images[:_MOST_IMAGES],
        train.labels[:_MOST_IMAGES],
        train.given[:_MOST_IMAGES],
        train.rotates,
    )
    train_x, train_y = reader.features(few)
    test_x, test_y = reader.features(data.test)
    errors = {"train_error": float("nan"), "test_accuracy": float("nan")}
    head = reader.network.get_classifier()
    if head is not None:
        errors = {
            "train_error": 1 - float((head(train_x).argmax(dim=1) == train_y).float().mean()),
            "test_accuracy": float((head(test_x).argmax(dim=1) == test_y).float().mean()),
        }
    if train.rotates:
        train_x, test_x = (
            reader.features(replace(one, rotates=False))[0] for one in (few, data.test)
        )
    if not bool(torch.isfinite(train_x).all() and torch.isfinite(test_x).all()):
        raise FloatingPointError("an activation of the network in evaluation mode")
    x = test_x.cpu().numpy()
    live = x.std(axis=0) > 0
    row = {
        **errors,
        "probe_accuracy": _probe_accuracy(
            train_x.cpu().numpy(), few.given.numpy(), x, data.test.given.numpy()
        ),
        "live_share": float(live.mean()),
    }
    return {**row, **_spectrum(x[:, live])}


def _probe_accuracy(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray
) -> float:
    classes, labels = np.unique(train_y, return_inverse=True)
    chosen = validation_rows(labels)
    if len(classes) < 2 or not chosen.any():
        # One class, or one sample of each: nothing to choose a penalty on.
        return float("nan")
    task = ProbeTask(
        train_x,
        labels.astype(np.int64),
        test_x,
        len(classes),
        np.arange(train_x.shape[1])[None],
        (train_x.shape[1],),
        chosen,
    )
    predicted = classes[np.asarray(ridge(task).predictions).reshape(-1)]
    return float((predicted == test_y).mean())


def _spectrum(x: np.ndarray) -> dict[str, float]:
    if x.shape[1] == 0:
        return {
            "participation_ratio": float("nan"),
            "participation_ratio_standardised": float("nan"),
        }
    second = moments(x).scatter / len(x)
    return {
        "participation_ratio": participation_ratio(second),
        "participation_ratio_standardised": participation_ratio(correlation(second)),
    }

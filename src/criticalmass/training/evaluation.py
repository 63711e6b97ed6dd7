"""What the log says of a checkpoint: accuracies, live neurons, spectrum.

This module imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from criticalmass.core.moments import moments
from criticalmass.measures.probes.closed_form import ridge
from criticalmass.measures.probes.task import ProbeTask
from criticalmass.theory.spectrum import correlation, participation_ratio
from criticalmass.training.data import LabelledImages

if TYPE_CHECKING:
    from criticalmass.training.loop import Trainer

# Images on which the training error and the ridge probe are computed; enough for a tenth of a
# point.
_MOST_IMAGES = 10_000
_VALIDATION_EVERY = 5


@torch.no_grad()
def head_accuracy(trainer: Trainer, part: LabelledImages) -> float:
    """Return the share of images whose largest logit is that of their class."""
    features, labels = trainer.features(part)
    logits = trainer.network.head(features)
    return float((logits.argmax(dim=1) == labels).float().mean())


@torch.no_grad()
def evaluate(trainer: Trainer) -> dict[str, float]:
    """Evaluate a checkpoint.

    Returns
    -------
    ``train_error`` of the classifier on (up to 10,000) training images as they are,
    ``test_accuracy`` of the classifier, ``probe_accuracy``: of a ridge probe on the features,
    trained and tested on the same images; ``live_share``: share of the neurons whose test
    activations differ; ``participation_ratio`` and ``participation_ratio_standardised`` of the
    test features. NaN where there is no classifier.
    """
    train = trainer.data.train
    few = LabelledImages(train.images[:_MOST_IMAGES], train.labels[:_MOST_IMAGES], train.rotates)
    train_x, train_y = trainer.features(few)
    test_x, test_y = trainer.features(trainer.data.test)
    errors = {"train_error": float("nan"), "test_accuracy": float("nan")}
    if trainer.network.get_classifier() is not None:
        head = trainer.network.head
        errors = {
            "train_error": 1 - float((head(train_x).argmax(dim=1) == train_y).float().mean()),
            "test_accuracy": float((head(test_x).argmax(dim=1) == test_y).float().mean()),
        }
    x = test_x.cpu().numpy()
    live = x.std(axis=0) > 0
    row = {
        **errors,
        "probe_accuracy": _probe_accuracy(
            train_x.cpu().numpy(), train_y.cpu().numpy(), x, test_y.cpu().numpy()
        ),
        "live_share": float(live.mean()),
    }
    return {**row, **_spectrum(x[:, live])}


def _probe_accuracy(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray
) -> float:
    classes, labels = np.unique(train_y, return_inverse=True)
    if len(classes) < 2:
        return float("nan")
    task = ProbeTask(
        train_x,
        labels.astype(np.int64),
        test_x,
        len(classes),
        np.arange(train_x.shape[1])[None],
        (train_x.shape[1],),
        np.arange(len(train_x)) % _VALIDATION_EVERY == 0,
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

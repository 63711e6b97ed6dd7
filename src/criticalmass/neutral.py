"""What a class-neutral loss of accuracy would look like: the yardstick of `fairness`.

A less accurate probe has more unequal class accuracies almost by arithmetic: hard classes have
further to fall. To ask whether a subset is unfair beyond that, one must say what a fair loss is.
Here it raises the odds of an error by the same factor in every class,

    logit(q_c) = logit(p_c) - s,

with p_c the whole layer's accuracy on class c and one s for all classes, chosen so that the
overall accuracy is the subset's. This is the model of Rasch (1960), easiness of the class plus
ability of the probe without an interaction; a departure from it is what item response theory
calls differential item functioning. Near the ceiling it multiplies all error rates by the same
factor, near the floor all accuracies; it never leaves [0, 1].

The scale on which classes lose alike is a choice, and it shows when the loss is large. With the
whole layer's class accuracies on Fashion-MNIST (EfficientNet-Lite0, 0.887, Gini 0.054), coming
down to 0.80 gives a Gini coefficient of 0.097 on the logit scale, 0.090 on the probit scale and
0.107 if all error rates are multiplied alike; at 0.84 it is 0.075, 0.072 and 0.079. An excess
smaller than such differences says nothing about fairness, whatever its interval.

Two simpler yardsticks were refused. Losing every right answer with the same probability leaves
the Gini coefficient as it is, and so calls any growth unfair, although it says that a class at
0.99 loses more than one at 0.80; taking the same number of points from every class drives hard
classes below zero.
"""

from __future__ import annotations

import numpy as np

from criticalmass.core.moments import FloatArray
from criticalmass.inequality import gini_of_rows, gini_without_noise

_MOST_STEPS = 60
_EXACT = 1e-10


def neutral_accuracy(whole: FloatArray, shares: FloatArray, accuracy: FloatArray) -> FloatArray:
    """Class accuracies if the whole layer lost accuracy with the same odds factor everywhere.

    Parameters
    ----------
    whole: (..., C) the whole layer's class accuracies, inside (0, 1); broadcasts.
    shares: (C,) share of each class among the test samples.
    accuracy: (...) overall accuracy to come down (or up) to, inside (0, 1).

    Returns
    -------
    (..., C) class accuracies with ``result @ shares == accuracy``.
    """
    target = np.asarray(accuracy, dtype=np.float64)
    shape = np.broadcast_shapes(whole.shape[:-1], target.shape)
    goal = np.broadcast_to(target, shape)
    # With t the factor on the odds of an error, q = p / (p + (1 - p) t): no exponential per class.
    wrong = 1.0 - whole
    low, high = np.full(shape, -60.0), np.full(shape, 60.0)
    step = np.asarray(_logit(whole @ shares) - _logit(goal))
    for _ in range(_MOST_STEPS):
        q = whole / (whole + wrong * np.exp(step)[..., None])
        mean = q @ shares
        if not q.size or np.abs(mean - goal).max() <= _EXACT:
            break
        above = mean > goal
        low, high = np.where(above, step, low), np.where(above, high, step)
        # Newton on the logit of the mean, which is nearly linear in the step.
        slope = (q * (1.0 - q)) @ shares / (mean * (1.0 - mean))
        tried = step + (_logit(mean) - _logit(goal)) / np.maximum(slope, 1e-3)
        step = np.where((tried > low) & (tried < high), tried, 0.5 * (low + high))
    return np.asarray(whole / (whole + wrong * np.exp(step)[..., None]))


def half_a_sample_inside(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """Move class accuracies of 0 and 1 inside by half a sample, where odds exist.

    Parameters
    ----------
    accuracy: (..., C).
    counts: (C,) test samples of each class.
    """
    edge = 0.5 / (counts + 1.0)
    return np.clip(accuracy, edge, 1.0 - edge)


def excess_inequality(
    accuracy: FloatArray, neutral: FloatArray, whole: FloatArray, counts: FloatArray
) -> FloatArray:
    """Gini coefficient of class accuracies beyond that of a class-neutral loss.

    Both coefficients are freed of what sampling noise adds (`gini_without_noise`): the noise
    of the subset's accuracies is binomial, that of the neutral ones is the whole layer's
    binomial noise, carried through the change of the odds. They differ, so that plain
    coefficients would show an excess (mostly a negative one) where there is none.

    Parameters
    ----------
    accuracy: (..., C) the subset's class accuracies, inside (0, 1).
    neutral: (..., C) from `neutral_accuracy`.
    whole: (..., C) the whole layer's, inside (0, 1); broadcasts.
    counts: (C,) test samples of each class.
    """
    carried = neutral * (1.0 - neutral) / (whole * (1.0 - whole))
    there = gini_without_noise(accuracy, binomial_noise(accuracy, counts))
    expected = gini_without_noise(neutral, carried**2 * binomial_noise(whole, counts))
    return there - expected


def binomial_noise(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """Unbiased variance of class accuracies over test samples; 0 for a class of one sample."""
    return accuracy * (1.0 - accuracy) / np.maximum(counts - 1.0, 1.0)


def noise_in_gini(accuracy: FloatArray, counts: FloatArray) -> FloatArray:
    """How much of the Gini coefficient of (..., C) class accuracies is sampling noise."""
    return gini_of_rows(accuracy) - gini_without_noise(accuracy, binomial_noise(accuracy, counts))


def _logit(p: FloatArray) -> FloatArray:
    return np.asarray(np.log(p / (1.0 - p)))

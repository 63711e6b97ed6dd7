"""A scikit-learn pipeline of the kept neurons, their precision and the head, in the skops format.

It consists of scikit-learn's own types only. Therefore ``skops.io.load(file)`` has no further type
to trust, and this package is not needed where the pipeline runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.measures.probes.task import LinearHead
from criticalmass.shrinking.codec import Codec
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import ExportRequest
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.files import write_bytes

FILE = "pipeline.skops"


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write ``pipeline.skops``.

    Raises
    ------
    MissingExtraError: if skops is not installed.
    CriticalMassError: if the installed skops does not trust scikit-learn's types.
    """
    sio = import_package("skops.io", "export")
    content = sio.dumps(make_pipeline(request.slim))
    untrusted = list(sio.get_untrusted_types(data=content))
    if untrusted:
        raise CriticalMassError(
            f"the installed skops does not trust {', '.join(untrusted)}; update skops"
        )
    write_bytes(folder / FILE, content)
    return {"files": [FILE], "trusted": untrusted}


def make_pipeline(slim: SlimModel) -> Any:
    """Build the fitted pipeline.

    Returns
    -------
    A scikit-learn ``Pipeline`` for (n_samples, n_neurons) whole vectors. ``predict`` returns class
    ids, ``decision_function`` the head's logits (for two classes, their difference). The steps
    before ``head`` return the kept values, encoded and decoded in their precision.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    # The fit on zeros sets the widths only; the learned values come from the slim model.
    columns = ColumnTransformer(
        [("kept", "passthrough", slim.indices.tolist())], remainder="drop"
    ).fit(np.zeros((2, slim.n_neurons), dtype=np.float32))
    steps = [("kept", columns), *_stored_steps(slim), *_precision_steps(slim.codec)]
    if slim.head is not None:
        steps.append(("head", _classifier(slim.head)))
    return Pipeline(steps)


def _stored_steps(slim: SlimModel) -> list[tuple[str, Any]]:
    """Return the steps that project stored vectors and scale them to length 1, in float64."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import FunctionTransformer, Normalizer

    if slim.short_map is None:
        return []
    zeros = np.zeros((2, slim.indices.size))
    steps = [("wide", FunctionTransformer(np.float64).fit(zeros))]
    if slim.matrix is not None:
        directions = TruncatedSVD(n_components=slim.n_kept)
        directions.components_ = slim.matrix.T.astype(np.float64)
        directions.n_features_in_ = slim.n_neurons
        steps.append(("projected", directions))
    unit = Normalizer().fit(np.zeros((2, slim.n_kept)))
    narrow = FunctionTransformer(np.float32).fit(np.zeros((2, slim.n_kept)))
    return [*steps, ("unit", unit), ("narrow", narrow)]


def _precision_steps(codec: Codec) -> list[tuple[str, Any]]:
    """Return the steps that encode values in the precision and decode them."""
    from sklearn.preprocessing import Binarizer, FunctionTransformer, StandardScaler

    d = int(codec.offset.size)
    zeros = np.zeros((2, d), dtype=np.float32)
    if codec.precision == "float32":
        return []
    if codec.precision == "float16":
        encoder = FunctionTransformer(np.float16).fit(zeros)
        return [("stored", encoder), ("read", FunctionTransformer(np.float32).fit(zeros))]
    if codec.precision == "binary":
        centre = StandardScaler(with_std=False).fit(zeros)
        centre.mean_ = codec.offset
        two, one = np.full(d, 2.0, np.float32), np.ones(d, np.float32)
        return [
            ("centred", centre),
            ("stored", Binarizer().fit(zeros)),
            ("read", _affine(two, -one)),
        ]
    return [("stored", _quantiser(codec)), ("read", _affine(codec.step, codec.offset))]


def _affine(scale: NDArray[np.float32], shift: NDArray[np.float32]) -> Any:
    """Return a transformer of x to ``scale * x + shift``, both (n_kept,)."""
    from sklearn.preprocessing import MinMaxScaler

    scaler = MinMaxScaler().fit(np.stack([np.zeros_like(scale), np.ones_like(scale)]))
    scaler.scale_, scaler.min_ = scale, shift
    return scaler


def _quantiser(codec: Codec) -> Any:
    """Return a transformer of values to their int8 levels 0..255, rounded as in `Codec.encode`."""
    from sklearn.preprocessing import KBinsDiscretizer

    edges = level_edges(codec)
    n_kept, n_edges = edges.shape
    bins = KBinsDiscretizer(
        n_bins=n_edges + 1, encode="ordinal", strategy="uniform", subsample=None, dtype=np.float32
    )
    bins.n_features_in_ = n_kept
    bins.n_bins_ = np.full(n_kept, n_edges + 1)
    bins.bin_edges_ = np.empty(n_kept, dtype=object)
    for neuron in range(n_kept):
        bins.bin_edges_[neuron] = np.concatenate(
            [[codec.offset[neuron]], edges[neuron], [np.inf]], dtype=np.float32
        )
    return bins


def level_edges(codec: Codec) -> NDArray[np.float32]:
    """Find the smallest float32 that an int8 codec encodes as each level or a higher one.

    The level does not decrease with the value, so a bisection over all float32 numbers, in their
    order as integers, finds each edge exactly. A formula would have rounding errors.

    Returns
    -------
    (n_kept, 255) ascending; entry k-1 is the smallest value of level k.
    """
    d = int(codec.offset.size)
    levels = np.arange(1, 256)
    limit = int(np.float32(np.finfo(np.float32).max).view(np.int32))
    low = np.full((d, levels.size), -limit, dtype=np.int64)
    high = np.full((d, levels.size), limit, dtype=np.int64)
    with np.errstate(over="ignore"):
        while (low < high).any():
            middle = (low + high) >> 1
            is_reached = levels <= codec.encode(_float_of_rank(middle).T).T
            high = np.where(is_reached, middle, high)
            low = np.where(is_reached, low, np.minimum(middle + 1, high))
    return _float_of_rank(high)


def _float_of_rank(rank: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the float32 of a rank: rank r > 0 is the r-th above zero, -r its negative."""
    magnitude = np.abs(rank).astype(np.int32).view(np.float32)
    return np.where(rank < 0, -magnitude, magnitude)


def _classifier(head: LinearHead) -> Any:
    """Return a scikit-learn logistic regression with the head's weights."""
    from sklearn.linear_model import LogisticRegression

    coef, intercept = head.coef.astype(np.float64), head.intercept.astype(np.float64)
    if head.classes.size == 2:
        # scikit-learn has one row for two classes: the second's logit minus the first's.
        coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    model = LogisticRegression()
    model.classes_, model.coef_, model.intercept_ = head.classes, coef, intercept
    model.n_features_in_ = int(coef.shape[1])
    model.n_iter_ = np.zeros(1, dtype=np.int32)
    return model

"""A scikit-learn pipeline of the kept neurons, their precision and the head, in skops' format.

It is made of scikit-learn's own types alone, so ``skops.io.load(file)`` needs to trust nothing
further and this package is not needed where it runs.
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
from criticalmass.shrinking.export.folder import Facts
from criticalmass.shrinking.export.request import Request
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.files import write_bytes

FILE = "pipeline.skops"


def write(request: Request, folder: Path) -> Facts:
    """Write ``pipeline.skops``.

    Raises
    ------
    MissingExtraError: skops is not installed.
    CriticalMassError: scikit-learn's types are not trusted by the installed skops.
    """
    sio = import_package("skops.io", "export")
    content = sio.dumps(make_pipeline(request.slim))
    trusted = list(sio.get_untrusted_types(data=content))
    if trusted:
        raise CriticalMassError(
            f"the installed skops does not trust {', '.join(trusted)}; update skops"
        )
    write_bytes(folder / FILE, content)
    return {"files": [FILE], "trusted": trusted}


def make_pipeline(slim: SlimModel) -> Any:
    """Build the fitted pipeline.

    Returns
    -------
    A scikit-learn ``Pipeline``: takes (n_samples, n_neurons) whole vectors; ``predict`` gives
    class ids, ``decision_function`` the head's logits (of two classes, their difference). All
    steps but ``head`` give the kept values as they read back from their storage.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    # A "fit" on zeros only tells the widths; everything learned comes from the slim model.
    kept = ColumnTransformer(
        [("kept", "passthrough", slim.indices.tolist())], remainder="drop"
    ).fit(np.zeros((2, slim.n_neurons), dtype=np.float32))
    steps = [("kept", kept), *_stored(slim.codec)]
    if slim.head is not None:
        steps.append(("head", _classifier(slim.head)))
    return Pipeline(steps)


def _stored(codec: Codec) -> list[tuple[str, Any]]:
    """Return steps that write values in a precision and read them back."""
    from sklearn.preprocessing import Binarizer, FunctionTransformer, StandardScaler

    d = int(codec.offset.size)
    shape = np.zeros((2, d), dtype=np.float32)
    if codec.precision == "float32":
        return []
    if codec.precision == "float16":
        narrow = FunctionTransformer(np.float16).fit(shape)
        return [("stored", narrow), ("read", FunctionTransformer(np.float32).fit(shape))]
    if codec.precision == "binary":
        centre = StandardScaler(with_std=False).fit(shape)
        centre.mean_ = codec.offset
        two, one = np.full(d, 2.0, np.float32), np.ones(d, np.float32)
        return [
            ("centred", centre),
            ("stored", Binarizer().fit(shape)),
            ("read", _affine(two, -one)),
        ]
    return [("stored", _levels(codec)), ("read", _affine(codec.step, codec.offset))]


def _affine(scale: NDArray[np.float32], shift: NDArray[np.float32]) -> Any:
    """Return a transformer of x to ``scale * x + shift``, both (n_kept,)."""
    from sklearn.preprocessing import MinMaxScaler

    scaler = MinMaxScaler().fit(np.stack([np.zeros_like(scale), np.ones_like(scale)]))
    scaler.scale_, scaler.min_ = scale, shift
    return scaler


def _levels(codec: Codec) -> Any:
    """Return a transformer of values to their int8 level 0..255, as `Codec.encode` rounds them."""
    from sklearn.preprocessing import KBinsDiscretizer

    edges = first_of_level(codec)
    n_kept, inner = edges.shape
    bins = KBinsDiscretizer(
        n_bins=inner + 1, encode="ordinal", strategy="uniform", subsample=None, dtype=np.float32
    )
    bins.n_features_in_ = n_kept
    bins.n_bins_ = np.full(n_kept, inner + 1)
    bins.bin_edges_ = np.empty(n_kept, dtype=object)
    for neuron in range(n_kept):
        bins.bin_edges_[neuron] = np.concatenate(
            [[codec.offset[neuron]], edges[neuron], [np.inf]], dtype=np.float32
        )
    return bins


def first_of_level(codec: Codec) -> NDArray[np.float32]:
    """Find the smallest float32 that an int8 codec gives each level or more.

    Rounding rises with the value, so bisection over all float32 numbers, in their order as
    integers, finds the edge exactly; a formula would be off by a rounding error here and there.

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
            found = codec.encode(_nth_float(middle).T).T
            reached = found >= levels
            high = np.where(reached, middle, high)
            low = np.where(reached, low, np.minimum(middle + 1, high))
    return _nth_float(high)


def _nth_float(rank: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the float32 of a rank: rank r > 0 is the r-th above zero, -r its negative."""
    size = np.abs(rank).astype(np.int32).view(np.float32)
    return np.where(rank < 0, -size, size)


def _classifier(head: LinearHead) -> Any:
    """Return scikit-learn's logistic regression with the head's weights."""
    from sklearn.linear_model import LogisticRegression

    coef, intercept = head.coef.astype(np.float64), head.intercept.astype(np.float64)
    if head.classes.size == 2:
        # scikit-learn keeps one row for two classes: the second's logit minus the first's.
        coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    model = LogisticRegression()
    model.classes_, model.coef_, model.intercept_ = head.classes, coef, intercept
    model.n_features_in_ = int(coef.shape[1])
    model.n_iter_ = np.zeros(1, dtype=np.int32)
    return model

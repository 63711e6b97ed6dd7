"""What a slim model cannot see and the whole network can, for the warning of its model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.progress import Progress
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.models import load_model
from criticalmass.probing.request import make_request
from criticalmass.probing.subsets import Subset

if TYPE_CHECKING:
    from criticalmass.probing.network import ImageNetwork
    from criticalmass.probing.scene import Scene

IMAGES, STEPS, RESTARTS, EPSILON = 16, 60, 2, 0.05
#: Radius of the ball, as RMS of pixels in 0..1: 2.6 of 255 levels.
RADIUS_RMS = 0.01


class Slim(Protocol):
    """The part of a slim model that is examined.

    Attributes
    ----------
    indices: (n_kept,) kept neurons.
    matrix: (n_neurons, n_kept) directions of a projection, or None.
    head: the probe; None without one.
    """

    @property
    def indices(self) -> NDArray[np.intp]: ...  # noqa: D102
    @property
    def matrix(self) -> NDArray[np.float32] | None: ...  # noqa: D102
    @property
    def head(self) -> Any: ...  # noqa: D102

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the class of whole vectors."""
        ...


@dataclass(frozen=True, eq=False)
class BlindSpotSearch:
    """A network and its images, loaded before anything is shrunk.

    Attributes
    ----------
    scene: the network, target images and others.
    """

    scene: Scene

    @classmethod
    def prepare(cls, manifest: Mapping[str, Any], layer: str, seed: int) -> BlindSpotSearch:
        """Load the network and the images that a feature store was made of.

        Parameters
        ----------
        manifest: of the store.
        layer: the layer that is shrunk.
        seed: of the images.

        Raises
        ------
        CriticalMassError: the store has no network of images, or model or data have changed.
        """
        model, dataset = manifest.get("model") or {}, manifest.get("dataset") or {}
        if not model.get("weights_digest"):
            raise CriticalMassError(
                "blind spots need the network: these features were imported; extract them with "
                "criticalmass extract, or leave out --blind-spots"
            )
        from criticalmass.probing.network import ImageNetwork, check_images
        from criticalmass.probing.scene import make_scene

        network = ImageNetwork(load_model(str(model["spec"])), layer)
        data = load_dataset(str(dataset["spec"]))
        check_images(network.model, data)
        for name, old, new in (
            ("model", model["weights_digest"], network.model.weights_digest),
            ("dataset", dataset["digest"], data.digest),
        ):
            if old != new:
                raise CriticalMassError(
                    f"the {name} of these features has changed since they were extracted (its "
                    "digest differs); extract them again, or leave out --blind-spots"
                )
        request = make_request(
            layer=layer, keep=(), sizes=(1,), selectors=("first",), seeds=1,
            objectives=("hidden-neurons",), starts=("image",),
            images=min(IMAGES, len(data.splits["test"]) - 1), steps=STEPS, step=None,
            restarts=RESTARTS, norm="l2", radius=_radius(network), epsilon=EPSILON,
            reference=1, seed=seed,
        )  # fmt: skip
        return cls(make_scene(network, data, request))

    def find(self, slim: Slim) -> dict[str, Any]:
        """Search for the largest changes of the dropped neurons that the kept ones do not see.

        Returns
        -------
        Numbers for the record of the slim model, JSON-able, and the ``sentence``.
        """
        from criticalmass.probing.loop import Budget
        from criticalmass.probing.searches import search_hidden

        subset = Subset("slim", 0, len(slim.indices), indices=slim.indices)
        if slim.matrix is not None:
            basis = np.linalg.qr(slim.matrix.astype(np.float64))[0]
            subset = Subset("slim", 0, basis.shape[1], basis=basis)
        network = self.scene.network
        radius = _radius(network)
        with Progress("blind spots", len(self.scene.targets.images), "images") as bar:
            hidden = search_hidden(self.scene, subset, radius, EPSILON, Budget(STEPS, RESTARTS))
            bar.advance(bar.total)
        before = self.scene.targets.reading
        after = network.read_all(hidden.images)
        numbers: dict[str, Any] = {
            "images": len(hidden.images),
            "norm": "l2",
            "radius": radius,
            "rms": RADIUS_RMS,
            "epsilon": EPSILON,
            "dropped_median": float(np.median(hidden.dropped)),
            "dropped_largest": float(np.max(hidden.dropped)),
            "kept_largest": float(np.max(hidden.kept)),
            "network_changes": None,
            "slim_changes": None,
        }
        if before.logits is not None and after.logits is not None:
            changed = before.logits.argmax(dim=1) != after.logits.argmax(dim=1)
            numbers["network_changes"] = int(changed.sum())
        if slim.head is not None:
            answers = [slim.predict(reading.features.cpu().numpy()) for reading in (before, after)]
            numbers["slim_changes"] = int((answers[0] != answers[1]).sum())
        return {**numbers, "sentence": describe(numbers)}


def _radius(network: ImageNetwork) -> float:
    return RADIUS_RMS * float(np.sqrt(3.0)) * network.pixels


def describe(numbers: Mapping[str, Any]) -> str:
    """Say in one paragraph what was found.

    Parameters
    ----------
    numbers: as `BlindSpotSearch.find` returns them.
    """
    text = (
        f"Blind spots: changes of at most {numbers['radius']:.3g} in the {numbers['norm']} norm "
        f"(RMS {numbers['rms']:g} of pixels in 0..1) were searched for on {numbers['images']} test "
        f"images that move the kept values by at most {numbers['epsilon']:.0%} of their distance "
        "from an unrelated image. They move the dropped ones by "
        f"{numbers['dropped_median']:.0%} of theirs in the median and "
        f"{numbers['dropped_largest']:.0%} at most."
    )
    if numbers["network_changes"] is not None:
        text += f" The whole network changes its class on {numbers['network_changes']} of them"
        text += "." if numbers["slim_changes"] is None else ","
    if numbers["slim_changes"] is not None:
        begin = " and the" if numbers["network_changes"] is not None else " The"
        text += f"{begin} slim head on {numbers['slim_changes']}."
    return text + " A search finds lower bounds: larger blind spots may exist."

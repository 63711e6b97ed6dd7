"""``invert``: images whose kept neurons are those of a target, and what the dropped ones do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.notebook import Card, Shown
from criticalmass.core.progress import Progress, write_line
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.models import load_model
from criticalmass.extraction.models.optional_imports import import_torch
from criticalmass.probing.request import SELECTORS, STARTS, InversionRequest, make_request
from criticalmass.probing.summary import summarise_images
from criticalmass.probing.units import UnitFolder, read_results, unit_generator
from criticalmass.storage.files import INVERSION, folder_of, read_manifest

if TYPE_CHECKING:
    from criticalmass.extraction.datasets import Dataset
    from criticalmass.extraction.models import FrozenModel
    from criticalmass.probing.network import ImageNetwork


@dataclass(frozen=True, eq=False, repr=False)
class Inversion(Shown):
    """The result of `invert`.

    Attributes
    ----------
    path: its folder.
    manifest: the request, and what the numbers depend on.
    table: one row per image x objective x start x subset. ``kept_error`` and ``dropped_error`` are
        distances from the target's activations, relative to those of unrelated images; ``r2`` is
        that of the dropped neurons given the kept ones, by linear regression; ``same_class`` and
        ``judge_same_class`` say whether the network and the judge see the target's class; ``rms``
        and ``ssim`` compare the picture with the target's.
    """

    path: Path
    manifest: dict[str, Any]
    table: pd.DataFrame

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Inversion) -> Inversion:
        """Read the folder of a finished inversion.

        Raises
        ------
        StoreError: it is something else, unfinished, or damaged.
        """
        if isinstance(path, Inversion):
            return path
        folder = folder_of(path, INVERSION)
        manifest = read_manifest(folder, INVERSION)
        if not manifest["complete"]:
            raise INVERSION.error(
                f"{str(folder)!r} is not finished; run the same criticalmass invert again"
            )
        return cls(folder, manifest, read_results(folder, manifest))

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """Return the means over images, with intervals; see `summary.summarise_images`."""
        return summarise_images(self.table, level)

    def _card(self) -> Card:
        request = self.manifest["request"]
        facts = {
            "model": request["model"],
            "dataset": request["dataset"],
            "images": self.table["image"].nunique(),
            "folder": self.path,
        }
        return Card("Inversion", facts, tables={"means over images": self.summary()})


@validate_arguments
def invert(
    model: str | FrozenModel | Any,
    dataset: str | Dataset | Any,
    *,
    out: str | os.PathLike[str],
    keep: Sequence[float] | float = (0.1,),
    sizes: Sequence[int] = (),
    layer: str = "penultimate",
    selectors: Sequence[str] = SELECTORS,
    seeds: int = 2,
    objectives: Sequence[str] = ("match", "contrast"),
    starts: Sequence[str] = STARTS,
    images: int = 16,
    steps: int = 300,
    step: float | None = None,
    restarts: int = 1,
    norm: str = "l2",
    radius: float | None = None,
    epsilon: float = 0.05,
    judge: str | FrozenModel | Any | None = None,
    weights: str | Path | None = None,
    reference: int = 2000,
    seed: int = 0,
    device: str = "auto",
) -> Inversion:
    """Search for images whose kept neurons are those of a target image.

    If a few neurons determine the others, the dropped neurons of such an image, its class and its
    picture follow. The folder gets ``results.parquet``, the pictures (``units/*.safetensors``) and
    a manifest. A search that was stopped goes on after its last finished image, with the same
    bytes.

    Parameters
    ----------
    model: a spec, or a model, of images in torch; see `load_model`.
    dataset: a spec, or a dataset, of images; see `load_dataset`. Test images are the targets.
    out: the folder.
    keep: shares of the layer's neurons to hold, each in (0, 1].
    sizes: numbers of neurons to hold, besides those of ``keep``.
    layer: the layer.
    selectors: how neurons or directions are chosen; the whole layer is always among them.
    seeds: number of seeds of each random selector.
    objectives: "match" (kept error), "contrast" (kept error minus half of the dropped error, which
        is capped at 1), "hidden-neurons" and "hidden-picture" (the largest change that leaves the
        kept neurons within ``epsilon``).
    starts: "noise" and "image", one of another class.
    images: number of targets.
    steps: gradient steps of each search.
    step: size of the first step, in ``norm``; by default twice the radius, or, without one, an RMS
        of .05.
    restarts: number of searches of each problem, of which the best counts.
    norm: "l2" or "linf".
    radius: how far the picture may be from the one that it begins with, or, for hidden changes,
        from the target; None for any distance.
    epsilon: largest kept error of hidden changes, relative to that of an unrelated image.
    judge: an independent network, which says whether it sees the target's class.
    weights: for ``timm:`` and ``module:`` models.
    reference: number of training images from which subsets are chosen and regressions fitted.
    seed: of images and starting points.
    device: "auto" (the GPU if there is one), "cpu" or "cuda".

    Raises
    ------
    CriticalMassError: a name or number is not valid, the model takes no images or has no gradient,
        or ``out`` holds something else.
    """
    request = make_request(
        layer=layer, keep=keep, sizes=sizes, selectors=selectors, seeds=seeds,
        objectives=objectives, starts=starts, images=images, steps=steps, step=step,
        restarts=restarts, norm=norm, radius=radius, epsilon=epsilon, reference=reference,
        seed=seed,
    )  # fmt: skip
    from criticalmass.probing.network import ImageNetwork, check_images

    frozen = load_model(model, weights=weights, device=device)
    network = ImageNetwork(frozen, layer)
    judging = None
    if judge is not None:
        judging = ImageNetwork(load_model(judge, device=device))
    data = load_dataset(dataset)
    check_images(frozen, data)
    identity = {
        **request.to_dict(),
        "model": {"spec": frozen.spec, "digest": frozen.weights_digest},
        "dataset": {"spec": data.spec, "digest": data.digest},
        "judge": None if judging is None else judging.model.weights_digest,
    }
    with frozen.in_evaluation():
        return _search_all(Path(out), request, identity, network, judging, data)


def _search_all(
    out: Path,
    request: InversionRequest,
    identity: dict[str, Any],
    network: ImageNetwork,
    judge: ImageNetwork | None,
    data: Dataset,
) -> Inversion:
    torch = import_torch()
    from criticalmass.probing.scene import make_scene
    from criticalmass.probing.searches import search_target

    facts = {
        "names": {"model": network.model.name, "dataset": data.name},
        "class_names": list(data.class_names),
        "output_names": list(network.model.output_names),
        "device": network.device.type,
        "threads": torch.get_num_threads(),
        "versions": {"torch": version("torch")},
    }
    with UnitFolder.write(out, INVERSION, identity, facts) as folder:
        missing = folder.missing(request.images)
        if folder.is_complete:
            write_line(f"{out}: these searches are done already")
        elif len(missing) < request.images:
            write_line(f"{out}: goes on with image {missing[0] + 1} of {request.images}")
        if missing:
            scene = make_scene(network, data, request)
            with Progress("images", len(missing), "images") as bar:
                for number in missing:
                    result = search_target(
                        scene, request, judge, number, unit_generator(request.seed, number)
                    )
                    folder.add(number, result.rows, result.pictures)
                    bar.advance()
        table = folder.finish(request.images)
        return Inversion(folder.path, folder.manifest, table)

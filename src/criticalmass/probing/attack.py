"""`attack`: votes of heads on disjoint subsets under attack, compared with one head."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.notebook import Card, Shown
from criticalmass.core.progress import Progress, write_line
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import Dataset, load_dataset
from criticalmass.extraction.datasets.splits import stratified_sample
from criticalmass.extraction.models import FrozenModel, load_model
from criticalmass.measures.probes.task import LinearHead, ProbeTask
from criticalmass.measures.protocol import validation_rows
from criticalmass.measures.registry import MEASURES, get_probe
from criticalmass.probing.attack_table import DEFENCES, HARD, MEMBER, ONE, SOFT, WHOLE, summarise
from criticalmass.probing.units import UnitFolder, read_results, unit_generator
from criticalmass.selectors.inputs import SelectorInput
from criticalmass.selectors.registry import select
from criticalmass.selectors.sizes import sizes_for
from criticalmass.storage.features import UNLABELLED
from criticalmass.storage.files import FolderKind, read_manifest

if TYPE_CHECKING:
    import torch

    from criticalmass.extraction.balls import Ball
    from criticalmass.probing.ensembles import Attacked, Defence, Examples
    from criticalmass.probing.network import ImageNetwork

ATTACK = FolderKind("criticalmass-attack", 1, "attack", "attack")
PROBE = "logistic"
# A unit, which a stopped attack repeats, is one image of usual size. Small images need batches: of
# 28 pixels, 32 at once take less than half the time of one by one.
_MOST_IMAGES = 32
_UNIT_PIXELS = _MOST_IMAGES * 40**2
# Images of the check with the whole range of pixels; draws of noise.
_CHECK_IMAGES = 32
_NOISE_DRAWS = 4
_VERSION = 2


@dataclass(frozen=True)
class AttackRequest:
    """The arguments of `attack` that decide its numbers; see there."""

    layer: str
    heads: int
    keep: float
    norm: str
    radii: tuple[float, ...]
    images: int
    steps: int
    restarts: int
    seed: int

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises
        ------
        CriticalMassError: a number or name is out of range.
        """
        from criticalmass.extraction.balls import make_ball
        from criticalmass.probing.loop import Budget

        Budget(self.steps, self.restarts)
        if not self.radii:
            raise CriticalMassError("no radius given; e.g. radii=0.5 for norm='l2'")
        for radius in self.radii:
            make_ball(self.norm, radius)
        if self.heads < 2:
            raise CriticalMassError(f"heads={self.heads} must be 2 or more, to be a vote")
        if self.images < 2:
            raise CriticalMassError(f"images={self.images} must be 2 or more")
        if self.seed < 0:
            raise CriticalMassError(f"seed={self.seed} must be 0 or more")
        sizes_for([self.keep], 1)
        if self.heads * self.keep > 1 + 1e-9:
            raise CriticalMassError(
                f"{self.heads} heads of keep={self.keep:g} do not fit without sharing neurons; use "
                f"keep up to {1 / self.heads:.3g}"
            )

    def n_kept(self, n_neurons: int) -> int:
        """Return the neurons of a head."""
        if n_neurons < self.heads:
            raise CriticalMassError(
                f"heads={self.heads} but layer {self.layer!r} has {n_neurons} neurons; ask for at "
                f"most {n_neurons}"
            )
        return min(sizes_for([self.keep], n_neurons)[0], n_neurons // self.heads)


@dataclass(frozen=True, eq=False, repr=False)
class AttackResult(Shown):
    """The result of `attack`.

    Attributes
    ----------
    path: the folder.
    images: one row per image, radius and defence.
    manifest: of the folder.
    """

    path: Path
    images: pd.DataFrame
    manifest: Mapping[str, Any]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per radius and defence: accuracies with intervals, and checks."""
        return summarise(self.images)

    def _card(self) -> Card:
        request = self.manifest["request"]
        facts = {
            f"{row['defence']} at {row['radius']:g}": f"{row['robust']:.3f} of {row['clean']:.3f}"
            for row in self.table.to_dict("records")
        }
        return Card(f"Attack on {request['model']['spec']}", facts)


@validate_arguments
def attack(
    model: str | FrozenModel | Any,
    dataset: str | Dataset | Any,
    *,
    out: str | os.PathLike[str],
    heads: int = 4,
    keep: float = 0.05,
    norm: str = "l2",
    radii: float | Sequence[float] = (0.5,),
    images: int = 200,
    steps: int = 50,
    restarts: int = 1,
    seed: int = 0,
    layer: str = "penultimate",
    device: str = "auto",
) -> AttackResult:
    """Attack votes of heads on disjoint subsets, one head on all of their neurons, and the layer's.

    The heads are logistic probes, fitted on the training split as a sweep fits them; head 1 reads
    the subset that a sweep measures for this seed. Each defence is attacked for itself, through the
    network: a hard vote is scored by the vote. APGD (Croce and Hein 2020, arXiv:2003.01690) follows
    two or three losses in turn. What was made against one defence is tried on all others.

    Parameters
    ----------
    model: an image model that runs in torch.
    dataset: images with labels.
    out: the folder; an attack that was stopped goes on there.
    heads: members of the votes, at least 2.
    keep: share of the neurons of a head.
    norm: "l2" or "linf", of changes of pixels in 0..1.
    radii: of the balls.
    images: number of test images, stratified by class.
    steps: gradient steps of a loss from each starting point.
    restarts: starting points of a loss.
    seed: of the permutation of the neurons, and of what is drawn.
    layer: the layer that the heads read.
    device: "auto", "cpu" or "cuda".

    Returns
    -------
    Tables per image, and per radius and defence: clean and robust accuracy with intervals over
    images, paired differences from the whole layer's head and from one head on the same neurons,
    the latter also between images at equal distance from the boundary, and signs of masked
    gradients.

    Raises
    ------
    CriticalMassError: the model takes no images, the dataset has no labels, a number is out of
        range, or ``out`` holds another request.
    """
    shares = (radii,) if isinstance(radii, (int, float)) else tuple(radii)
    sorted_radii = tuple(sorted({float(radius) for radius in shares}))
    request = AttackRequest(layer, heads, keep, norm, sorted_radii, images, steps, restarts, seed)
    data = load_dataset(dataset)
    frozen = load_model(model, device=device)
    from criticalmass.probing.network import ImageNetwork, check_images

    check_images(frozen, data)
    _check_labels(data)
    with frozen.in_evaluation():
        network = ImageNetwork(frozen, layer)
        return _attack(network, data, request, Path(out))


def _check_labels(data: Dataset) -> None:
    if data.class_names == UNLABELLED or len(data.class_names) < 2:
        raise CriticalMassError(
            f"dataset {data.spec!r} has no labels of two classes or more, which heads need"
        )
    missing = [name for name in ("train", "test") if name not in data.splits]
    if missing:
        raise CriticalMassError(f"dataset {data.spec!r} has no split {missing[0]!r}")


def _attack(
    network: ImageNetwork, data: Dataset, request: AttackRequest, out: Path
) -> AttackResult:
    """Attack every unit that is missing, and join the tables."""
    import torch

    test = data.splits["test"]
    if request.images > len(test):
        raise CriticalMassError(
            f"images={request.images} but dataset {data.spec!r} has {len(test)} test images; ask "
            f"for at most {len(test)}"
        )
    rows = stratified_sample(test.labels, request.images, request.seed)
    model = network.model
    units = list(_units(request, len(rows), unit_images(network.pixels)))
    described = {
        **asdict(request),
        "radii": list(request.radii),
        "model": {"spec": model.spec, "weights_digest": model.weights_digest},
        "dataset": {"spec": data.spec, "digest": data.digest},
        # As JSON returns it: lists, not tuples.
        "probe": json.loads(json.dumps({"name": PROBE, **MEASURES[PROBE].protocol})),
        "version": _VERSION,
    }
    facts = {
        "device": network.device.type,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("criticalmass", "torch")},
    }
    with UnitFolder.write(out, ATTACK, described, facts) as folder:
        missing = folder.missing(len(units))
        if folder.is_complete:
            write_line(f"{out}: the attack is finished already")
        if missing:
            job = _Job.prepare(network, data, rows, request)
            with Progress(f"attack on {model.name}", len(missing), "units") as bar:
                for number in missing:
                    folder.add(number, job.run(units[number], number))
                    bar.advance(1)
        table = folder.finish(len(units))
        return AttackResult(out, table, folder.manifest)


def open_attack(path: str | os.PathLike[str]) -> AttackResult:
    """Open the folder of a finished attack.

    Raises
    ------
    CriticalMassError: there is none, it is unfinished or damaged.
    """
    folder = Path(path)
    manifest = read_manifest(folder, ATTACK)
    if not manifest["complete"]:
        raise CriticalMassError(f"the attack in {str(folder)!r} is unfinished; run it again")
    return AttackResult(folder, read_results(folder, manifest), manifest)


@dataclass(frozen=True)
class _Unit:
    """Images that are attacked as one batch.

    Attributes
    ----------
    radius: of the ball.
    start, stop: places among the chosen images.
    is_check: whether the ball holds all images, so that every defence must fall.
    """

    radius: float
    start: int
    stop: int
    is_check: bool = False


def unit_images(pixels: int) -> int:
    """Return how many images of a side are attacked as one batch; 1 above 160 pixels."""
    return max(1, min(_MOST_IMAGES, _UNIT_PIXELS // pixels**2))


def _units(request: AttackRequest, n_images: int, n_batch: int) -> Iterator[_Unit]:
    parts = [(radius, n_images, False) for radius in request.radii]
    # The radius that holds every image depends on the pixels.
    parts.append((np.inf, min(_CHECK_IMAGES, n_images), True))
    for radius, n, is_check in parts:
        for start in range(0, n, n_batch):
            yield _Unit(radius, start, min(start + n_batch, n), is_check)


@dataclass(frozen=True, eq=False)
class _Job:
    """All that the units share.

    Attributes
    ----------
    network: the network.
    defences: what is attacked, those of `DEFENCES` in order.
    images: (n, 3, pixels, pixels) in 0..1.
    labels: (n,).
    ids: names of the images.
    request: the arguments.
    n_used: neurons that each defence reads.
    """

    network: ImageNetwork
    defences: Sequence[Defence]
    images: torch.Tensor
    labels: torch.Tensor
    ids: Sequence[str]
    request: AttackRequest
    n_used: Sequence[int]

    @classmethod
    def prepare(
        cls, network: ImageNetwork, data: Dataset, rows: NDArray[np.intp], request: AttackRequest
    ) -> _Job:
        """Read the images, and fit the heads."""
        import torch

        from criticalmass.probing.network import select_items

        test = data.splits["test"]
        images = network.prepare(select_items(test.items, rows)).to(network.device)
        features = network.read_all(images).features.cpu().numpy()
        size = request.n_kept(features.shape[1])
        fitted = _fit_heads(network, data, features, size, request)
        defences, n_used = _make_defences(fitted, len(data.class_names), network.device)
        labels = torch.from_numpy(test.labels[rows]).to(network.device)
        ids = [str(test.ids[int(row)]) for row in rows]
        return cls(network, defences, images, labels, ids, request, n_used)

    def read(self, images: torch.Tensor) -> torch.Tensor:
        """Return the activations of images, differentiable."""
        return self.network.read(images).features

    def run(self, unit: _Unit, number: int) -> list[dict[str, Any]]:
        """Attack one unit; return its rows."""
        import torch

        from criticalmass.extraction.balls import make_ball
        from criticalmass.probing.ensembles import Examples, attack_defence
        from criticalmass.probing.loop import Budget

        part = slice(unit.start, unit.stop)
        examples = Examples(self.read, self.images[part], self.labels[part])
        radius = unit.radius
        if unit.is_check:
            radius = float(self.images[0].numel()) ** 0.5 if self.request.norm == "l2" else 1.0
        ball = make_ball(self.request.norm, radius)
        generator = unit_generator(self.request.seed, number)
        budget = Budget(self.request.steps, self.request.restarts)
        with torch.enable_grad():
            attacked = [
                attack_defence(defence, examples, ball, budget, generator=generator)
                for defence in self.defences
            ]
        return self._rows(unit, ball, examples, attacked, generator)

    def _rows(
        self,
        unit: _Unit,
        ball: Ball,
        examples: Examples,
        attacked: Sequence[Attacked],
        generator: torch.Generator,
    ) -> list[dict[str, Any]]:
        """Score every defence on what was made against each of them, and on noise."""
        import torch

        from criticalmass.probing.ensembles import zero_gradients

        images, labels = examples.images, examples.labels
        with torch.no_grad():
            clean = self.read(images)
            found = [self.read(one.images) for one in attacked]
            noise = [
                self.read((images + ball.draw(images, generator)).clamp(0, 1))
                for _ in range(_NOISE_DRAWS)
            ]
        columns: list[dict[str, Any]] = []
        for place, (defence, own) in enumerate(zip(self.defences, attacked, strict=True)):

            def is_right(features: torch.Tensor, of: Defence = defence) -> torch.Tensor:
                return of.predict(features) == labels

            survived = torch.stack([is_right(features) for features in found])
            right = is_right(clean)
            columns.append(
                {
                    "clean": right,
                    "white_box": own.is_right,
                    "transfer": right & survived[DEFENCES.index(WHOLE)],
                    "robust": own.is_right & survived.all(dim=0),
                    "noise": right & torch.stack([is_right(one) for one in noise]).all(dim=0),
                    "step": own.step,
                    "size": ball.size(own.images - images),
                    "distance": defence.distance(examples, ball),
                    "zero_gradient": zero_gradients(defence, examples),
                    "n_used": torch.full_like(labels, self.n_used[place]),
                }
            )
        return [
            {
                "image": self.ids[unit.start + row],
                "label": int(labels[row]),
                "norm": self.request.norm,
                "radius": ball.radius,
                "is_check": unit.is_check,
                "steps": self.request.steps,
                "defence": defence.name,
                **{name: values[row].item() for name, values in of.items()},
            }
            for defence, of in zip(self.defences, columns, strict=True)
            for row in range(len(labels))
        ]


@dataclass(frozen=True, eq=False)
class _FittedHeads:
    """Fitted probes and the neurons that they read.

    Attributes
    ----------
    members: (neurons, head) of each member of the votes.
    one: those of one head on the neurons of all members.
    whole: those of the whole layer.
    """

    members: Sequence[tuple[NDArray[np.intp], LinearHead]]
    one: tuple[NDArray[np.intp], LinearHead]
    whole: tuple[NDArray[np.intp], LinearHead]


def _fit_heads(
    network: ImageNetwork,
    data: Dataset,
    test: NDArray[np.float32],
    size: int,
    request: AttackRequest,
) -> _FittedHeads:
    """Fit the probes on the training split, on consecutive slices of one permutation."""
    import torch

    train = data.splits["train"]
    batches = network.model.preprocess.batches(train.items, None)
    rows = np.empty((len(train), test.shape[1]), dtype=np.float32)
    with Progress(f"features of {data.name}", len(train), "images") as bar:
        for part, batch in batches:
            scaled = torch.from_numpy(batch).float() / 255.0
            rows[part] = network.read_all(scaled).features.cpu().numpy()
            bar.advance(len(batch))
    width = int(test.shape[1])
    order = select("random", SelectorInput(width), seed=request.seed).order
    if order is None:
        raise AssertionError("random gives an order")

    def fit(orders: NDArray[np.intp], sizes: tuple[int, ...]) -> Any:
        task = ProbeTask(
            x_train=rows,
            y_train=train.labels,
            x_test=test,
            n_classes=len(data.class_names),
            orders=orders,
            sizes=sizes,
            validation=validation_rows(train.labels),
        )
        return get_probe(PROBE)(task).heads

    rotated = np.stack([np.roll(order, -k * size) for k in range(request.heads)])
    members = [
        (neurons[:size], heads[0])
        for neurons, heads in zip(rotated, fit(rotated, (size,)), strict=True)
    ]
    n_union = size * request.heads
    [joint] = fit(order[None], tuple(sorted({n_union, width})))
    return _FittedHeads(members, (order[:n_union], joint[0]), (order, joint[-1]))


def _make_defences(
    fitted: _FittedHeads, n_classes: int, device: torch.device
) -> tuple[list[Defence], list[int]]:
    """Return the defences in the order of `DEFENCES`, and how many neurons each reads."""
    from criticalmass.probing.ensembles import HardVote, OneHead, SoftVote, TorchHead

    def head(pair: tuple[NDArray[np.intp], LinearHead]) -> TorchHead:
        return TorchHead.of(pair[1], pair[0].tolist(), n_classes, device)

    members = [head(pair) for pair in fitted.members]
    one, whole = head(fitted.one), head(fitted.whole)
    defences = [
        OneHead(MEMBER, members[:1]),
        HardVote(HARD, members),
        SoftVote(SOFT, members),
        OneHead(ONE, [one]),
        OneHead(WHOLE, [whole]),
    ]
    return defences, [sum(len(one.neurons) for one in defence.heads) for defence in defences]

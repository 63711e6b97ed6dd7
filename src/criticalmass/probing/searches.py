"""All searches for one target image, and the rows of its table. This module imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from criticalmass.extraction.balls import Ball, make_ball
from criticalmass.probing.goals import Hide, NeuronDistances, SearchTargets, make_goal
from criticalmass.probing.loop import Budget, search
from criticalmass.probing.network import ImageNetwork
from criticalmass.probing.objectives import InversionObjective
from criticalmass.probing.pictures import rms, ssim
from criticalmass.probing.request import TARGET, InversionRequest
from criticalmass.probing.scene import Scene, Unrelated
from criticalmass.probing.subsets import FULL, Subset, SubsetSplit
from criticalmass.probing.units import unit_generator

# Problems of one batch of the search.
_BATCH = 64
# First step of a search without a radius, as RMS of pixels.
_FIRST_STEP = 0.05
_MISSING = float("nan")


@dataclass(frozen=True)
class Problem:
    """One search: an objective, what it begins from, and the number of a subset."""

    objective: InversionObjective
    start: str
    subset: int


@dataclass(frozen=True, eq=False)
class StartImage:
    """What the searches of one target begin from.

    Attributes
    ----------
    image: (3, pixels, pixels).
    id: name of the image; empty for noise.
    label: its class; -1 for noise.
    """

    image: Tensor
    id: str = ""
    label: int = -1


@dataclass(frozen=True, eq=False)
class TargetSearch:
    """The result of all searches for one target.

    Attributes
    ----------
    rows: one per objective x start x subset.
    pictures: ``target``, ``start-NAME`` and ``found``, (n_rows, 3, pixels, pixels), as float16.
    """

    rows: list[dict[str, Any]]
    pictures: dict[str, Tensor]


def make_problems(scene: Scene, request: InversionRequest) -> list[Problem]:
    """List the searches for one target; the whole layer has nothing to hide or to contrast."""
    return [
        Problem(goal, start, number)
        for goal in request.goals
        for start in request.starts_of(goal)
        for number, subset in enumerate(scene.subsets)
        if subset.selector != FULL or goal.name == "match"
    ]


def search_target(
    scene: Scene,
    request: InversionRequest,
    judge: ImageNetwork | None,
    number: int,
    generator: torch.Generator,
) -> TargetSearch:
    """Make all searches for one target.

    Parameters
    ----------
    scene: images and subsets.
    request: budget, ball and objectives.
    judge: an independent network, or None.
    number: of the target.
    generator: all that is drawn comes from it.
    """
    unrelated = scene.unrelated(number)
    starts = _make_starts(scene, number, unrelated, generator)
    problems = make_problems(scene, request)
    found = []
    for goal in request.goals:
        own = [problem for problem in problems if problem.objective == goal]
        for begin in range(0, len(own), _BATCH):
            part = own[begin : begin + _BATCH]
            targets = _targets(scene, number, part, unrelated)
            beginnings = torch.stack([starts[problem.start].image for problem in part])
            found.append(_run(scene, request, goal, targets, beginnings, generator))
    images = torch.cat(found)
    rows = _rows(scene, number, problems, starts, unrelated, images)
    if judge is not None:
        _add_judgement(rows, judge, scene.targets.images[number], images)
    half = torch.float16
    pictures = {
        "target": scene.targets.images[number].to(half),
        **{f"start-{name}": start.image.to(half) for name, start in starts.items()},
        "found": images.to(half),
    }
    return TargetSearch(rows, pictures)


def _make_starts(
    scene: Scene, number: int, unrelated: Unrelated, generator: torch.Generator
) -> dict[str, StartImage]:
    """Draw what the searches begin from: the same for all subsets and objectives."""
    target = scene.targets.images[number]
    place = int(torch.randint(0, len(unrelated.rows), (1,), generator=generator))
    row = int(unrelated.rows[place])
    others = scene.others
    return {
        "noise": StartImage(torch.rand(target.shape, generator=generator).to(target)),
        "image": StartImage(others.images[row], others.ids[row], int(others.labels[row])),
        TARGET: StartImage(target, scene.targets.ids[number], int(scene.targets.labels[number])),
    }


def _targets(
    scene: Scene, number: int, problems: list[Problem], unrelated: Unrelated
) -> SearchTargets:
    numbers = torch.tensor([problem.subset for problem in problems], device=scene.network.device)
    n = len(problems)
    image = scene.targets.images[number]
    features = scene.targets.reading.features[number]
    return SearchTargets(
        image.expand(n, *image.shape),
        features.expand(n, -1),
        numbers,
        unrelated.kept[numbers],
        unrelated.dropped[numbers],
        torch.full((n,), unrelated.pixels, device=image.device),
    )


def _run(
    scene: Scene,
    request: InversionRequest,
    objective: InversionObjective,
    targets: SearchTargets,
    starts: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Search for one batch of problems with one objective; return the images."""
    distances = NeuronDistances(scene.network, scene.split, targets)
    goal = make_goal(objective, distances, request.epsilon)
    radius = math.inf if request.radius is None else request.radius
    ball = make_ball(request.norm, radius)
    budget = Budget(request.steps, request.restarts, _first_step(request, ball, starts))
    centre = targets.images if objective.hides else starts

    def initial(restart: int, generator: torch.Generator) -> Tensor:
        if not restart:
            return starts
        return (starts + torch.rand(starts.shape, generator=generator).to(starts)) / 2

    found = search(
        goal,
        centre,
        ball,
        budget,
        generator=generator,
        initial=None if objective.starts_at_target else initial,
    )
    return goal.shorten(found.images) if isinstance(goal, Hide) else found.images


def _first_step(request: InversionRequest, ball: Ball, images: Tensor) -> float | None:
    """Return the first step; without a radius one that changes pixels by a given RMS."""
    if request.step is not None or not math.isinf(ball.radius):
        return request.step
    return _FIRST_STEP * float(ball.size(torch.ones_like(images[:1])))


def _rows(
    scene: Scene,
    number: int,
    problems: list[Problem],
    starts: dict[str, StartImage],
    unrelated: Unrelated,
    images: Tensor,
) -> list[dict[str, Any]]:
    reading = scene.network.read_all(images)
    targets = _targets(scene, number, problems, unrelated)
    every = torch.arange(len(problems), device=images.device)
    distances = NeuronDistances(scene.network, scene.split, targets)
    kept, dropped = distances.errors_of(reading.features, every)
    begun = torch.stack([starts[problem.start].image for problem in problems])
    likeness = {
        "rms": rms(images, targets.images),
        "ssim": ssim(images, targets.images),
        "rms_from_start": rms(images, begun),
        "ssim_to_start": ssim(images, begun),
    }
    classes = None if reading.logits is None else reading.logits.argmax(dim=1)
    logits = scene.targets.reading.logits
    own = -1 if logits is None else int(logits[number].argmax())
    rows = []
    for index, problem in enumerate(problems):
        subset, start = scene.subsets[problem.subset], starts[problem.start]
        has_kept = bool(targets.kept[index] > 0)
        has_dropped = subset.selector != FULL and bool(targets.dropped[index] > 0)
        rows.append(
            {
                "image": number,
                "id": scene.targets.ids[number],
                "label": int(scene.targets.labels[number]),
                "objective": problem.objective.name,
                "start": problem.start,
                "start_id": start.id,
                "start_label": start.label,
                "selector": subset.selector,
                "seed": subset.seed,
                "n_kept": subset.n_kept,
                "n_neurons": int(reading.features.shape[1]),
                "kept_error": float(kept[index]) if has_kept else _MISSING,
                "dropped_error": float(dropped[index]) if has_dropped else _MISSING,
                "r2": subset.r2 if has_dropped else _MISSING,
                "target_class": own,
                "found_class": -1 if classes is None else int(classes[index]),
                "same_class": _MISSING if classes is None else float(int(classes[index]) == own),
                **{name: float(values[index]) for name, values in likeness.items()},
                "rms_unrelated": unrelated.pixels,
            }
        )
    return rows


def _add_judgement(
    rows: list[dict[str, Any]], judge: ImageNetwork, target: Tensor, images: Tensor
) -> None:
    """Add the class that an independent network gives to target and found images."""
    own, *classes = judge.predict(torch.cat([target[None], images])).tolist()
    for row, found in zip(rows, classes, strict=True):
        row |= {"judge_target_class": own, "judge_found_class": found}
        row["judge_same_class"] = float(found == own)


@dataclass(frozen=True, eq=False)
class Hidden:
    """Changes of all target images that one subset does not see.

    Attributes
    ----------
    images: (n, 3, pixels, pixels), the changed targets.
    kept, dropped: (n,) relative errors.
    """

    images: Tensor
    kept: NDArray[np.float32]
    dropped: NDArray[np.float32]


def search_hidden(
    scene: Scene,
    subset: Subset,
    radius: float,
    epsilon: float,
    budget: Budget,
) -> Hidden:
    """Search around every target for the largest change of the dropped neurons.

    Parameters
    ----------
    scene: images; its subsets are not used.
    subset: what is kept.
    radius: of the l2 ball.
    epsilon: largest error of the kept neurons.
    budget: steps and restarts.
    """
    network, own = scene.network, scene.targets
    width = int(own.reading.features.shape[1])
    one = Scene(network, own, scene.others, (subset,), SubsetSplit([subset], width, network.device))
    n = len(own.images)
    unrelated = [one.unrelated(number) for number in range(n)]
    targets = SearchTargets(
        own.images,
        own.reading.features,
        torch.zeros(n, dtype=torch.int64, device=network.device),
        torch.cat([each.kept for each in unrelated]),
        torch.cat([each.dropped for each in unrelated]),
        torch.tensor([each.pixels for each in unrelated], device=network.device),
    )
    distances = NeuronDistances(network, one.split, targets)
    goal = Hide(distances, epsilon, of_picture=False)
    found = search(
        goal,
        own.images,
        make_ball("l2", radius),
        budget,
        generator=unit_generator(0, 0),
    )
    images = goal.shorten(found.images)
    kept, dropped = distances.errors_of(
        network.read_all(images).features, torch.arange(n, device=network.device)
    )
    return Hidden(images, kept.cpu().numpy(), dropped.cpu().numpy())

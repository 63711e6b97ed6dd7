"""The networks that a study trains: recipes x training seeds, two or more at a time."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from criticalmass.core.threads import thread_count
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.extraction.models.trained import TRAINING
from criticalmass.storage.files import checked_path, is_kind, read_manifest
from criticalmass.studies.schema import LAST_EPOCH, Study, TrainGrid
from criticalmass.training.recipe import TRAINED, Recipe


@dataclass(frozen=True)
class Training:
    """A network of a study.

    Attributes
    ----------
    name: name of its recipe in the study.
    seed: training seed.
    recipe: the recipe, with the seed.
    folder: its training folder.
    start: folder of the network that it starts from, if the study trains that one too.
    """

    name: str
    seed: int
    recipe: Recipe
    folder: Path
    start: Path | None = None

    def spec(self, epoch: int | str) -> str:
        """Return the model spec after an epoch; ``"last"`` is the end of the training."""
        return f"{TRAINED}{self.folder}@{self.recipe.epochs if epoch == LAST_EPOCH else epoch}"


def list_trainings(grid: TrainGrid, folder: Path) -> list[Training]:
    """Return the trainings of a grid; a network comes after the one that it starts from.

    Parameters
    ----------
    grid: recipes and training seeds.
    folder: holds one training folder for each network.
    """
    trainings: dict[tuple[str, int], Training] = {}
    for seed in range(grid.seeds):
        for name in _by_start(grid):
            recipe = grid.recipe(name).model_copy(update={"name": name, "seed": seed})
            start = None
            start_name = grid.start_of(name)
            if start_name is not None:
                first = trainings[start_name, seed]
                start = first.folder
                network = recipe.network.model_copy(update={"weights": first.spec(LAST_EPOCH)})
                recipe = recipe.model_copy(update={"network": network})
            path = folder / f"{name}-s{seed}-{recipe.digest[:8]}"
            trainings[name, seed] = Training(name, seed, recipe, path, start)
    return list(trainings.values())


def _by_start(grid: TrainGrid) -> list[str]:
    """Return the names of the recipes, each after the one that it starts from."""
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        start = grid.start_of(name)
        if start is not None:
            add(start)
        ordered[name] = None

    for name in grid.recipes:
        add(name)
    return list(ordered)


def trainings_of(studies: Iterable[Study], folder: Path) -> dict[Path, Training]:
    """Return the trainings of studies, each once: folder -> training."""
    found: dict[Path, Training] = {}
    for study in studies:
        for part in study.parts:
            if part.train is not None:
                found |= {one.folder: one for one in list_trainings(part.train, folder)}
    return found


def train_all(
    trainings: Sequence[Training], device: str
) -> Generator[tuple[Training, CriticalMassError | None]]:
    """Train networks, several at a time, each on one thread; yield each when it ends.

    A small network gains little from a second thread, and another network gains all of it. On one
    core, and on a GPU, one network is trained at a time, in this process. A training whose start
    failed fails with the same error.

    Parameters
    ----------
    trainings: a network comes after the one that it starts from.
    device: as of `criticalmass.train`.

    Raises
    ------
    CriticalMassError: a process was killed.
    """
    waiting = []
    for one in trainings:
        if _is_finished(one):
            yield one, None
        else:
            waiting.append(one)
    if not waiting:
        return
    from criticalmass.extraction.models.loading import resolve_device

    place = resolve_device(device)
    open_folders = {one.folder for one in waiting}
    failed: dict[Path, CriticalMassError] = {}
    running: dict[Future[str | None], Training] = {}
    with _workers(min(len(waiting), thread_count() if place == "cpu" else 1)) as submit:
        while waiting or running:
            for one in [one for one in waiting if one.start not in open_folders]:
                waiting.remove(one)
                if one.start in failed:
                    failed[one.folder] = failed[one.start]
                    open_folders.discard(one.folder)
                    yield one, failed[one.folder]
                    continue
                running[submit(one.recipe.to_dict(), str(one.folder), place)] = one
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                one = running.pop(future)
                text = future.result()
                open_folders.discard(one.folder)
                if text is not None:
                    failed[one.folder] = CriticalMassError(text)
                yield one, failed.get(one.folder)


Submit = Callable[[Mapping[str, Any], str, str], "Future[str | None]"]


@contextmanager
def _workers(count: int) -> Iterator[Submit]:
    """Yield a function that trains a network in one of so many processes; in this one for 1."""
    if count == 1:

        def train_here(*arguments: Any) -> Future[str | None]:
            future: Future[str | None] = Future()
            future.set_result(_train_one(*arguments))
            return future

        yield train_here
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=end_with_parent) as pool:
        try:
            yield lambda *arguments: pool.submit(_train_one, *arguments)
        except BrokenProcessPool as error:
            raise CriticalMassError(
                "a process that trained a network was killed, probably for lack of memory; close "
                "other programs and run the same command again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _is_finished(training: Training) -> bool:
    """Return whether a network is trained and its weights are there, without importing torch.

    What is not finished goes to `train`, which repairs it or says what is wrong.
    """
    folder = training.folder
    if not is_kind(folder, TRAINING):
        return False
    manifest = read_manifest(folder, TRAINING)
    if not manifest["complete"] or manifest["recipe_digest"] != training.recipe.digest:
        return False
    try:
        for entry in (*manifest["checkpoints"], manifest["log"]):
            checked_path(folder, entry, verify=True)
    except StoreError:
        return False
    return True


def end_with_parent() -> None:
    """End this process as soon as the one that started it has died, however it died."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_one(recipe: Mapping[str, Any], folder: str, device: str) -> str | None:
    """Train a network in this process; return the text of its error, None if it was trained."""
    from criticalmass.training.train import train

    try:
        train(recipe, out=folder, device=device, threads=1)
    except CriticalMassError as error:
        return str(error)
    return None

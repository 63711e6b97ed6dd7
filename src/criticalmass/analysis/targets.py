"""What the mean over subsets is to reach: a share of the whole layer's value, or an accuracy.

The whole layer may be that of another run, the control, and a share may be one of the accuracy
above chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from criticalmass.analysis.columns import CurveKey, Draws
from criticalmass.analysis.curves import curves_of
from criticalmass.analysis.estimators import checked_deltas
from criticalmass.core.moments import FloatArray
from criticalmass.core.progress import warn_user
from criticalmass.errors import CriticalMassError
from criticalmass.measures.registry import is_similarity
from criticalmass.storage.run import Run

#: The values of the column ``bar_kind``: what the value to reach is a share of, or an accuracy.
WHOLE, ABOVE_CHANCE = "whole layer", "above chance"
CONTROL, CONTROL_ABOVE_CHANCE = "control", "control above chance"
ACCURACY = "accuracy"


@dataclass(frozen=True, eq=False)
class ControlLayer:
    """The whole layer of a control.

    Attributes
    ----------
    name: model and, if it is not that of the curve, layer.
    value: value of the measure.
    draws: (resamples,) bootstrap draws of ``value``.
    """

    name: str
    value: float
    draws: FloatArray


@dataclass(frozen=True, eq=False)
class Target:
    """What the mean over subsets is to reach.

    Attributes
    ----------
    value: a share, or an accuracy.
    is_absolute: whether ``value`` is an accuracy.
    chance: accuracy of the constant answer, above which the share is taken; None for a share of
        the value itself. It does not vary with the draws of test samples.
    control: the whole layer that the share is of; None for that of the subsets.
    """

    value: float
    is_absolute: bool = False
    chance: float | None = None
    control: ControlLayer | None = None

    @property
    def delta(self) -> float | None:
        """The share of a whole layer's value; None for an accuracy."""
        return None if self.is_absolute else self.value

    @property
    def kind(self) -> str:
        """What ``value`` is a share of, as in the column ``bar_kind``."""
        if self.is_absolute:
            return ACCURACY
        if self.chance is None:
            return WHOLE if self.control is None else CONTROL
        return ABOVE_CHANCE if self.control is None else CONTROL_ABOVE_CHANCE

    def bars(self, full: float, full_draws: FloatArray) -> tuple[float, FloatArray]:
        """Return the value to reach, and that of each bootstrap draw, (resamples,).

        Parameters
        ----------
        full: value of the whole layer.
        full_draws: (resamples,) bootstrap draws of ``full``.
        """
        if self.is_absolute:
            return self.value, np.full_like(full_draws, self.value)
        if self.control is not None:
            full, full_draws = self.control.value, self.control.draws
        chance = self.chance or 0.0
        draws = np.asarray(chance + self.value * (full_draws - chance))
        return chance + self.value * (full - chance), draws

    def is_defined(self, full: float) -> bool:
        """Whether there is something to take a share of: a whole layer better than chance."""
        if self.is_absolute:
            return True
        return (full if self.control is None else self.control.value) > (self.chance or 0.0)


@dataclass(frozen=True)
class Targets:
    """What the caller asks for; `of_curve` makes it the targets of one curve.

    Attributes
    ----------
    deltas: shares.
    accuracies: accuracies of probes.
    chance_corrected: whether a share is one of the accuracy above chance.
    control: run whose whole layers give further values to reach, or None.
    """

    deltas: tuple[float, ...]
    accuracies: tuple[float, ...] = ()
    chance_corrected: bool = False
    control: Run | None = None

    @classmethod
    def checked(
        cls,
        deltas: float | Sequence[float],
        accuracy: float | Sequence[float] | None = None,
        chance_corrected: bool = False,
        control: Run | None = None,
    ) -> Targets:
        """Return what is asked for; refuse shares and accuracies outside (0, 1]."""
        given = [] if accuracy is None else accuracy
        accuracies = np.atleast_1d(np.asarray(given, dtype=np.float64)).tolist()
        for value in accuracies:
            if not 0.0 < value <= 1.0:
                raise CriticalMassError(
                    f"accuracy={value} is outside (0, 1]; 0.65 means 65 % of the test samples"
                )
        return cls(tuple(checked_deltas(deltas)), tuple(accuracies), chance_corrected, control)

    def refuse_similarities(self, runs: Sequence[Run]) -> None:
        """Refuse what only probes have for runs without one; warn of similarities beside probes."""
        accuracies = ", ".join(f"{value:g}" for value in self.accuracies)
        asked = [f"accuracy={accuracies}"] if accuracies else []
        asked += ["chance_corrected=True"] if self.chance_corrected else []
        asked += [f"control={self.control.path}"] if self.control is not None else []
        measures = {str(name) for run in runs for name in run.frame()["measure"].unique()}
        names = ", ".join(sorted(filter(is_similarity, measures)))
        if not asked or not names:
            return
        what = " and ".join(asked)
        verb = "are" if len(asked) > 1 else "is"
        if all(map(is_similarity, measures)):
            raise CriticalMassError(
                f"{what} {verb} for probes, but the run has only {names}, which have no accuracy "
                "and no chance level; sweep with e.g. --measure logistic, or leave it out"
            )
        warn_user(f"{what} {verb} for probes: no such row for {names}")

    def of_curve(
        self, key: CurveKey, chance: float | None, control: ControlRun | None
    ) -> list[Target]:
        """Return the targets of one curve: shares, shares of the control, then accuracies.

        Parameters
        ----------
        key: of the curve.
        chance: accuracy of the constant answer; None for a similarity.
        control: the control of this run.
        """
        shares = [Target(delta) for delta in self.deltas]
        if chance is None:
            return [] if self.chance_corrected else shares
        if self.chance_corrected:
            shares = [replace(share, chance=chance) for share in shares]
        whole = None if control is None else control.whole_layer(key)
        of_control = [] if whole is None else [replace(share, control=whole) for share in shares]
        accuracies = [Target(value, is_absolute=True) for value in self.accuracies]
        return [*shares, *of_control, *accuracies]


@dataclass(frozen=True, eq=False)
class ControlRun:
    """The whole layers of a run that other runs on the same test samples are held against.

    Attributes
    ----------
    run: the run.
    layers: measure -> layer -> its value.
    """

    run: Run
    layers: dict[str, dict[str, ControlLayer]]

    @classmethod
    def of(cls, control: Run, run: Run, draws: Draws) -> ControlRun:
        """Read the whole layers of a control of a run.

        The draws of test samples are those of ``run``, so that both are resampled together.

        Raises
        ------
        CriticalMassError: if the test samples differ, or no probe is common to both.
        """
        if not _same_grouping(control.labels(), run.labels()):
            n = [f"{one.path} ({len(one.labels()):,} test samples)" for one in (control, run)]
            raise CriticalMassError(
                f"control={n[0]} has other test labels than {n[1]}; a control is a run on the "
                "same test samples in the same order, e.g. of the same dataset"
            )
        layers: dict[str, dict[str, ControlLayer]] = {}
        for curve in curves_of(control, draws):
            key = curve.key
            if curve.full and not is_similarity(key.measure):
                whole = ControlLayer(key.model, curve.full, curve.full_draws)
                layers.setdefault(key.measure, {})[key.layer] = whole
        frame = run.frame()
        asked = [name for name in frame["measure"].unique() if not is_similarity(name)]
        missing = ", ".join(sorted(set(asked) - set(layers)))
        has = f"control={control.path} has {', '.join(sorted(layers)) or 'no probe'}"
        if missing and set(asked) & set(layers):
            warn_user(f"{has}: no row of the control for {missing}")
        elif missing:
            raise CriticalMassError(
                f"{has} and {run.path} has {missing}; sweep a common measure into the control, "
                f"e.g. --measure {asked[0]} --fraction 1"
            )
        return cls(control, layers)

    def whole_layer(self, key: CurveKey) -> ControlLayer | None:
        """Return the control's layer of the same name, or its only one, by the same measure.

        Raises
        ------
        CriticalMassError: if the control has several layers and none of that name.
        """
        layers = self.layers.get(key.measure)
        if layers is None:
            return None
        if key.layer in layers:
            return layers[key.layer]
        if len(layers) > 1:
            raise CriticalMassError(
                f"control={self.run.path} has the layers {', '.join(layers)} and none called "
                f"{key.layer!r}; sweep one of them into a run of its own"
            )
        ((layer, whole),) = layers.items()
        return replace(whole, name=f"{whole.name}, {layer}")


def _same_grouping(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> bool:
    """Whether two arrays of class ids group the samples in the same way.

    Imported labels may number the classes of a dataset differently.
    """
    if a.shape != b.shape:
        return False
    pairs = np.unique(np.stack([a, b]), axis=1).shape[1]
    return bool(pairs == np.unique(a).size == np.unique(b).size)

"""Candidates of stored vectors: which map in which precision, with or without re-ranking.

A candidate shortens vectors (a subset of dimensions, principal directions, or these after a random
rotation), scales them to length 1 and stores them in a precision. A query is shortened in the same
way and compared by inner products with what is stored; where bits are stored it is encoded too.
With re-ranking r the best 10 r stored vectors are sorted by the cosine of whole vectors.

Candidates are ranked on the selection part. On the test split one fixed sequence is tested: all
dimensions as float16 and as int8 first, then the best candidate from its largest size down, up to
the first failure. The rows of the table of the front are fixed before the test split is read too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from criticalmass.core.progress import Progress
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.candidates import Goal, geometric_sizes
from criticalmass.shrinking.codec import BITS, Codec, bytes_per_vector
from criticalmass.shrinking.probe_evaluator import QueryScores
from criticalmass.shrinking.stored_search import Encoding, StoredEvaluator, learn_encodings
from criticalmass.shrinking.stored_vectors import ALL, Family, Form, ShortMap

#: Shortened, the neighbours of whole vectors are re-ranked among this many times 10, or not.
RERANKS = (0, 4)
# Sizes of the coarse search of subsets and of principal directions, and the halvings after it.
_N_COARSE, _N_COARSE_PCA, _N_HALVINGS, _SMALLEST_SHARE = 6, 11, 3, 1 / 32
# Sizes that are tested, as multiples of the needed one, and the values that the front shows.
_STEPS = (3.0, 2.0, 1.5, 1.3, 1.2, 1.12, 1.06, 1.0, 0.94, 0.88, 0.82, 0.76)
_FRONT_SHARES = (0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, eq=False)
class StoredCandidate:
    """A family in a precision with or without re-ranking, and its values on the selection part.

    Attributes
    ----------
    family, precision, rerank: as in `Form`.
    values: size -> value of the measure.
    value_full: value of whole vectors.
    n_needed: fewest tested dimensions that meet the goal; None if no tested size does.
    n_max: largest number of dimensions within the limits.
    """

    family: Family
    precision: str
    rerank: int
    values: Mapping[int, float]
    value_full: float
    n_needed: int | None
    n_max: int

    def form(self, n_kept: int) -> Form:
        """Return the form of this candidate with ``n_kept`` dimensions."""
        return Form(self.family, n_kept, self.precision, self.rerank)

    @property
    def sort_key(self) -> tuple[bool, float, float]:
        """Candidates that meet the goal by ascending bytes, then the others by value."""
        if self.n_needed is None:
            return True, -max(self.values.values()), float(self.form(self.n_max).total_bytes)
        return False, self.form(self.n_needed).total_bytes, -self.values[self.n_needed]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row of the table of candidates per tested size."""
        full = self.value_full
        for size, value in sorted(self.values.items()):
            ratio = value / full if full else None
            yield {**self.form(size).row(), "value": value, "value_full": full, "ratio": ratio}


def rank_stored(
    evaluator: StoredEvaluator,
    families: Sequence[Family],
    precisions: Sequence[str],
    reranks: Sequence[int],
    goal: Goal,
    *,
    rotated: Sequence[str] = ("int8", "binary"),
) -> list[StoredCandidate]:
    """Find how many dimensions every candidate needs on the selection part.

    Parameters
    ----------
    evaluator: scores on the selection part.
    families, precisions, reranks: what competes.
    goal: what must be kept, within which limits.
    rotated: precisions of rotated directions. A rotation changes no inner product; it evens out
        what int8 and bits round.

    Returns
    -------
    Candidates that meet the goal by ascending bytes in total, then the others by descending value.

    Raises
    ------
    CriticalMassError: if no precision has a dimension within the limits.
    """
    d = families[0].n_neurons
    limits = {precision: goal.max_neurons(d, precision) for precision in precisions}
    if not any(limits.values()):
        raise CriticalMassError(
            f"budget_bytes={goal.budget_bytes} and max_dims={goal.max_dims} leave no room for one "
            f"dimension in {', '.join(precisions)}; allow at least "
            f"{min(bytes_per_vector(1, p) for p in precisions)} bytes and 1 dimension"
        )
    full = float(evaluator.reference.scores_full.mean())
    search = _Search(evaluator, tuple(reranks), goal.keep * full)
    candidates = []
    with Progress("candidates on the selection part", total=len(families), unit="rules") as bar:
        for family in families:
            fitting = {
                precision: n_max
                for precision, n_max in limits.items()
                if n_max >= (d if family.selector == ALL else 1)
                and (not family.is_rotated or precision in rotated)
            }
            for (precision, rerank), values in search.run(family, fitting).items():
                enough = [size for size, value in values.items() if value >= search.bar]
                candidates.append(
                    StoredCandidate(
                        family, precision, rerank, values, full, min(enough, default=None),
                        fitting[precision],
                    )
                )  # fmt: skip
            bar.advance(1)
    return sorted(candidates, key=lambda candidate: candidate.sort_key)


@dataclass(frozen=True, eq=False)
class _Search:
    """Scores of coarse sizes, and of sizes in between where a smaller one could be the best.

    Attributes
    ----------
    evaluator: scores on the selection part.
    reranks: amounts of re-ranking.
    bar: value to reach.
    fewest: (kind, amount of re-ranking) -> fewest bytes that reach the bar so far.
    """

    evaluator: StoredEvaluator
    reranks: tuple[int, ...]
    bar: float
    fewest: dict[tuple[str, int], int] = field(default_factory=dict)

    def run(
        self, family: Family, limits: Mapping[str, int]
    ) -> dict[tuple[str, int], dict[int, float]]:
        """Return (precision, amount of re-ranking) -> size -> value.

        Parameters
        ----------
        family: rule of the maps.
        limits: precision -> largest number of dimensions.
        """
        tables: dict[tuple[str, int], dict[int, float]] = {
            (precision, rerank): {} for precision in limits for rerank in self.reranks
        }
        self._score(
            family,
            [(size, precision) for precision in limits
             for size in self._coarse(family, limits[precision])],
            tables,
        )  # fmt: skip
        for _ in range(0 if family.selector == ALL else _N_HALVINGS):
            between = [
                (self._middle(family.kind, *key, table), key[0]) for key, table in tables.items()
            ]
            pairs = [(size, precision) for size, precision in between if size is not None]
            if not pairs:
                break
            self._score(family, list(dict.fromkeys(pairs)), tables)
        return tables

    def _middle(
        self, kind: str, precision: str, rerank: int, table: Mapping[int, float]
    ) -> int | None:
        """Return a size between the smallest that reaches the bar and the next smaller one.

        None if there is none, or if it could not be the best of its kind.
        """
        high = min((size for size, value in table.items() if value >= self.bar), default=0)
        low = max((size for size in table if size < high), default=0)
        middle = round((max(low, 1) * high) ** 0.5)
        smallest = bytes_per_vector(low + 1, precision)
        is_possible = smallest <= self.fewest.get((kind, rerank), smallest)
        return middle if low < middle < high and is_possible else None

    def _coarse(self, family: Family, n_max: int) -> tuple[int, ...]:
        if family.selector == ALL:
            return (family.n_neurons,)
        smallest = max(1, round(family.n_neurons * _SMALLEST_SHARE))
        n = _N_COARSE if family.directions is None else _N_COARSE_PCA
        return geometric_sizes(min(n_max, smallest), n_max, n)

    def _score(
        self,
        family: Family,
        forms: Sequence[tuple[int, str]],
        tables: dict[tuple[str, int], dict[int, float]],
    ) -> None:
        """Score (size, precision) pairs in one pass, with every amount of re-ranking."""
        maps = {size: family.short_map(size) for size, _ in forms}
        requests = [(maps[size], precision) for size, precision in forms]
        scores = self.evaluator.scores(requests, self.reranks)
        for (size, precision), of_form in zip(forms, scores, strict=True):
            needed = bytes_per_vector(size, precision)
            for rerank, of_queries in zip(self.reranks, of_form, strict=True):
                value = float(of_queries.mean())
                tables[precision, rerank][size] = value
                if value >= self.bar:
                    key = family.kind, rerank
                    self.fewest[key] = min(needed, self.fewest.get(key, needed))


@dataclass(frozen=True, eq=False)
class StoredTest:
    """One form and its scores on the test split.

    Attributes
    ----------
    form, short_map, codec: how vectors are stored.
    scores: of the queries, by the measure.
    ndcg, recall: means by both scores of retrieval.
    bound: lower confidence bound of value / value of whole vectors.
    passed: whether the bound reaches the goal.
    """

    form: Form
    short_map: ShortMap
    codec: Codec
    scores: QueryScores
    ndcg: float
    recall: float
    bound: float
    passed: bool


@dataclass(frozen=True, eq=False)
class StoredTests:
    """Tests of forms on the test split; each form is scored once.

    Attributes
    ----------
    evaluator: stored vectors are all training rows, queries are test rows.
    goal: what must be kept, at which confidence.
    """

    evaluator: StoredEvaluator
    goal: Goal
    _done: dict[tuple[object, ...], StoredTest] = field(default_factory=dict)

    def run(self, forms: Sequence[Form]) -> list[StoredTest]:
        """Score forms and compute their bounds; those that are new are scored in one pass."""
        new = [form for form in forms if form.key not in self._done]
        new = list({form.key: form for form in new}.values())
        # A map in a precision is searched once for all amounts of re-ranking.
        groups: dict[tuple[object, ...], list[Form]] = {}
        for form in new:
            groups.setdefault((form.map_key, form.precision), []).append(form)
        maps = {form.map_key: form.family.short_map(form.n_kept) for form in new}
        encodings = learn_encodings(
            self.evaluator.rows,
            [(maps[same[0].map_key], same[0].precision) for same in groups.values()],
        )
        requests = [
            (encoding, tuple(form.rerank for form in same))
            for encoding, same in zip(encodings, groups.values(), strict=True)
        ]
        retrieved = self.evaluator.neighbours(requests)
        for encoding, same, lists in zip(encodings, groups.values(), retrieved, strict=True):
            for form, ids in zip(same, lists, strict=True):
                self._done[form.key] = self._test(form, encoding, ids)
        return [self._done[form.key] for form in forms]

    def _test(self, form: Form, encoding: Encoding, ids: NDArray[np.int32]) -> StoredTest:
        reference = self.evaluator.reference
        result = QueryScores((form.n_kept,), reference.score(ids)[None], reference.scores_full)
        ndcg, recall = (float(reference.score(ids, kind).mean()) for kind in ("ndcg", "recall"))
        bound = result.bound(0, self.goal.level)
        passed = bound >= self.goal.keep
        return StoredTest(
            form, encoding.short_map, encoding.codec, result, ndcg, recall, bound, passed
        )

    def certify(self, candidate: StoredCandidate, plain: Sequence[str]) -> list[StoredTest]:
        """Test a fixed sequence of forms, from the safest to the smallest, up to a failure.

        Parameters
        ----------
        candidate: the best candidate on the selection part.
        plain: as `forms_to_test` takes it.

        Returns
        -------
        The tests in their order. All that passed hold together.
        """
        tests: list[StoredTest] = []
        for test in self.run(forms_to_test(candidate, plain)):
            tests.append(test)
            if not test.passed:
                break
        return tests

    def tabulate(self, forms: Sequence[Form], chosen: StoredTest | None) -> pd.DataFrame:
        """Return the table of the front, by bytes in total.

        Parameters
        ----------
        forms: fixed before the test split is read.
        chosen: the form of the promise, which is added.

        Returns
        -------
        One row per form; ``bound`` holds for one row that is fixed beforehand, ``bound_all`` for
        all rows at once (Bonferroni).
        """
        tests = self.run(forms)
        if chosen is not None and chosen not in tests:
            tests.append(chosen)
        level_all = 1.0 - (1.0 - self.goal.level) / max(1, len(tests))
        n_stored = int(self.evaluator.stored.rows.shape[0])
        k = self.evaluator.reference.n_neighbours
        rows = [
            {
                **test.form.row(),
                "bytes_once": test.form.bytes_once(test.short_map),
                "cost": test.form.cost(test.short_map, n_stored, k),
                "ndcg": test.ndcg,
                "recall": test.recall,
                "bound": test.bound,
                "bound_all": test.scores.bound(0, level_all),
                "chosen": test is chosen,
            }
            for test in tests
        ]
        return pd.DataFrame(rows).sort_values(["bytes_total", "bytes"]).reset_index(drop=True)


def tabulate_stored(tests: Sequence[StoredTest]) -> pd.DataFrame:
    """Return one row per tested form, the smallest first."""
    return pd.DataFrame(
        [
            {
                "n_kept": test.form.n_kept,
                "selector": test.form.family.name,
                "precision": test.form.precision,
                "value": float(test.scores.values[0]),
                "bound": test.bound,
                "holds": test.passed,
            }
            for test in reversed(tests)
        ]
    )


def forms_to_test(candidate: StoredCandidate, plain: Sequence[str]) -> list[Form]:
    """Return the sequence of forms, from the safest to the smallest.

    Parameters
    ----------
    candidate: the best candidate on the selection part.
    plain: precisions in which all dimensions are tested before it. Among many more vectors than
        on the selection part the candidate can need more dimensions than the sequence has; all
        of them in few bytes may still be enough.
    """
    family, d, n_max = candidate.family, candidate.family.n_neurons, candidate.n_max
    sizes = {d if family.selector == ALL else n_max}
    if candidate.n_needed is not None and family.selector != ALL:
        sizes = {min(n_max, round(step * candidate.n_needed)) for step in _STEPS}
    sizes = {size for size in sizes if 1 <= size <= n_max}
    forms = [candidate.form(size) for size in sorted(sizes, reverse=True)]
    # A subset of all dimensions in float32 is the reference itself.
    forms = [form for form in forms if form.n_kept < d or form.precision != "float32"]
    whole = [Form(Family(ALL, 0, d), d, precision, candidate.rerank) for precision in plain]
    return list({form.key: form for form in [*whole, *forms]}.values())


def forms_of_front(candidates: Sequence[StoredCandidate], keep: float) -> list[Form]:
    """Return the forms that the table of the front shows, chosen on the selection part.

    They are the smallest ones that reach .8, .9, .95, .99 and the goal, with each amount of
    re-ranking; the smallest one of each kind of rule that reaches the goal; and all dimensions in
    each precision and as float16.
    """
    d = candidates[0].family.n_neurons
    reached = [
        (value / (candidate.value_full or 1.0), candidate.form(size))
        for candidate in candidates
        for size, value in candidate.values.items()
        if size < d or candidate.family.order is None
    ]
    forms = []
    for share in sorted({*_FRONT_SHARES, keep}):
        groups: dict[object, list[tuple[int, float, Form]]] = {}
        for ratio, form in reached:
            if ratio >= share:
                entry = (form.index_bytes, -ratio, form)
                groups.setdefault(form.rerank, []).append(entry)
                if share == keep:
                    groups.setdefault((form.family.kind, form.rerank), []).append(entry)
        forms += [min(group, key=lambda entry: entry[:2])[2] for group in groups.values()]
    precisions = {candidate.precision for candidate in candidates} | {"float16"}
    plain = Family(ALL, 0, d)
    forms += [Form(plain, d, precision, 0) for precision in BITS if precision in precisions]
    return list({form.key: form for form in forms}.values())


def on_front(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows are on the front of bytes in the index, bytes in total, and value.

    A row is on it if no other one takes at most as many bytes of both kinds and has at least its
    value, one of them strictly better.
    """
    costs = np.column_stack([frame["bytes"], frame["bytes_total"], -frame["value"]])
    # Lexicographic order: a row can be dominated by earlier ones only.
    order = np.lexsort(costs.T[::-1])
    is_on_front = np.zeros(len(costs), dtype=np.bool_)
    for position in order:
        members = costs[is_on_front]
        is_on_front[position] = not (members <= costs[position]).all(axis=1).any()
    return is_on_front


def advise(front: pd.DataFrame, keep: float) -> list[str]:
    """Compare the chosen form with plain float16, and with re-ranking by whole vectors.

    Parameters
    ----------
    front: table from `StoredTests.tabulate`.
    keep: share of the value to keep.

    Returns
    -------
    Sentences. A form other than the chosen one is recommended by a bound that holds for all rows.
    """
    chosen = front[front["chosen"]].iloc[0]
    is_plain = (front["selector"] == ALL) & (front["precision"] == "float16")
    plain = front[is_plain & (front["rerank"] == 0)].iloc[0]
    whole = f"All {plain['n_kept']:,} dimensions as float16 (halfvec)"
    size = f"{plain['bytes']:,} bytes a vector"
    sentences = []
    if chosen["bytes"] >= plain["bytes"] and chosen["recall"] < plain["recall"]:
        sentences.append(
            f"{whole} are the better deal: {size} and a recall of {plain['recall']:.4f}, against "
            f"{chosen['bytes']:,} bytes and {chosen['recall']:.4f}."
        )
    elif not (chosen["selector"] == ALL and chosen["precision"] == "float16"):
        sentences.append(
            f"{whole} take {size}, {plain['bytes'] / chosen['bytes']:.3g} times as many, and have "
            f"a recall of {plain['recall']:.4f} instead of {chosen['recall']:.4f}."
        )
    is_smaller = (front["rerank"] > 0) & (front["bytes"] < chosen["bytes"])
    reranked = front[is_smaller & (front["bound_all"] >= keep)]
    if len(reranked) and not chosen["rerank"]:
        best = reranked.sort_values("bytes").iloc[0]
        sentences.append(
            f"Where whole vectors stay stored, {best['bytes']:,} bytes a vector in the index are "
            f"enough ({best['n_kept']:,} dimensions, {best['selector']}, {best['precision']}): "
            f"re-ranking the best {best['rerank']} x 10 by whole vectors has a recall of "
            f"{best['recall']:.4f}."
        )
    return sentences

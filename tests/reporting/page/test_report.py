"""Headline, caveats, facts and drawings of the report."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd
import pytest

from criticalmass.reporting.figures.draw import new_axes
from criticalmass.reporting.page.headline import headline, headline_row
from criticalmass.reporting.page.provenance import caveats, facts
from criticalmass.reporting.page.svg import inline_svg, neuron_field, share_bar
from criticalmass.storage.run import Run

MakeRun = Callable[..., Run]


def masses(**changes: object) -> pd.DataFrame:
    """Make one row of `criticalmass.redundancy`."""
    row = {
        "model": "toy",
        "layer": "penultimate",
        "dataset": "blobs",
        "selector": "random",
        "measure": "logistic",
        "delta": 0.9,
        "estimator": "strict",
        "n_neurons": 1280,
        "value_full": 0.8,
        "critical_mass": 214,
        "critical_mass_low": 190,
        "critical_mass_high": 242,
        "dr": 0.83,
        "dr_low": 0.81,
        "dr_high": 0.85,
        "at_floor": False,
        "reached": True,
        "level": 0.95,
        "largest_failing": 192,
        "smallest_passing": 256,
        "pass_share": 0.95,
        "pass_mass": 250,
    }
    return pd.DataFrame([row | changes])


def sentence(**changes: object) -> str:
    """Write the headline of one row, with plain spaces."""
    return headline(headline_row(masses(**changes))).sentence.replace("\N{NO-BREAK SPACE}", " ")


def test_the_headline_is_one_sentence() -> None:
    assert sentence() == (
        "On average, random 214 of the 1,280 neurons keep 90 % of the accuracy (95 % interval 190 "
        "to 242; tested: 192 fails, 256 passes; 95 % of random subsets pass with 250)."
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"at_floor": True, "critical_mass": 13},
            "On average, random 13 of the 1,280 neurons already keep 90 %",
        ),
        (
            {"at_floor": True, "critical_mass": 1},
            "On average, random 1 of the 1,280 neurons already keeps",
        ),
        ({"critical_mass": 1280}, "All 1,280 neurons are needed to keep 90 %"),
        ({"reached": False, "critical_mass": 1280}, "No tested subset keeps 90 % of the accuracy."),
        ({"measure": "cka"}, "of the similarity (CKA) to the whole layer"),
        ({"selector": "pca-top"}, "The first 214 principal components of the 1,280 neurons keep"),
        ({"selector": "pca-bottom"}, "The last 214 principal components"),
        ({"selector": "lda-top"}, "The first 214 discriminant and principal axes"),
        ({"selector": "projection-gaussian"}, "Random projections to 214 dimensions"),
        ({"selector": "rotation"}, "Random projections to 214 dimensions"),
        ({"selector": "norm-high"}, "'norm-high'"),
        (
            {"critical_mass_low": 214, "critical_mass_high": 214},
            "(95 % interval 214 to 214; tested",
        ),
        ({"critical_mass_low": pd.NA}, "of the accuracy (tested: 192 fails, 256 passes;"),
        (
            {"critical_mass_low": pd.NA, "largest_failing": pd.NA, "pass_mass": pd.NA},
            "keep 90 % of the accuracy.",
        ),
    ],
)
def test_the_headline_in_other_cases(changes: dict[str, object], expected: str) -> None:
    assert expected in sentence(**changes)


def test_headline_prefers_a_task_over_similarity_and_delta_09() -> None:
    table = pd.concat(
        [
            masses(measure="cka"),
            masses(selector="first"),
            masses(delta=0.8),
            masses(critical_mass=7),
        ],
        ignore_index=True,
    )
    row = headline_row(table)
    assert row is not None
    assert row["critical_mass"] == 7
    assert headline_row(masses(critical_mass=None)) is None
    assert "no measure of this run has a critical mass" in headline(None).sentence


def test_names_in_drawings_are_escaped() -> None:
    drawing, ax = new_axes()
    ax.plot([0, 1], [0, 1], label='<script>"&')
    ax.legend()
    svg = str(inline_svg(drawing, identity="x", description='a "quoted" <title>'))
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    assert "<title>" not in svg
    assert svg.startswith('<svg role="img" aria-label="a &#34;quoted&#34;')
    assert "xmlns" not in svg
    assert "matplotlib.org" not in svg


def test_drawing_follows_the_colours_of_the_page() -> None:
    drawing, ax = new_axes()
    ax.plot([0, 1], [0, 1], color="#0072b2")
    ax.set_title("#0072b2 is a layer")
    svg = str(inline_svg(drawing, identity="x", description=""))
    assert "stroke: var(--series-0)" in svg
    assert "#0072b2 is a layer" in svg


def test_caveats_name_what_could_be_wrong(make_run: MakeRun) -> None:
    from criticalmass.analysis.redundancy import redundancy

    frail = make_run(seeds=3, n_test=400, failing=(50,), unfinished=(5,))
    found = caveats(frail.frame(), redundancy(frail, deltas=(0.5, 0.9)))
    text = " ".join(f"{caveat.title}: {caveat.text}" for caveat in found)
    assert "3 of 16 cells failed" in text
    assert "it <b>broke</b>" in text
    assert "3 of 16 fits did not converge" in text
    assert "Only 3 seeds" in text
    assert "Small test set: 400 samples" in text
    assert "± 0.040".replace(" ", "\N{NO-BREAK SPACE}") in text  # 2 sqrt(0.8 * 0.2 / 400)
    assert "logistic at 50\N{NO-BREAK SPACE}%" in text
    assert "10 neurons do not reach 90\N{NO-BREAK SPACE}%, 20 do" in text
    assert "about half of the random subsets of" in text
    severe = [caveat.severe for caveat in found]
    assert severe == sorted(severe, reverse=True)


def test_the_caveats_of_a_sound_run(make_run: MakeRun) -> None:
    from criticalmass.analysis.redundancy import redundancy

    sound = make_run()
    found = caveats(sound.frame(), redundancy(sound, deltas=(0.9,)))
    assert [caveat.title for caveat in found] == [
        "Random subsets, on average",
        "Gap between tested sizes",
        "The training set is not in the intervals",
    ]


def test_facts_come_from_the_manifest_and_the_table(make_run: MakeRun) -> None:
    run = make_run()
    texts = {fact.term: fact.text for fact in facts(run.manifest, run.frame())}
    assert texts["Model"] == "toy (test:toy, weights 0123456789ab)"
    assert texts["Dataset"] == "blobs (test:blobs, 2 classes)"
    assert texts["Selector random"].startswith("12 seeds, nested subsets of 5 sizes from 5 to 100")
    halves = {"rule": "random halves", "names": ["half-0", "half-1", "half-2"]}
    entries = facts(run.manifest | {"training_sets": halves}, run.frame())
    assert "3 random halves, in the intervals" in [fact.text for fact in entries]
    bare = {fact.term: fact.text for fact in facts({}, run.frame())}
    assert bare["Model"] == "toy"
    assert "Software" not in bare


@pytest.mark.parametrize(("kept", "neurons"), [(1, 1), (3, 64), (214, 1280), (500, 40_000)])
def test_field_has_a_dot_for_every_neuron_or_group(kept: int, neurons: int) -> None:
    field = str(neuron_field(kept, neurons))
    dots = {
        name: len(re.findall("M", d)) for name, d in re.findall(r'class="(\w+)" d="(.*?)"', field)
    }
    per_dot = max(1, -(-neurons // 1600))
    assert sum(dots.values()) == -(-neurons // per_dot)
    assert dots["kept"] == max(1, round(kept / per_dot))


def test_bar_is_as_long_as_the_share() -> None:
    bar = str(share_bar(0.1, 0.25, 0.5))
    assert 'class="kept" width="25.0"' in bar
    assert 'x="10.0"' in bar
    assert 'width="40.00"' in bar

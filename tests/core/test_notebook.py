"""Cards of results: short, escaped, and never an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from criticalmass.core.notebook import Card, Shown

HOSTILE = "</div><script>alert(1)</script><img src=x onerror=alert(1)>\n"


class Result(Shown):
    def __init__(self, card: Card | None) -> None:
        self.card = card

    def _card(self) -> Card:
        if self.card is None:
            raise ValueError("no card")
        return self.card


def test_every_text_is_escaped() -> None:
    frame = pd.DataFrame({HOSTILE: [HOSTILE]})
    html = Card(HOSTILE, {HOSTILE: HOSTILE}, HOSTILE, {HOSTILE: frame}).html
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;") == 7


def test_large_results_are_small() -> None:
    frame = pd.DataFrame({f"c{i}": range(10**4) for i in range(100)})
    result = Result(Card("t", {"a": "x" * 10**5}, "y" * 10**5, {"b": frame}))
    assert len(repr(result)) <= 200
    assert "\n" not in repr(result)
    html: Any = result._repr_html_()
    assert "first 12 of 10,000" in html
    assert len(html) < 15_000


def test_a_result_that_cannot_be_read_is_shown_by_its_type() -> None:
    assert repr(Result(None)) == "<Result>"
    assert Result(None)._repr_html_() is None


def test_what_verbs_return_shows_itself(store: Any, tmp_path: Path) -> None:
    import criticalmass as cm

    run = cm.sweep(store, out=tmp_path / "run", measures=("ridge",), seeds=3, refine="none")
    plan = cm.shrink(store, keep=0.5)
    results = [store, run, plan, plan.slim, cm.explain(store), cm.load_dataset("sklearn:digits")]
    results += [cm.verify(plan, store), store.features("train")]
    for result in results:
        assert len(repr(result)) <= 200
        if not hasattr(result, "shards"):
            assert len(result._repr_html_()) < 20_000
    assert plan.sentence in plan._repr_html_().replace("&#x27;", "'")
    assert "ok" in run._repr_html_()
    (tmp_path / "run" / "manifest.json").unlink()
    assert run._repr_html_() is None


@pytest.mark.parametrize("value", ["a\x00b", "\u202e", "\ud800"])
def test_unprintable_characters_are_left_out(value: str) -> None:
    Card("t", {"a": value}).html.encode()

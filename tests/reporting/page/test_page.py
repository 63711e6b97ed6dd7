"""The page: one offline file whose slider, figures and tables show what the tables hold."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from criticalmass.errors import CriticalMassError
from criticalmass.reporting.page.assets import as_json
from criticalmass.reporting.page.headline import headline, headline_row
from criticalmass.reporting.page.report import report
from criticalmass.reporting.plots import Axis, Plot, Series, share_axis
from criticalmass.storage.run import Run

MakeRun = Callable[..., Run]
EVERY_SIZE = (5, 10, 20, 50, 100)


class _References(HTMLParser):
    """Collects everything that could make a browser request or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in {"src", "srcset", "action", "poster", "data"} or name.startswith("on"):
                self.found.append(f"{tag} {name}={value}")
            if name in {"href", "xlink:href"} and not str(value).startswith("#"):
                self.found.append(f"{tag} {name}={value}")


def test_page_is_one_offline_file(make_run: MakeRun, tmp_path: Path) -> None:
    page = report([make_run("one"), make_run("two")], tmp_path / "pages" / "report.html")
    assert [item.name for item in page.parent.iterdir()] == ["report.html"]
    text = page.read_text(encoding="utf-8")
    references = _References()
    references.feed(text)
    assert references.found == []
    assert not references.tags & {"link", "img", "iframe", "object", "embed", "base"}
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) == 1
    assert re.findall(r"https?:[^\"]*", text) == ["http://www.w3.org/2000/svg"], "SVG's name alone"
    outside = re.sub(r'id="page-pdfs">.*?</script>', "", text.replace(script[0], ""))
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", outside)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    policy = html.unescape(re.findall(r'Policy" content="([^"]*)"', text)[0])
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy, "no other script may run"
    assert len(references.ids) == len(set(references.ids)), "ids of two drawings clash"
    for name in re.findall(r'(?:url\(#|href="#)([^")]+)', outside):
        assert name in references.ids


def test_page_answers_first_then_shows(make_run: MakeRun, tmp_path: Path) -> None:
    text = report(make_run(), tmp_path / "r.html").read_text(encoding="utf-8")
    body = text[text.index("<body>") :].replace("\N{NO-BREAK SPACE}", " ")
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))
    places = [
        words.index(part)
        for part in (
            "On average, random 12 of the 100 neurons keep 90 % of the accuracy (95 % interval",
            "Share of the whole layer’s value to keep",
            "How it was measured",
            "Logistic probes were fitted to 900 samples and scored on 3,000 others, for 12 random "
            "subsets at each of 5 sizes and for the whole layer.",
            "What could be wrong",
            "Critical mass and diffused redundancy",
            "Accuracy (logistic)",
            "The numbers behind the curves",
        )
    ]
    assert places == sorted(places)
    for part in ("0123456789ab", "OpenVINO in f32", "900 of 6,000 training samples", "180 of them"):
        assert part in words
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_hostile_names_show_as_text(make_run: MakeRun, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    one = make_run("a", layer=hostile, classes=(hostile, "b"), failing=(5,))
    text = report([one, make_run("b")], tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.count("<script") == 3, "two of data, one of code"
    assert "<b>broke" not in text
    assert "&lt;script&gt;" in text
    assert "\\u003cscript\\u003ealert" in text, "in the data of the figures too"


def test_data_between_script_tags_cannot_end_them() -> None:
    hostile = "</script><!-- & \u2028 \u2029 ]]>"
    text = str(as_json({"name": hostile, hostile: [None, 1.5, True]}))
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"name": hostile, hostile: [None, 1.5, True]}


def page_data(page: Path) -> dict[str, Any]:
    """Read the data that the page hands to its script."""
    found = re.findall(r'id="page-data">(.*?)</script>', page.read_text(encoding="utf-8"))
    return dict(json.loads(found[0]))


def test_the_slider_says_what_redundancy_says(make_run: MakeRun, tmp_path: Path) -> None:
    from criticalmass.analysis.redundancy import redundancy

    run = make_run()
    data = page_data(report(run, tmp_path / "r.html"))
    rows, strings = data["curves"][0]["rows"], data["strings"]
    assert len(rows) == len(data["stops"]) == 101
    for stop in (500, 655, 900, 1000):
        table = redundancy(run, deltas=(stop / 1000,))
        row = rows[data["stops"].index(stop)]
        best = headline_row(table)
        assert best is not None
        assert row["kept"] == best["critical_mass"]
        expected = headline(best)
        names = ("before", "number", "after", "detail")
        parts = [strings[row["strings"][name]].strip() for name in names]
        assert " ".join(part for part in parts if part) + "." == expected.sentence
        assert row["target"] == pytest.approx(stop / 1000 * 0.8)


def test_the_slider_knows_bytes_and_the_worst_class(make_run: MakeRun, tmp_path: Path) -> None:
    # 3,000 samples of class a alone: it loses what the accuracy loses, 0.80 to 0.78.
    data = page_data(report(make_run(), tmp_path / "r.html"))
    row = data["curves"][0]["rows"][data["stops"].index(900)]
    # Between the tested sizes 10 and 20; classes are known at the latter.
    assert row["kept"] == 12
    texts = {part: data["strings"][index] for part, index in row["strings"].items()}
    assert texts["saved"].startswith("352 of 400 bytes per vector (88")
    assert texts["worst"].endswith("with 20 neurons")
    assert re.match(r"a loses 2.% of its accuracy \(1 to [34]\)|a loses [23].% of", texts["worst"])


@pytest.mark.usefixtures("real_pdfs")
def test_every_figure_brings_its_data_and_a_small_pdf(make_run: MakeRun, tmp_path: Path) -> None:
    page = report([make_run("one"), make_run("two", seeds=11)], tmp_path / "r.html")
    assert page.stat().st_size < 6e6
    text = page.read_text(encoding="utf-8")
    data = page_data(page)
    pdfs = json.loads(re.findall(r'id="page-pdfs">(.*?)</script>', text)[0])
    plot_ids = re.findall(r'<figure class="plot" id="([^"]*)"', text)
    assert set(plot_ids) == set(data["plots"]) == set(pdfs)
    names = {name.removeprefix("run-1-") for name in plot_ids if name.startswith("run-1-")}
    assert names >= {"value-logistic", "dr", "classes", "agreement", "agreement-matrix"}
    for plot_id in plot_ids:
        table = data["plots"][plot_id]["table"]
        assert table["rows"], plot_id
        assert all(column["values"] for column in table["columns"]), plot_id
        pdf = base64.b64decode(pdfs[plot_id])
        assert pdf.startswith(b"%PDF")
        assert b"/FontFile2" in pdf, "TrueType fonts (Type 42) are embedded"
        assert b"/Type3" not in pdf


def test_runs_stand_side_by_side(make_run: MakeRun, tmp_path: Path) -> None:
    better = {5: 0.55, 10: 0.76, 20: 0.79, 50: 0.80, 100: 0.80}
    runs = [make_run("one"), make_run("two", accuracy=better)]
    ticks = ((0.0, "a task"), (1.0, "another"))
    table = pd.DataFrame({"x": [0.5]})
    axes = {"x": share_axis(0.1, 0), "y": Axis("", -0.5, 1.5, ticks)}
    points = (Series("all", [0.5, 0.2], [0, 1], shape="points"),)
    figure = Plot("tasks", "Every task", "Two of them.", "Tasks.", table, series=points, **axes)
    page = report(runs, tmp_path / "r.html", figures=[figure])
    text = page.read_text(encoding="utf-8")
    # The figures of the caller come first.
    assert next(iter(page_data(page)["plots"])) == "comparison-tasks"
    assert text.index("Every task") < text.index("Side by side (logistic)")
    assert "Side by side" in text
    assert "DR(0.9)" in text
    assert "comparison-together-logistic" in page_data(page)["plots"]
    assert "comparison-differences" in page_data(page)["plots"]


def test_runs_with_nothing_in_common_are_still_a_page(make_run: MakeRun, tmp_path: Path) -> None:
    failed = make_run("failed", failing=EVERY_SIZE)
    text = report([make_run("one"), failed], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "20 of the 100 neurons" in text
    assert "No answer yet" in text


def test_published_numbers_stand_beside(make_run: MakeRun, tmp_path: Path) -> None:
    points = [
        {"source": "Nanda <2023>", "measure": "logistic", "x": 0.2, "y": 0.75, "label": "R50"},
        {"source": "Nanda <2023>", "measure": "logistic", "x": 0.9, "y": 0.8, "figure": "dr"},
        {"source": "elsewhere", "measure": "knn", "x": 0.2, "y": 0.7},
    ]
    table = tmp_path / "points.csv"
    pd.DataFrame(points).to_csv(table, index=False)
    page = report(make_run(), tmp_path / "r.html", reference=table)
    plots = page_data(page)["plots"]
    for name, x, y in (("value-logistic", 0.2, 0.75), ("dr", 0.9, 0.8)):
        star = plots[f"run-1-{name}"]["series"][-1]
        assert (star["shape"], star["name"]) == ("stars", "Nanda <2023>")
        assert (star["x"], star["y"]) == ([x], [y])
    text = page.read_text(encoding="utf-8")
    assert "Published numbers in the figures" in text
    assert "Nanda &lt;2023&gt;" in text
    assert "elsewhere" not in text


def test_a_run_whose_every_cell_failed_is_still_a_page(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(failing=EVERY_SIZE)
    text = report(run, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No answer yet" in text
    assert "60 of 61 cells failed" in text


def test_mistakes_are_named_and_nothing_is_written(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "out" / "r.html"
    with pytest.raises(CriticalMassError, match="no run"):
        report([], out)
    with pytest.raises(CriticalMassError, match=r"\(1\.5,\)"):
        report(make_run(), out, deltas=(1.5,))
    empty = Run.create(tmp_path / "empty", {"model": "m", "dataset": "d"})
    with pytest.raises(CriticalMassError, match="no rows yet"):
        report(empty, out)
    assert not out.parent.exists()


def test_same_run_makes_the_same_page(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    one = report(run, tmp_path / "1.html").read_text(encoding="utf-8")
    two = report(run.path, tmp_path / "2.html").read_text(encoding="utf-8")
    assert one == two

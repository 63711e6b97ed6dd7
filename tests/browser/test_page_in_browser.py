"""The page as a browser shows it: offline, by keyboard, for screen readers, light and dark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.reporting.figure_words import Words, described_words, example_plots

from criticalmass.reporting.plots import PALETTE, Plot

HOSTILE = '<script>alert(1)</script>"\u2028&'


class Watched:
    """A page with its messages (console, errors, dialogs) and its requests."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.messages: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.messages.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def opened(browser: Any, written: Path, request: pytest.FixtureRequest) -> Iterator[Watched]:
    options = {"viewport": {"width": 1200, "height": 900}, **getattr(request, "param", {})}
    context = browser.new_context(accept_downloads=True, **options)
    watched = Watched(context.new_page())
    watched.page.goto(written.as_uri())
    yield watched
    context.close()


def sentence(watched: Watched, number: int = 0) -> str:
    return str(watched.page.locator("h1.headline").nth(number).inner_text())


def test_nothing_is_fetched_and_nothing_complains(opened: Watched, written: Path) -> None:
    opened.page.wait_for_timeout(300)
    assert opened.requests == [written.as_uri()]
    assert opened.messages == []
    assert opened.page.locator("figure.plot .canvas svg").count() >= 10


def test_the_policy_refuses_foreign_script(opened: Watched) -> None:
    opened.page.evaluate(
        "() => { const one = document.createElement('img'); one.src = 'x.png';"
        " document.body.append(one); }"
    )
    opened.page.wait_for_timeout(200)
    assert any("Content Security Policy" in line for line in opened.messages)
    blocked = "() => { try { document.body.innerHTML = '<b>x</b>'; return 'set'; }"
    assert opened.page.evaluate(blocked + " catch (error) { return error.name; } }") == "TypeError"


def test_the_slider_moves_every_number_at_once(opened: Watched) -> None:
    page = opened.page
    parts = ("number", "after", "mass", "dr", "saved", "worst")

    def texts() -> dict[str, str]:
        lead = page.locator(".lead").first
        return {part: lead.locator(f'[data-part="{part}"]').inner_text() for part in parts}

    before, field = texts(), page.locator("svg.field .kept").first.get_attribute("d")
    slider = page.locator("#delta")
    slider.focus()
    page.keyboard.press("Home")
    after = texts()
    assert slider.get_attribute("aria-valuetext").startswith("50")
    assert page.locator("#delta-value").inner_text().startswith("50")
    assert [part for part in parts if after[part] == before[part]] == []
    assert "50\N{NO-BREAK SPACE}%" in sentence(opened)
    assert page.locator("svg.field .kept").first.get_attribute("d") != field
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    assert "54\N{NO-BREAK SPACE}%" in sentence(opened), "each step is half a per cent"
    assert "54\N{NO-BREAK SPACE}%" in sentence(opened, 1), "all runs follow"
    page.keyboard.press("End")
    assert "100\N{NO-BREAK SPACE}%" in sentence(opened)
    assert opened.messages == []


def test_the_curve_can_be_chosen(opened: Watched) -> None:
    choice = opened.page.locator("select").first
    assert choice.locator("option").count() == 4, "two layers, two selectors"
    before = sentence(opened)
    other = choice.locator("option", has_text="pca-top").first.get_attribute("value")
    choice.select_option(other)
    assert sentence(opened) != before
    assert "principal components" in sentence(opened)


def test_a_hostile_name_stays_text(opened: Watched) -> None:
    page = opened.page
    assert page.locator("script").count() == 3
    shown = page.locator("body").inner_text()
    assert "<script>alert(1)</script>" in shown
    legend = page.locator("figure[id*=classes] .legend").first.inner_text()
    assert "<script>alert(1)</script>" in legend
    assert page.locator("b", has_text="toy").count() == 0
    assert "dialog" not in opened.messages


def test_the_keyboard_alone_reaches_everything(opened: Watched) -> None:
    page = opened.page
    expected = page.evaluate(
        "() => [...document.querySelectorAll('a, button, input, select, summary, .canvas')]"
        ".filter((one) => one.offsetParent !== null || one.className === 'skip').length"
    )
    reached = set()
    for _ in range(2 * expected):
        page.keyboard.press("Tab")
        index = page.evaluate(
            "() => { const one = document.activeElement; if (one === document.body) return -1;"
            " const style = getComputedStyle(one);"
            " if (style.outlineStyle === 'none') throw new Error('no focus ring ' + one.outerHTML);"
            " if (!one.matches('a, button, input, select, summary, .canvas')) return -2;"
            " return [...document.querySelectorAll('*')].indexOf(one); }"
        )
        if index == -1:
            break
        if index >= 0:
            reached.add(index)
    assert len(reached) == expected


def test_arrow_keys_read_a_figure(opened: Watched) -> None:
    page = opened.page
    figure = page.locator("figure[id='run-2-value-centroid']")
    plot, readout = figure.locator(".canvas"), figure.locator(".readout")
    plot.focus()
    page.keyboard.press("ArrowRight")
    first = readout.inner_text()
    assert re.search(r"4 neurons \(6.25.%\): 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", first)
    page.keyboard.press("ArrowRight")
    assert "8 neurons" in readout.inner_text()
    page.keyboard.press("ArrowDown")
    assert readout.inner_text().split(",")[0] != first.split(",")[0], "the other line"
    page.keyboard.press("End")
    assert "64 neurons" in readout.inner_text()
    page.keyboard.press("Escape")
    assert "arrow keys" in readout.inner_text()
    assert figure.locator(".cursor path").count() == 0


def test_a_line_can_be_hidden(opened: Watched) -> None:
    figure = opened.page.locator("figure[id='run-2-value-centroid']")
    button = figure.locator(".legend button").first
    before = figure.locator(".canvas path.line").count()
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert figure.locator(".canvas path.line").count() == before - 1


@pytest.mark.parametrize(
    ("kind", "start"), [("csv", b"model,"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_figures_can_be_taken_away(opened: Watched, kind: str, start: bytes) -> None:
    figure = opened.page.locator("figure[id='run-1-value-centroid']")
    with opened.page.expect_download() as waiting:
        figure.locator(f"[data-save={kind}]").click()
    path = waiting.value.path()
    content = Path(path).read_bytes()
    assert waiting.value.suggested_filename == f"run-1-value-centroid.{kind}"
    assert content.startswith(start)
    if kind == "svg":
        from xml.etree import ElementTree

        drawing = ElementTree.fromstring(content.decode())  # noqa: S314 -- our own page's
        assert drawing.tag.endswith("svg")
        assert b"var(" not in content
        assert b"script>" not in content
    if kind == "csv":
        import io

        import pandas as pd

        table = pd.read_csv(io.BytesIO(content))
        assert HOSTILE in set(table["layer"])
        assert len(table) == 20
    assert opened.messages == []


@pytest.mark.parametrize(
    "opened",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"color_scheme": "light", "viewport": {"width": 375, "height": 800}},
    ],
    ids=["light", "dark", "phone"],
    indirect=True,
)
def test_axe_finds_nothing(opened: Watched) -> None:
    package = pytest.importorskip("axe_playwright_python")
    axe = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    opened.page.evaluate(axe)
    result = opened.page.evaluate("() => axe.run()")
    violations = [
        (rule["id"], node["html"][:120], node.get("failureSummary", "")[:300])
        for rule in result["violations"]
        for node in rule["nodes"]
    ]
    assert violations == []
    assert len(result["passes"]) > 20
    overflow = opened.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, "the page does not scroll sideways"


def test_without_its_script_the_page_still_shows(browser: Any, written: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(written.as_uri())
    assert "neurons keep" in page.locator("h1.headline").first.inner_text()
    assert page.locator("figure.plot noscript svg").first.is_visible()
    assert not page.locator("#delta").is_visible()
    context.close()


def test_print_shows_the_record_and_no_buttons(opened: Watched) -> None:
    opened.page.emulate_media(media="print")
    opened.page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert not opened.page.locator(".files").first.is_visible()
    assert not opened.page.locator(".settings").is_visible()
    assert opened.page.locator("details.record dl").first.is_visible()
    assert opened.page.pdf().startswith(b"%PDF")


def invented(drawn: set[str], words: Words) -> set[str]:
    """Return the words of a drawing that are not described; long names may end with a dot."""
    described = {word.strip() for word in words.required | words.optional}
    return {
        word
        for word in (text.strip() for text in drawn)
        if word not in described
        and not (word[-1] == "…" and any(one.startswith(word[:-1]) for one in described))
    }


def test_both_renderers_draw_the_words_of_each_description(
    browser: Any, opened: Watched, written: Path
) -> None:
    specs = json.loads(str(opened.page.locator("#page-data").text_content()))["plots"]
    context = browser.new_context(java_script_enabled=False)
    without_script = context.new_page()
    without_script.goto(written.as_uri())
    assert len(specs) >= 10
    for plot_id, spec in specs.items():
        words = described_words(spec)
        for page, texts in (
            (opened.page, ".chart .canvas text, .chart .legend span"),
            (without_script, "noscript svg text"),
        ):
            figure = page.locator(f"figure[id='{plot_id}']")
            drawn = set(figure.locator(texts).all_text_contents())
            assert invented(drawn, words) == set()
            assert words.required <= drawn
    context.close()


_DRAW = """(spec) => {
  const figure = charts.html("figure", {}, document.querySelector("main"));
  charts.html("div", { class: "chart" }, figure);
  new charts.Chart(figure, JSON.parse(spec)).draw();
  const all = (selector) => [...figure.querySelectorAll(selector)];
  const colours = all(".line, .ring, .error-bar").map((one) => getComputedStyle(one).stroke);
  colours.push(...all(".dot, .band").map((one) => getComputedStyle(one).fill));
  const words = all(".canvas text, .legend span").map((one) => one.textContent);
  return { words, colours, dashed: all(".canvas .line[stroke-dasharray*=' ']").length };
}"""


@pytest.mark.parametrize("opened", [{"color_scheme": "light"}], indirect=True)
@pytest.mark.parametrize("plot", example_plots(), ids=lambda plot: plot.name)
def test_the_script_draws_the_words_and_colours_of_the_description(
    opened: Watched, plot: Plot
) -> None:
    spec = plot.spec()
    drawn = opened.page.evaluate(_DRAW, json.dumps(spec))
    words = described_words(spec)
    assert invented(set(drawn["words"]), words) == set()
    assert words.required <= set(drawn["words"])
    tones = {PALETTE.get(series.tone, series.tone) for series in plot.series}
    rgb = {f"rgb({int(c[1:3], 16)}, {int(c[3:5], 16)}, {int(c[5:], 16)})" for c in tones}
    assert set(drawn["colours"]) == rgb
    lines = [one for one in plot.series if one.shape in ("line", "bare", "steps")]
    assert drawn["dashed"] == sum(bool(one.dashes) for one in lines)
    assert opened.messages == []

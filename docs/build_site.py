"""Build the documentation site into ``site/``: ``make docs`` calls this file.

The pages are the Markdown files of ``docs/`` and of the repository's root. They are copied to
``build/site-source/``, where links are made to fit the site, notebooks become pages, and the
reference, the options of the command line and the gallery are written. Zensical then builds the
site and fails on a link or anchor that leads nowhere; :func:`faults_of` looks for what it does not
check: missing pictures, and anything that a browser would load from elsewhere.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import click

import criticalmass as cm
from criticalmass.cli.main import cli

ROOT = Path(__file__).parents[1]
DOCS, SOURCE, SITE = ROOT / "docs", ROOT / "build" / "site-source", ROOT / "site"
#: Files of the repository's root that are pages, and their names on the site.
ROOT_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "SECURITY.md": "vulnerabilities.md",
}
COPIED = {".md", ".png", ".svg", ".csv", ".css", ".js"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
IMAGE = re.compile(r"!\[([^\]]+)\]\(([^)]+)\)")
#: Titles of the pages of the reference: by the package that a public name lies in.
GROUPS = {
    "Models, data and vectors": ("extraction", "training"),
    "Measuring": ("sweeps", "storage", "measures", "selectors"),
    "Tables": ("analysis",),
    "Shrinking and exporting": ("shrinking",),
    "Pages, studies and advice": ("reporting", "studies", "core", "errors"),
    "Laws and predictions": ("theory",),
}


def build() -> None:
    """Write the source of the site, build it, and check what was built."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for origin, page in pages().items():
        target = SOURCE / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.suffix == ".md":
            target.write_text(as_page(origin), encoding="utf-8")
        elif origin.suffix == ".ipynb":
            convert(origin, target.parent)
        else:
            shutil.copy(origin, target)
    write_reference()
    (SOURCE / "gallery.md").write_text(gallery(), encoding="utf-8")
    program = Path(sys.executable).with_name("zensical")
    order = [program, "build", "--strict", "--clean"]
    built = subprocess.run(order, cwd=ROOT, capture_output=True, text=True, check=False)
    # Every character has a colour of its own, also in a file; a traceback ends each failure.
    text = re.sub(r"\x1b\[[0-9;]*m", "", built.stdout + built.stderr)
    sys.stderr.write(text.partition("Traceback")[0])
    if built.returncode:
        sys.exit(built.returncode)
    mark_corner_cells(SITE)
    faults = list(faults_of(SITE))
    sys.stderr.writelines(f"{fault}\n" for fault in faults)
    sys.exit(bool(faults))


def pages() -> dict[Path, str]:
    """Return every file of the site and its place there."""
    found = {ROOT / name: page for name, page in ROOT_PAGES.items()}
    for path in sorted(DOCS.rglob("*")):
        if path.suffix in COPIED:
            found[path] = path.relative_to(DOCS).as_posix()
        elif path.suffix == ".ipynb":
            found[path] = path.relative_to(DOCS).with_suffix(".md").as_posix()
    return found


def as_page(origin: Path) -> str:
    """Return the text of a page with links that fit the site."""
    text = origin.read_text(encoding="utf-8").replace("<!-- runnable -->\n", "")
    kept = [(match.start(), match.end()) for match in FENCE.finditer(text)]
    places = pages()
    here = places[origin]

    def fit(match: re.Match[str]) -> str:
        mark, label, target, anchor = match[1], match[2], match[3], match[4] or ""
        if any(start <= match.start() < end for start, end in kept):
            return match[0]
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        place = places.get((origin.parent / target).resolve())
        if place is None:
            # On the site there is no such file: the words stay, the link goes.
            return label if (origin.parent / target).exists() else match[0]
        up = "../" * here.count("/")
        return f"{mark}[{label}]({up}{place}{anchor})"

    return LINK.sub(fit, text)


def convert(notebook: Path, folder: Path) -> None:
    """Write a notebook as a page, with its stored outputs."""
    program = Path(sys.executable).with_name("jupyter-nbconvert")
    order = [program, "--to", "markdown", "--log-level", "ERROR", "--output-dir", folder, notebook]
    subprocess.run(order, check=True)
    page = folder / notebook.with_suffix(".md").name
    text = re.sub(r"<style[^>]*>.*?</style>\s*", "", page.read_text("utf-8"), flags=re.DOTALL)
    # The theme lets tables without a class scroll sideways on a phone. Tables of the terminal do
    # so as they are, but the keyboard must reach them.
    text = re.sub(r'( border="1")? class="dataframe[^"]*"', "", text)
    page.write_text(text.replace("<pre style=", "<pre tabindex=0 style="), encoding="utf-8")


def write_reference() -> None:
    """Write the pages of the public names, and one of the command line."""
    folder = SOURCE / "reference"
    folder.mkdir(exist_ok=True)
    index = ["# Python", "", "Use it as `import criticalmass as cm`.", ""]
    for title, packages in GROUPS.items():
        page = f"{re.sub('[^a-z]+', '-', title.lower())}.md"
        index += [f"## [{title}]({page})", "", "| name | what it does |", "| --- | --- |"]
        body = [f"# {title}", ""]
        for name, module in cm._PUBLIC.items():
            if module.partition(".")[0] not in packages:
                continue
            value = getattr(cm, name)
            documented = inspect.isclass(value) or callable(value)
            first = (inspect.getdoc(value) or "").partition("\n")[0] if documented else ""
            place = f"criticalmass.{defining_module(name, module)}.{name}"
            index.append(f"| [`{name}`]({page}#{place}) | {first} |")
            body += [f"::: {place}", ""]
        index.append("")
        (folder / page).write_text("\n".join(body), encoding="utf-8")
    (folder / "index.md").write_text("\n".join(index), encoding="utf-8")
    (folder / "command-line.md").write_text(command_line(), encoding="utf-8")


def defining_module(name: str, module: str) -> str:
    """Return the module that defines a public name; a package may only hand it on."""
    place = getattr(getattr(cm, name), "__module__", "")
    own = place.startswith("criticalmass.") and hasattr(importlib.import_module(place), name)
    return place.removeprefix("criticalmass.") if own else module


def command_line() -> str:
    """Return the page of the command line: every command's own help."""
    lines = [
        "# Command line",
        "",
        "Each command calls the public function of its name. What it reads is positional, what it "
        "writes is `--out`. Exit codes: 0 done; 2 a mistake of the user, in one line; 3 no promise "
        "(`shrink --fail-if-unsafe`), or one that new data do not confirm (`verify`); 1 a fault "
        "of the program.",
        "",
    ]
    for name, command in sorted(cli.commands.items()):
        context = click.Context(
            command, info_name=f"criticalmass {name}", terminal_width=88, **cli.context_settings
        )
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        lines += [f"## {name}", "", "```text", text, "```", ""]
    return "\n".join(lines)


def gallery() -> str:
    """Return a page with every figure of the documentation, below the page that it is from."""
    lines = ["# Gallery", "", "Every figure of this site, with the page that explains it.", ""]
    shown: set[str] = set()
    for path in sorted(SOURCE.rglob("*.md")):
        page = path.relative_to(SOURCE)
        text = path.read_text(encoding="utf-8")
        figures = {}
        for words, target in IMAGE.findall(text):
            place = (page.parent / target).as_posix()
            if place not in shown:
                figures[place] = " ".join(words.split())
        if figures and page.name != "gallery.md":
            shown |= figures.keys()
            heading = re.search(r"^# (.+)$", text, re.MULTILINE)
            title = heading[1] if heading else page.stem
            lines += [f"## {title}", "", f"From [{title}]({page.as_posix()}).", ""]
            for place, words in figures.items():
                lines += [f"![{words}]({place})", "", f"{words}", ""]
    return "\n".join(lines)


def mark_corner_cells(site: Path) -> None:
    """Make an empty cell of a table's head a plain cell: screen readers announce no empty name.

    Parameters
    ----------
    site: folder of the built site.
    """
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r"<th([^>]*)>\s*</th>", r"<td\1></td>", text), encoding="utf-8")


class _Loads(HTMLParser):
    """Collects what a browser fetches for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        fetched = values.get("rel") in ("stylesheet", "icon", "preconnect", "preload")
        if tag in ("img", "script", "iframe", "source") and values.get("src"):
            self.targets.append(values["src"] or "")
        elif tag == "link" and fetched:
            self.targets.append(values.get("href") or "")


def faults_of(site: Path) -> Iterator[str]:
    """Name what a page loads from elsewhere, or that is not there.

    Parameters
    ----------
    site: folder of the built site.
    """
    for page in sorted(site.rglob("*.html")):
        parser = _Loads()
        parser.feed(page.read_text(encoding="utf-8"))
        for target in parser.targets:
            name = f"{page.relative_to(site)}: {target[:100]}"
            if re.match(r"(https?:)?//", target):
                yield f"{name} is loaded from elsewhere"
            elif not target.startswith("data:"):
                plain = re.split(r"[?#]", target)[0]
                folder = site if plain.startswith("/") else page.parent
                if not (folder / plain.lstrip("/")).is_file():
                    yield f"{name} is not there"


if __name__ == "__main__":
    build()

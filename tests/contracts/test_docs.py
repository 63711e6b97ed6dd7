"""What the documents show can be run, and what they point at is there."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from criticalmass.cli.main import run_command

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"<!-- runnable -->\n```(python|bash)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


HEREDOC = re.compile(r"<<-? *'?(\w+)'?")
#: Commands that run in this process: criticalmass without a shell's signs, perhaps with the exit
#: code that it should have, and Python that is given word for word.
COMMAND = re.compile(
    r"criticalmass ((?:[^|<>;&$`\"]|\"[^\"$`]*\")*?)(?: \|\| test \$\? = (\d+))?", re.DOTALL
)
SCRIPT = re.compile(r"python - <<'(\w+)'\n(.*)\n\1", re.DOTALL)


def statements(code: str) -> list[str]:
    """Split a block into commands; a command keeps its continued lines and its here-document."""
    found: list[str] = []
    end = ""
    for line in code.splitlines():
        if end or (found and found[-1].endswith("\\")):
            found[-1] += f"\n{line}"
            end = "" if line == end else end
            continue
        found.append(line)
        document = HEREDOC.search(line)
        end = document[1] if document else ""
    return found


def run_shell(code: str, folder: Path) -> None:
    """Run commands as a reader would, in a folder of its document."""
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join([scripts, str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euc", code],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f"{code}\n{done.stderr}"


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Be where the document's commands are given; warnings are no errors there."""
    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def run_here(words: list[str], folder: Path) -> int | str | None:
    """Run a command of criticalmass in this process; return its exit code."""
    with in_folder(folder):
        try:
            return run_command(words)
        except SystemExit as end:
            return end.code


def run_python(code: str, folder: Path) -> None:
    """Run Python in this process, with names of its own: code that forgets an import fails."""
    with in_folder(folder):
        try:
            exec(compile(code, "block", "exec"), {"__name__": "__main__"})  # noqa: S102
        except Exception as error:
            raise AssertionError(code) from error


def run_block(language: str, code: str, folder: Path) -> None:
    """Run a block; Python and plain commands of criticalmass run here: a process starts slowly."""
    if language == "python":
        run_python(code, folder)
        return
    for statement in statements(code):
        if command := COMMAND.fullmatch(statement):
            assert run_here(shlex.split(command[1]), folder) == int(command[2] or 0), statement
        elif script := SCRIPT.fullmatch(statement):
            run_python(script[2], folder)
        elif statement.strip():
            run_shell(statement, folder)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_runnable_blocks_run(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Networks are trained in this process, too.
    monkeypatch.setattr("criticalmass.studies.trainings.thread_count", lambda: 1)
    for language, code in BLOCK.findall(document.read_text(encoding="utf-8")):
        run_block(language, code, tmp_path)


def test_the_readme_has_blocks_to_run() -> None:
    found = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {language for language, _ in found} == {"python", "bash"}


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("bash", "criticalmass exract\ntrue"),
        ("bash", "criticalmass list selectors | false"),
        ("bash", "criticalmass list selectors || test $? = 3"),
        ("bash", "python - <<'END'\nimport criticalmass as cm\ncm.nothing\nEND"),
        ("python", "import criticalmass as cm; cm.nothing"),
    ],
)
def test_a_block_that_fails_is_noticed(language: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_block(language, code, tmp_path)


def test_a_block_is_split_into_its_commands() -> None:
    code = "python - <<'END'\nprint(1)\n\nEND\ncriticalmass info \\\n  folder\nls\n"
    assert statements(code) == [
        "python - <<'END'\nprint(1)\n\nEND",
        "criticalmass info \\\n  folder",
        "ls",
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target

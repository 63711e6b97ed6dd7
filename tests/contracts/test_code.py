"""The house stays small: sizes of files and functions, and what may not stand in them."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import criticalmass as cm

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PUBLIC_VERBS = {"extract", "import_features", "sweep", "redundancy", "report", "measure"}
PUBLIC_VERBS |= {"attack", "invert", "ensembles", "advise", "shrink", "export", "explain", "study"}
PUBLIC_VERBS |= {"fit_probes", "curves", "compare", "predict_ridge", "figure", "shared_subsets"}
BINARY = (".png", ".pdf", ".npy", ".parquet")
MOST_LINES, MOST_BODY, MOST_PARAMETERS = 600, 50, 6


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def too_long(path: Path) -> list[str]:
    found = []
    if len(path.read_text().splitlines()) > MOST_LINES:
        found.append(f"{path}: {len(path.read_text().splitlines())} lines")
    found += [
        f"{path}:{node.lineno} {node.name}: body of {body_lines(node)} lines"
        for node in functions(path)
        if body_lines(node) > MOST_BODY
    ]
    return found


def too_many_parameters(path: Path) -> list[str]:
    found = []
    for node in functions(path):
        arguments = node.args
        names = [a.arg for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
        count = len([name for name in names if name not in ("self", "cls")])
        decorated = any("option" in ast.unparse(d) for d in node.decorator_list)
        private = node.name.startswith("_")
        if count > MOST_PARAMETERS and node.name not in PUBLIC_VERBS and not (decorated or private):
            found.append(f"{path}:{node.lineno} {node.name}: {count} parameters")
    return found


def test_files_and_bodies_are_short() -> None:
    assert SOURCES
    assert [line for path in SOURCES for line in too_long(path)] == []


def test_functions_take_few_parameters() -> None:
    assert [line for path in SOURCES for line in too_many_parameters(path)] == []


def test_the_counters_count(tmp_path: Path) -> None:
    long = tmp_path / "long.py"
    long.write_text("def f():\n" + "    x = 1\n" * 51 + "x = 0\n" * 600)
    assert len(too_long(long)) == 2
    wide = tmp_path / "wide.py"
    wide.write_text("def f(a, b, c, d, e, f, g): ...\n")
    assert len(too_many_parameters(wide)) == 1


@pytest.mark.parametrize(
    "pattern",
    [
        # Put together here, so that this file does not match itself.
        r"/(?:ro" + r"ot|ho" + r"me|tm" + r"p|wo" + r"rk)/[A-Za-z0-9_.]",
        "TO" + "DO|FIX" + "ME|NotImplemented" + "Error",
        r"files\.python" + r"hosted|py" + r"pi\.org|deb\.deb" + r"ian|registry\.np" + "m",
    ],
)
def test_no_machine_paths_stubs_or_registry_hosts(pattern: str) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    names = [name for name in listed.stdout.split() if not name.endswith(BINARY)]
    if not names:
        names = [str(p.relative_to(ROOT)) for p in SOURCES]
    found = []
    for name in filter(lambda name: (ROOT / name).is_file(), names):
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{name}:{number}: {line.strip()[:80]}")
    assert found == []


def test_importing_the_package_loads_no_heavy_library() -> None:
    names = ("torch", "numba", "pydantic", "psutil")
    code = f"import sys, criticalmass; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_package_bears_the_name_of_a_public_verb() -> None:
    top = {path.stem for path in (ROOT / "src" / "criticalmass").iterdir()}
    assert top & (set(cm.__all__) | PUBLIC_VERBS) == set()


def test_the_top_level_holds_packages_and_nothing_else() -> None:
    names = {path.name for path in (ROOT / "src" / "criticalmass").iterdir()}
    packages = {"cli", "studies", "reporting", "shrinking", "sweeps", "theory", "analysis"}
    packages |= {"selectors", "measures", "extraction", "storage", "core", "training", "probing"}
    assert names - packages - {"__pycache__"} == {
        "__init__.py",
        "__init__.pyi",
        "__main__.py",
        "errors.py",
        "py.typed",
    }


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    """The contracts of import-linter see an import that points up, inside a function too."""
    package = tmp_path / "src"
    shutil.copytree(ROOT / "src", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    line = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(package)}

    def lint() -> subprocess.CompletedProcess[str]:
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert lint().returncode == 0
    module = package / "criticalmass" / "core" / "rows.py"
    wrong = (
        "\n\ndef wrong() -> None:\n    from criticalmass.sweeps.plan import FULL  # noqa: F401\n"
    )
    module.write_text(module.read_text() + wrong)
    broken = lint()
    assert broken.returncode == 1
    assert "criticalmass.core.rows -> criticalmass.sweeps.plan" in broken.stdout

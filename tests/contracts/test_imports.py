"""What a command that prints a table may import: its start is most of its time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
WRITTEN = Path(__file__).parent / "written_by_0_1"
TABLES = {"click", "numpy", "pandas", "pyarrow", "rich", "dateutil", "six", "threadpoolctl"}
PACKAGES = {"cli", "core", "errors", "storage", "measures", "selectors", "analysis", "reporting"}
# Commands, with what they may import; all run in one process, one after the other.
COMMANDS = [
    (["--version"], {"click"}, {"cli", "core", "errors"}),
    (["--help"], {"click"}, {"cli", "core", "errors"}),
    (["list", "measures"], TABLES, PACKAGES),
    (["list", "selectors"], TABLES, PACKAGES),
    (["info", str(WRITTEN / "run")], TABLES, PACKAGES),
    (["info", str(WRITTEN / "store")], TABLES, PACKAGES),
    (["redundancy", str(WRITTEN / "run")], TABLES, PACKAGES),
    (["list", "studies"], TABLES | {"yaml"}, PACKAGES | {"studies"}),
    (["list", "recipes"], TABLES | {"yaml"}, PACKAGES | {"studies", "training"}),
]
_SCRIPT = """
import contextlib, io, json, sys
from criticalmass.cli.main import run_command
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = run_command(words)
    sys.stdout.write(json.dumps([code, sorted(sys.modules)]) + "\\n")
"""


def test_a_table_imports_only_what_it_needs() -> None:
    """Libraries that are not in requirements.lock may be imported by those that are."""
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in locked}
    libraries = {
        module
        for module, distributions in packages_distributions().items()
        if names & {re.sub(r"[-_.]+", "-", one).lower() for one in distributions}
    }
    assert libraries >= {"pandas", "scipy", "numba", "torch", "pydantic"}
    command = [sys.executable, "-c", _SCRIPT, json.dumps([words for words, _, _ in COMMANDS])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    for (words, allowed, packages), (code, modules) in zip(COMMANDS, results, strict=True):
        tops = {name.partition(".")[0] for name in modules}
        own = {name.split(".")[1] for name in modules if name.startswith("criticalmass.")}
        # Libraries of the tools: started by pip for every process, or by pyarrow if installed.
        surplus = (tops & libraries) - allowed - {"criticalmass", "cloudpickle", "_distutils_hack"}
        assert (words, code, surplus, own - packages) == (words, 0, set(), set())

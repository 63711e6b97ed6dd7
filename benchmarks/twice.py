"""Reproducibility: ``python -m benchmarks.twice --dir DIR``.

Makes small real inputs and calls every public function with valid arguments, in two processes with
different hash seeds, and compares the results and the written files byte for byte. Times are left
out: the column ``seconds`` and the time stamps of manifests.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.calls import CALLS, make_material
from benchmarks.kills import fingerprint
from criticalmass.reporting.figures import draw
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.sweeps import draw_spread

# Keys of manifests with times, and their digest.
_VARYING_KEYS = ("created", "seconds", "seal")


def canonical_text(value: Any) -> str:
    """Return the content of a result as text, the same for the same content."""
    if isinstance(value, (Run, FeatureStore)):
        return canonical_text(value.path)
    if isinstance(value, Path):
        files = fingerprint(value) if value.is_dir() else {"file": _digest(value.read_bytes())}
        return json.dumps(files, sort_keys=True)
    if isinstance(value, pd.DataFrame):
        return canonical_text(value.drop(columns=["seconds"], errors="ignore").to_dict("list"))
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{_digest(np.ascontiguousarray(value).tobytes())}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return canonical_text(
            {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        )
    if isinstance(value, Mapping):
        items = {key: one for key, one in value.items() if key not in _VARYING_KEYS}
        return "{" + ",".join(f"{key!r}:{canonical_text(one)}" for key, one in items.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(canonical_text(one) for one in value) + "]"
    if value is None or isinstance(value, (str, int, float, bool, np.generic)):
        return repr(value)
    return type(value).__name__


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def call_all(folder: Path) -> dict[str, str]:
    """Call every public function; return name -> digest of its result."""
    material = make_material(folder)
    digests = {}
    for call in CALLS:
        material.reset()
        digests[call.name] = _digest(
            canonical_text(call.function(**call.arguments(material))).encode()
        )
    for name in ("store", "run", "slim"):
        digests[f"input {name}"] = _digest(canonical_text(material.path(name)).encode())
    return digests


def _leave_out_what_takes_long() -> None:
    draw_spread.FEWEST = draw_spread.MOST = 3
    draw.as_pdf = lambda figure: b"%PDF"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two processes; return 1 if a result differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="scratch folder")
    parser.add_argument(
        "--write", type=Path, help="call all functions once and write the digests to this file"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few further subsets, and no PDF files in pages"
    )
    arguments = parser.parse_args(argv)
    quick = ["--quick"] if arguments.quick else []
    if quick:
        _leave_out_what_takes_long()
    # Both processes use the same folder, because paths are part of the input.
    work = arguments.dir.resolve() / "work"
    if arguments.write is not None:
        work.mkdir(parents=True, exist_ok=True)
        arguments.write.write_text(json.dumps(call_all(work)))
        return 0
    digests = []
    for number in (1, 2):
        shutil.rmtree(work, ignore_errors=True)
        out = arguments.dir / f"digests-{number}.json"
        command = [sys.executable, "-m", "benchmarks.twice", "--dir", str(arguments.dir)]
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        subprocess.run([*command, *quick, "--write", str(out)], check=True, env=environment)
        digests.append(json.loads(out.read_text()))
    first, second = digests
    different = [name for name in first if first[name] != second[name]]
    names = f": {' '.join(different)}" if different else ""
    print(f"{len(first)} results compared, {len(different)} differ{names}")
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())

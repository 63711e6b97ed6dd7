"""The same twice: ``python -m benchmarks.twice --dir DIR``.

Makes small real inputs and calls every public function with right arguments, in two processes whose
hashes of texts differ, and compares what comes back and what was written, byte for byte. Times are
left out: the column ``seconds`` and the time stamps of manifests.
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
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run


def told(value: Any) -> str:
    """Write down all that a result holds, the same way for the same content."""
    if isinstance(value, (Run, FeatureStore)):
        return told(value.path)
    if isinstance(value, Path):
        files = fingerprint(value) if value.is_dir() else {"file": _digest(value.read_bytes())}
        return json.dumps(files, sort_keys=True)
    if isinstance(value, pd.DataFrame):
        return told(value.drop(columns=["seconds"], errors="ignore").to_dict("list"))
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{_digest(np.ascontiguousarray(value).tobytes())}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return told({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        kept = {key: one for key, one in value.items() if key not in ("created", "seconds", "seal")}
        return "{" + ",".join(f"{key!r}:{told(one)}" for key, one in kept.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(told(one) for one in value) + "]"
    if value is None or isinstance(value, (str, int, float, bool, np.generic)):
        return repr(value)
    return type(value).__name__


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def everything(folder: Path) -> dict[str, str]:
    """Call every public function; -> name -> digest of what it gave."""
    material = make_material(folder)
    found = {}
    for call in CALLS:
        material.fresh()
        found[call.name] = _digest(told(call.function(**call.arguments(material))).encode())
    for name in ("store", "run", "slim"):
        found[f"the {name} that was made"] = _digest(told(material.place(name)).encode())
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two processes; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, required=True, help="scratch folder")
    parser.add_argument("--write", type=Path, help="only call everything, and write digests here")
    asked = parser.parse_args(argv)
    # Both processes work in a folder of the same name: a path is a part of the input.
    work = asked.dir.resolve() / "work"
    if asked.write is not None:
        work.mkdir(parents=True, exist_ok=True)
        asked.write.write_text(json.dumps(everything(work)))
        return 0
    found = []
    for number in (1, 2):
        shutil.rmtree(work, ignore_errors=True)
        out = asked.dir / f"digests-{number}.json"
        command = [sys.executable, "-m", "benchmarks.twice", "--dir", str(asked.dir)]
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        subprocess.run([*command, "--write", str(out)], check=True, env=environment)
        found.append(json.loads(out.read_text()))
    other = [name for name in found[0] if found[0][name] != found[1][name]]
    print(f"{len(found[0])} results compared, {len(other)} differ{': ' if other else ''}", *other)
    return 1 if other else 0


if __name__ == "__main__":
    raise SystemExit(main())

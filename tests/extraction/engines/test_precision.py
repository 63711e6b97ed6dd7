"""bf16: recorded, never mixed with float32, close to float32, refused without hardware."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.cli.main import main
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.extraction.engines import base
from criticalmass.storage import features_writer

NET = "timm:test_resnet?init=random&px=32"
DIGITS = "sklearn:digits?n=40"


def has_bf16() -> bool:
    try:
        base.require_bf16("cpu")
    except CriticalMassError:
        return False
    return True


needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="the processor has no bfloat16")


def extract(out, **options):
    return cm.extract(NET, DIGITS, out=out, **{"device": "cpu", "engine": "torch", **options})


@needs_bf16
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bf16_is_recorded_and_differs_by_eight_bit_rounding(tmp_path, engine):
    exact = extract(tmp_path / "a", engine=engine)
    rounded = extract(tmp_path / "b", engine=engine, precision="bf16")
    assert exact.manifest["engine"]["precision"] == "float32"
    assert rounded.manifest["engine"]["precision"] == "bf16"
    assert rounded.digest("penultimate") != exact.digest("penultimate")
    for split in exact.splits:
        one, two = exact.features(split).array(), rounded.features(split).array()
        gap = np.abs(one - two).max() / np.abs(one).max()
        # bfloat16 keeps 8 significant bits; some layers add up their roundings.
        assert 2.0**-14 < gap < 16 * 2.0**-8
    again = extract(tmp_path / "c", engine=engine, precision="bf16")
    assert again.digest("penultimate") == rounded.digest("penultimate")


@needs_bf16
@pytest.mark.parametrize(("first", "second"), [("float32", "bf16"), ("bf16", "float32")])
@pytest.mark.parametrize("finished", [True, False])
def test_one_store_holds_one_precision(tmp_path, monkeypatch, first, second, finished):
    monkeypatch.setattr(features_writer.StoreWriter, "shard_rows", 16)
    out = tmp_path / "s"
    if finished:
        extract(out, precision=first)
    else:
        put, count = features_writer.StoreWriter.put, []

        def stop(self, plan, features):
            count.append(plan)
            if len(count) == 2:
                raise KeyboardInterrupt
            put(self, plan, features)

        with monkeypatch.context() as patch:
            patch.setattr(features_writer.StoreWriter, "put", stop)
            with pytest.raises(KeyboardInterrupt):
                extract(out, precision=first)
    before = (out / "manifest.json").read_bytes()
    message = f"precision is '{first}' in the folder but '{second}' was requested"
    with pytest.raises(StoreError, match=message) as caught:
        extract(out, precision=second)
    assert "\n" not in str(caught.value)
    assert (out / "manifest.json").read_bytes() == before
    assert extract(out, precision=first).manifest["complete"]


@needs_bf16
def test_values_of_one_precision_are_not_reused_for_the_other(tmp_path):
    run = cm.sweep(extract(tmp_path / "a"), out=tmp_path / "r", measures=("cka",), seeds=1)
    exact = run.frame()
    rounded = extract(tmp_path / "b", precision="bf16")
    with pytest.warns(UserWarning, match="dropped 13 of 13 rows"):
        run = cm.sweep(rounded, out=run.path, measures=("cka",), seeds=1)
    assert set(run.frame()["cell"]).isdisjoint(exact["cell"])


def test_a_cpu_without_bf16_gets_one_line(tmp_path, monkeypatch):
    import torch

    capabilities = {"avx2": True, "avx512_bf16": False, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    with pytest.raises(CriticalMassError, match=r"'cpu' has no bfloat16 .*'float32'") as caught:
        extract(tmp_path / "s", precision="bf16")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_a_misspelt_precision_gets_the_names(tmp_path):
    with pytest.raises(CriticalMassError, match="no precision 'fp16'; did you mean 'bf16'"):
        extract(tmp_path / "s", precision="fp16")


@needs_bf16
def test_the_command_line_takes_it(tmp_path, capsys):
    out = tmp_path / "s"
    with pytest.raises(SystemExit) as left:
        main(["extract", NET, DIGITS, "--out", str(out), "--precision", "bf16", "-q"])
    assert left.value.code == 0
    capsys.readouterr()
    manifest = json.loads((Path(out) / "manifest.json").read_text())
    assert manifest["engine"]["precision"] == "bf16"

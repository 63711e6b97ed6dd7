"""The benchmark of timm's networks: one row per network, and the failures counted."""

from __future__ import annotations

import csv

import pytest
from tests.installed import need

need("torch", "NOT TESTED: the extra [torch] is not installed")
need("openvino", reason="NOT TESTED: the extra [openvino] is not installed")


def test_a_row_per_network_and_the_failures_counted(tmp_path, capsys):
    from benchmarks.networks import main

    names = ("test_resnet", "no_such_network")
    with pytest.raises(SystemExit) as left:
        main(["--dir", str(tmp_path), *(word for name in names for word in ("--only", name))])
    assert left.value.code == 1
    out = capsys.readouterr().out
    assert "| test_resnet | 96 | input of 'fc' | openvino |" in out
    assert "| no_such_network | failed |" in out
    assert "2 networks: 1 computed (1 in openvino), 1 failed." in out
    with (tmp_path / "networks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows] == list(names)
    assert float(rows[0]["difference"]) < 1e-4
    assert float(rows[0]["timm_difference"]) < 1e-4
    assert "no timm model 'no_such_network'" in rows[1]["note"]


def test_the_listed_networks_exist():
    from benchmarks.networks import NETWORKS, QUICK

    from criticalmass.extraction.models.optional_imports import import_after_torchvision

    timm = import_after_torchvision("timm", "torch")
    assert [name for name in NETWORKS if not timm.is_model(name)] == []
    assert len(NETWORKS) >= 80
    assert set(QUICK) <= set(NETWORKS)

"""`advise`: one command from vectors to how to store them, and the test of their order."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.cli.main import run_command
from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.order_effect import measure_prefix
from criticalmass.shrinking.probe_evaluator import LabelledRows
from criticalmass.shrinking.retrieval_evaluator import RetrievalEvaluator
from criticalmass.studies.advice import Advice, next_commands


def draw_vectors(n: int, seed: int, *, ordered: bool = False) -> NDArray[np.float32]:
    """Vectors near 4 directions of 16; ordered: of falling variance along the axes."""
    rng = np.random.default_rng(seed)
    if ordered:
        return (rng.standard_normal((n, 16)) * 0.8 ** np.arange(16)).astype(np.float32)
    mix = np.random.default_rng(99).standard_normal((4, 16))
    return (rng.standard_normal((n, 4)) @ mix + 0.3 * rng.standard_normal((n, 16))).astype("f4")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("advice") / "vectors.npy"
    np.save(path, draw_vectors(800, 0).astype(np.float16))
    return path


@pytest.fixture(scope="module")
def advice(file: Path) -> Advice:
    return cm.advise(file, keep=0.8, price=0.25)


def test_the_answer_is_that_of_shrink(file: Path, advice: Advice, tmp_path: Path) -> None:
    store = cm.import_features(file, out=tmp_path / "store", split=10_000, labels="none")
    plan = cm.shrink(store, keep=0.8, measure="retrieval")
    # Dates apart, both are the same model.
    assert advice.plan.front.equals(plan.front)
    assert advice.plan.sentence == plan.sentence
    assert advice.safe
    assert advice.n_vectors == 800, "the queries belong to the table too"
    assert advice.bytes_now == 32, "the file has float16"


def test_the_text_begins_with_the_answer_in_three_lines(advice: Advice) -> None:
    lines = str(advice).splitlines()
    slim = advice.plan.slim
    assert f"{slim.bytes_per_vector} bytes a vector instead of 32" in lines[0]
    assert f"at least {advice.plan.verdict['ratio_bound']:.4f}" in lines[1]
    assert "600 stored vectors" in lines[1]
    assert "as float16 (halfvec)" in lines[2]
    assert lines[3] == ""
    text = str(advice)
    assert "neuron" not in text
    assert "layer" not in text
    month = 0.25 * 800 * slim.bytes_per_vector / 1e9
    assert f"{month:,.2f} instead of" in text
    shown = advice._repr_html_()
    assert "<table" in shown
    assert "Matryoshka" in shown


def test_the_next_commands_run(
    file: Path, advice: Advice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(advice.commands) == 2
    for line in advice.commands:
        command = shlex.split(line)
        assert command.pop(0) == "criticalmass"
        assert run_command([*command, "-q"]) == 0, line
    codes = np.load(tmp_path / "short" / "vectors.npy")
    assert codes.nbytes == 800 * advice.plan.slim.bytes_per_vector
    np.testing.assert_array_equal(codes, advice.plan.slim.encode(np.load(file)))


def test_a_table_is_copied_and_its_import_is_a_command(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "vectors.parquet"
    pd.DataFrame({"id": range(800), "embedding": list(np.load(file))}).to_parquet(path)
    options: dict[str, Any] = {"keep": 0.5, "precisions": ("int8",), "reranks": (0,)}
    of_table = cm.advise(path, **options)
    assert of_table.plan.front.equals(cm.advise(file, **options).plan.front)
    assert [line.split()[1] for line in of_table.commands] == ["advise", "import", "export"]
    assert "--precision int8 --rerank 0 --keep 0.5" in of_table.commands[0]


def test_the_command_has_a_verdict_and_exit_codes(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["advise", str(file), "-q", "--precision", "int8", "--rerank", "0"]
    assert run_command([*quick, "--keep", "0.8", "--format", "json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["safe"] is True
    assert verdict["table_bytes"] == 800 * verdict["bytes_per_vector"]
    assert verdict["matryoshka"]["answer"] in {"yes", "no", "cannot say"}
    assert verdict["ratio_bound"] >= 0.8
    assert verdict["next_commands"]
    unsafe = [*quick, "--keep", "1"]
    assert run_command(unsafe) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Keep all 16 dimensions")
    with pytest.raises(SystemExit) as leaving:
        run_command([*unsafe, "--fail-if-unsafe"])
    assert leaving.value.code == 3
    capsys.readouterr()
    assert run_command([*quick, "--keep", "0.95", "--max-bytes", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --max-bytes=1: nothing within the limits")
    assert error.count("\n") == 1
    assert run_command(["advise", f"{file}x", "-q"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_measure_that_searches_nothing_is_refused(file: Path) -> None:
    with pytest.raises(CriticalMassError, match=r"no measure of searches 'logistic'"):
        cm.advise(file, measure="logistic")


def prefix_answer(x: NDArray[np.float32], n_queries: int = 200) -> str:
    rows, queries = x[n_queries:], x[:n_queries]
    stored, asked = (LabelledRows(p, np.zeros(len(p), np.int64)) for p in (rows, queries))
    return measure_prefix(RetrievalEvaluator("retrieval", stored, asked)).answer


def test_an_order_is_seen_where_there_is_one() -> None:
    ordered = draw_vectors(1200, 1, ordered=True)
    assert prefix_answer(ordered) == "yes"
    # Each dimension alike: any 16 of them are as good as the first.
    alike = np.random.default_rng(0).standard_normal((1200, 64)).astype(np.float32)
    assert prefix_answer(alike) in {"no", "cannot say"}
    assert prefix_answer(ordered[:, ::-1]) != "yes"


def test_an_order_is_rarely_seen_where_there_is_none() -> None:
    """Dimensions of very different variance in a random order: at most 5 % are false."""
    answers = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((160, 16)) * rng.permutation(0.8 ** np.arange(16))
        answers.append(prefix_answer(x.astype(np.float32), 60))
    # Binomial(12, .05) exceeds 3 with a chance of .0022.
    assert answers.count("yes") <= 3


def test_a_table_of_a_database_and_the_way_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(tmp_path / "d.duckdb")) as connection:
        frame = pd.DataFrame({"id": np.arange(400), "v": list(draw_vectors(400, 0))})
        connection.register("frame", frame)
        connection.execute("create table items as select id, v::FLOAT[16] as v from frame")
        connection.execute("create table others as from items")
    address = f"duckdb:{tmp_path / 'd.duckdb'}"
    with pytest.raises(CriticalMassError, match="others"):
        cm.advise(address, keep=0.8)
    slim = tmp_path / "slim"
    advice = cm.advise(address, keep=0.8, table="items", out=slim)
    (write_back,) = advice.commands
    assert write_back.startswith(f"criticalmass export {slim} --format database --to {address}")
    code = run_command([*shlex.split(write_back)[1:-1], str(tmp_path / "short")])
    assert code == 0, capsys.readouterr().err
    with duckdb.connect(str(tmp_path / "d.duckdb")) as connection:
        tables = [row[0] for row in connection.execute("show tables").fetchall()]
        (short,) = set(tables) - {"items", "others"}
        assert connection.table(short).shape[0] == 400


def test_a_password_is_not_printed_with_the_next_command(advice: Advice) -> None:
    address = "postgresql://me:s3cret@host/db"
    commands = next_commands(address, advice.plan, None, {"table": "items"})
    assert "s3cret" not in " ".join(commands)
    assert "--to postgresql://me@host/db --table items" in commands[-1]


def test_a_store_has_its_own_queries(file: Path, tmp_path: Path) -> None:
    store = cm.import_features(file, out=tmp_path / "store", split=100, labels="none")
    with pytest.raises(CriticalMassError, match="leave out qrels"):
        cm.advise(store, qrels=[[0, 1, 1]])


def test_a_smaller_row_that_is_safe_for_all_rows_at_once_is_named(advice: Advice) -> None:
    front = advice.plan.front.copy()
    chosen = front[front["chosen"]].iloc[0]
    row = {**chosen.to_dict(), "chosen": False, "bytes": 1, "n_kept": 8, "precision": "binary"}
    keep = advice.plan.slim.record["promise"]["keep"]

    def notes(**changes: Any) -> str:
        more = pd.concat([front, pd.DataFrame([row | changes])], ignore_index=True)
        record = {**advice.plan.slim.record, "front": more.to_dict("records")}
        slim = dataclasses.replace(advice.plan.slim, record=record)
        plan = dataclasses.replace(advice.plan, slim=slim)
        return " ".join(dataclasses.replace(advice, plan=plan).notes)

    assert "8 of 16 as binary" in notes(bound_all=keep + 0.01)
    assert "1 bytes a vector, at least" in notes(bound_all=keep + 0.01)
    assert "8 of 16 as binary" not in notes(bound_all=keep - 0.01)

"""The scripts for PostgreSQL, run on a real server with pgvector."""

from __future__ import annotations

# ruff: noqa: S608 - names are those of this file
import json
import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.postgres import Database, in_thread, wait_until
from tests.shrinking.export.sql_tables import (
    WIDTH,
    Export,
    agree,
    expected_recall,
    fill,
    literal,
    locks,
    nearest,
    schema,
)

import criticalmass as cm
from criticalmass.shrinking.codec import Codec
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.shrinking.stored_vectors import ShortMap, ShortRows

psycopg: Any = pytest.importorskip("psycopg", reason="NOT TESTED: psycopg is not installed")
N_ROWS = 500
#: Name -> precision, rule, amount of re-ranking, and whether a column is needed.
KINDS = {
    "projection": ("float16", "pca-top", 0, True),
    "projected bits": ("binary", "pca-top", 4, True),
    "subset": ("float32", "random", 0, True),
    "subset of bytes": ("int8", "random", 0, True),
    "subset, re-ranked": ("float16", "random", 4, False),
    "prefix": ("float32", "first", 0, False),
    "all as bits": ("binary", "all", 4, False),
}
CERTIFIED = ("projection", "all as bits")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> cm.FeatureStore:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((900, 6)) @ rng.standard_normal((6, WIDTH))
    x = (x + 0.5 * rng.standard_normal(x.shape)).astype(np.float32)
    return cm.import_features(
        {"train": x[:600], "test": x[600:]}, out=tmp_path_factory.mktemp("sql") / "store"
    )


@pytest.fixture(scope="module")
def slims(store: cm.FeatureStore) -> dict[str, SlimModel]:
    """Two certified slim models, and the same ones with other maps and codecs."""
    made = {}
    for name in CERTIFIED:
        precision, rule, rerank, _ = KINDS[name]
        made[name] = cm.shrink(
            store, keep=0.5, measure="retrieval-recall", precisions=(precision,),
            selectors=("pca-top" if rule == "pca-top" else "first",), reranks=(rerank,),
        ).slim  # fmt: skip
    projection, rows = made["projection"], store.features("train")
    for name, (precision, rule, rerank, _) in KINDS.items():
        if name in CERTIFIED:
            continue
        kept = {"random": [0, 3, 4, 9, 17, 23], "first": range(9)}.get(rule, range(WIDTH))
        indices = np.array(kept, dtype=np.intp)
        matrix = projection.matrix if rule == "pca-top" else None
        codec = Codec.learn(precision, ShortRows(rows, ShortMap(WIDTH, indices, matrix)))
        record = {**projection.record, "stored": {**projection.record["stored"], "rerank": rerank}}
        made[name] = replace(projection, indices=indices, matrix=matrix, codec=codec, record=record)
    return made


@pytest.fixture(scope="module")
def rows(store: cm.FeatureStore) -> NDArray[np.float32]:
    x: NDArray[np.float32] = store.features("train").array()
    return x


@pytest.fixture
def export(slims: dict[str, SlimModel], tmp_path: Path) -> Callable[..., Export]:
    """Export a slim model of `KINDS`, or another one."""

    def make(kind: str | SlimModel, name: str = "sql", **options: Any) -> Export:
        slim = slims[kind] if isinstance(kind, str) else kind
        cm.export(slim, format="sql", out=tmp_path / name, **options)
        return Export(slim, tmp_path / name)

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:pgvector has no 8-bit")
def test_old_new_and_changed_rows_and_undo(
    kind: str,
    rows: NDArray[np.float32],
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    """Rows of all ages hold what the slim model stores; undo leaves what was there before."""
    made = export(kind, table="public.items")
    x = rows[:N_ROWS].copy()
    x[3] = 0
    fill(postgres, x[:400])
    before = schema(postgres)
    made.apply(postgres)
    assert (made.facts["short_column"] is not None) == KINDS[kind][3]
    with postgres.connect() as connection:
        for number in range(400, N_ROWS):
            vector = literal(x[number])
            connection.execute("INSERT INTO items VALUES (%s, '', %s)", (number, vector))
        x[:20] = x[100:120]
        for number in range(20):
            vector = literal(x[number])
            connection.execute("UPDATE items SET embedding = %s WHERE id = %s", (vector, number))
        connection.execute("INSERT INTO items VALUES (-1, 'no vector', NULL)")
        connection.execute("DELETE FROM items WHERE id = -1")
    agree(made.slim, made.read(postgres), x)
    assert schema(postgres) != before
    postgres.psql(made.folder / "undo.sql")
    assert schema(postgres) == before
    postgres.psql(made.folder / "undo.sql")


@pytest.mark.parametrize(
    ("options", "operator_class"),
    [
        ({}, "vector_cosine_ops"),
        ({"metric": "l2"}, "vector_l2_ops"),
        ({"metric": "inner-product"}, "vector_ip_ops"),
        ({"normalise": True}, "vector_ip_ops"),
        ({"normalise": True, "metric": "l2"}, "vector_l2_ops"),
    ],
)
def test_the_index_compares_by_the_metric(
    options: dict[str, Any],
    operator_class: str,
    slim: SlimModel,
    whole: NDArray[np.float32],
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    """The kept neurons of a classifier are neither scaled nor certified for a metric."""
    made, x = export(slim, **options), whole[:200]
    fill(postgres, x)
    made.apply(postgres)
    with postgres.connect() as connection:
        index = "SELECT pg_get_indexdef(%s::regclass)"
        text = connection.execute(index, (made.facts["index"],)).fetchone()[0]
        assert operator_class in text
        search = made.facts["search"].replace("$1", "%(query)s")
        connection.execute("SET enable_seqscan = off")
        got = [row[0] for row in connection.execute(search, {"query": literal(x[0])}).fetchall()]
    short = slim.transform(x)
    if "normalise" in options:
        short /= np.linalg.norm(short, axis=1, keepdims=True)
    np.testing.assert_allclose(made.read(postgres), short, rtol=1e-6)
    unit = short / np.linalg.norm(short, axis=1, keepdims=True)
    scores = {
        "vector_cosine_ops": unit @ unit[0],
        "vector_ip_ops": short @ short[0],
        "vector_l2_ops": -np.linalg.norm(short - short[0], axis=1),
    }[operator_class]
    assert len(set(got) & set(nearest(scores[None])[0].tolist())) >= 9


@pytest.mark.parametrize("kind", ["projection", "prefix"])
def test_whole_vectors_that_are_halfvec_and_a_column_on_request(
    kind: str,
    rows: NDArray[np.float32],
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    made, x = export(kind, new_column=True), rows[:200]
    fill(postgres, x)
    with postgres.connect() as connection:
        connection.execute(f"ALTER TABLE items ALTER COLUMN embedding TYPE halfvec({WIDTH})")
    made.apply(postgres)
    assert made.facts["short_column"] is not None
    agree(made.slim, made.read(postgres), x.astype(np.float16).astype(np.float32))
    assert "after:" in postgres.psql(made.folder / "recall.sql").stdout
    with postgres.connect() as connection:
        search = made.facts["search"].replace("$1", "%(query)s")
        assert len(connection.execute(search, {"query": literal(x[0])}).fetchall()) == 10


@pytest.mark.parametrize("kind", ["projection", "prefix", "all as bits", "subset, re-ranked"])
def test_recall_is_that_of_numpy(
    kind: str,
    rows: NDArray[np.float32],
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    made, x = export(kind), rows
    fill(postgres, x)
    with postgres.connect() as connection:
        connection.execute("CREATE INDEX ON items USING hnsw (embedding vector_cosine_ops)")
    made.apply(postgres)
    lines = postgres.psql(made.folder / "recall.sql").stdout.splitlines()
    printed = [float(line.split("|")[1]) for line in lines if line[:7] in (" before", " after:")]
    sample = sorted(
        range(len(x)), key=lambda i: (md5(str(i).encode(), usedforsecurity=False).hexdigest(), i)
    )[:100]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    short = made.slim.transform(x)
    exact = unit[sample].astype(np.float64) @ unit.T.astype(np.float64)
    by_short = short[sample].astype(np.float64) @ short.T.astype(np.float64)
    for scores in (exact, by_short):
        scores[np.arange(100), sample] = -np.inf
    best, found = nearest(exact), nearest(by_short)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(found, best, strict=True)])
    assert printed[1] == pytest.approx(recall, abs=1e-3)
    # A graph of few rows loses next to nothing, and breaks ties of bits in its own order.
    assert printed[0] == pytest.approx(1.0, abs=0.03)
    lists = [10, 40] if KINDS[kind][2] else [10]
    for value, n in zip(printed[2:], lists, strict=True):
        assert value == pytest.approx(expected_recall(by_short, best, n), abs=0.06)


def test_whole_vectors_can_be_dropped_as_the_guide_says(
    rows: NDArray[np.float32], postgres: Database, export: Callable[..., Export]
) -> None:
    made, x = export("subset"), rows[:60]
    fill(postgres, x[:50])
    made.apply(postgres)
    guide = (made.folder / "README.md").read_text()
    triggers = re.findall(r"`(\w+_(?:new|old))`", guide)
    expression = re.findall(r"the short vector itself, as `(.+?)`\.", guide)[0]
    with postgres.connect() as connection:
        for trigger in triggers:
            connection.execute(f"DROP TRIGGER {trigger} ON items")
        connection.execute("ALTER TABLE items DROP COLUMN embedding")
        insert = (
            f"INSERT INTO items (id, {made.facts['short_column']}) VALUES (%(id)s, {expression})"
        )
        for number in range(50, 60):
            values = {"id": number, "query": literal(x[number])}
            connection.execute(insert.replace("$1", "%(query)s"), values)
    agree(made.slim, made.read(postgres), x)
    done = postgres.psql(made.folder / "undo.sql", check=False)
    assert "has no whole vectors any more" in done.stderr
    agree(made.slim, made.read(postgres), x)


@pytest.mark.parametrize("kind", CERTIFIED)
def test_recall_is_as_certified(
    kind: str,
    store: cm.FeatureStore,
    rows: NDArray[np.float32],
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    """The statement of the guide finds, for the test queries, what the promise was measured on."""
    made, queries = export(kind), store.features("test").array()
    fill(postgres, rows)
    made.apply(postgres)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, rows)]
    best = nearest(unit[0].astype(np.float64) @ unit[1].T.astype(np.float64))
    search = made.facts["search"].replace("$1", "%(query)s")
    with postgres.connect() as connection:
        # The index's own loss is not part of the promise: on few rows a long list has none.
        connection.execute("SET hnsw.ef_search = 600")
        found = [
            [row[0] for row in connection.execute(search, {"query": literal(query)}).fetchall()]
            for query in queries
        ]
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(f"EXPLAIN {search}", {"query": literal(queries[0])}).fetchall()
    assert made.facts["index"].strip('"') in str(plan)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(found, best, strict=True)])
    scores = made.slim.queries(queries).astype(np.float64) @ made.slim.transform(rows).T
    expected = expected_recall(scores, best, 10 * max(1, KINDS[kind][2]))
    # Many rows have the same distance of few bits: 300 queries break ties in two orders.
    tolerance = 0.03 if made.slim.precision == "binary" else 0.005
    assert recall == pytest.approx(expected, abs=tolerance)
    assert made.slim.record["stored"]["recall"] == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("kind", ["projection", "all as bits"])
def test_a_driver_runs_them_twice_without_harm(
    kind: str,
    rows: NDArray[np.float32],
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    made = export(kind)
    fill(postgres, rows[:N_ROWS])
    states = []
    for _ in range(2):
        for script in made.steps:
            with postgres.connect() as connection:
                for statement in made.statements(script):
                    connection.execute(statement)
        with postgres.connect() as connection:
            versions = connection.execute("SELECT id, xmin::text FROM items ORDER BY id").fetchall()
        states.append((schema(postgres), versions))
    assert states[0] == states[1]
    agree(made.slim, made.read(postgres), rows[:N_ROWS])


def test_two_slim_models_beside_each_other(
    rows: NDArray[np.float32],
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    """Neither replaces the other, and one suffix does not stand for both."""
    x = rows[:100]
    fill(postgres, x)
    first, second = export("projection", "first"), export("subset", "second")
    first.apply(postgres)
    second.apply(postgres)
    agree(first.slim, first.read(postgres), x)
    agree(second.slim, second.read(postgres), x)
    postgres.psql(first.folder / "undo.sql")
    agree(second.slim, second.read(postgres), x)
    for kind in ("subset", "subset, re-ranked"):
        export(kind, "one", suffix="v2").apply(postgres)
        done = postgres.psql(export("projection", "other", suffix="v2").steps[0], check=False)
        assert "the suffix v2 is taken by another slim model" in done.stderr
        postgres.psql(Path(first.folder.parent, "one", "undo.sql"))


def test_readers_do_not_wait_for_a_lock_that_waits(
    rows: NDArray[np.float32],
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    """While a long reader holds up the new column, other readers still come through."""
    made = export("subset")
    fill(postgres, rows[:50])
    with (
        postgres.connect() as long,
        postgres.connect() as other,
        in_thread(lambda: postgres.psql(made.steps[0])) as script,
    ):
        long.execute("BEGIN")
        long.execute("SELECT count(*) FROM items")
        script.start()
        wait_until(lambda: locks(other, granted=False, mode="AccessExclusiveLock"))
        other.execute("SET statement_timeout = '600s'")
        for _ in range(3):
            assert other.execute("SELECT count(*) FROM items").fetchone() == (50,)
        # It was refused and asked for again, or another reader would wait for the long one.
        wait_until(lambda: not locks(other, granted=False, mode="AccessExclusiveLock"))
        wait_until(lambda: locks(other, granted=False, mode="AccessExclusiveLock"))
        assert not locks(other, granted=True, mode="AccessExclusiveLock")
        long.execute("COMMIT")
    for script_path in made.steps:
        postgres.psql(script_path)
    agree(made.slim, made.read(postgres), rows[:50])


def test_an_interrupted_fill_goes_on(
    rows: NDArray[np.float32],
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    """Batches are committed one by one, without a lock that stops readers."""
    made = export("projection")
    fill(postgres, rows[:N_ROWS])
    with postgres.connect() as connection:
        # One row in a page, so that there are several batches.
        connection.execute("ALTER TABLE items ALTER COLUMN name SET STORAGE PLAIN")
        connection.execute("UPDATE items SET name = repeat('x', 6000)")
        connection.execute("VACUUM FULL items")
    postgres.psql(made.steps[0])
    with postgres.connect() as connection:
        connection.execute("UPDATE items SET name = 'changed' WHERE id = 7")
        short = f"SELECT {made.facts['short_column']} IS NULL FROM items WHERE id IN (6, 7)"
        assert sorted(connection.execute(short).fetchall()) == [(False,), (True,)]
    filled = f"SELECT count({made.facts['short_column']}) FROM items"
    with (
        postgres.connect() as other,
        postgres.connect() as watcher,
        in_thread(lambda: postgres.psql(made.steps[1], check=False)) as script,
    ):
        other.execute("BEGIN")
        other.execute(f"SELECT FROM items WHERE id = {N_ROWS - 1} FOR UPDATE")
        script.start()
        wait_until(lambda: watcher.execute(filled).fetchone()[0] > 0)
        assert not locks(watcher, mode="AccessExclusiveLock")
        wait_until(lambda: locks(watcher, granted=False, mode="ShareLock", relation=False))
        assert N_ROWS - 50 < watcher.execute(filled).fetchone()[0] < N_ROWS
        watcher.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'CALL pg_temp.fill%' AND pid <> pg_backend_pid()"
        )
        other.execute("UPDATE items SET name = 'meanwhile' WHERE id = 498")
        script.join()
        other.execute("COMMIT")
    with postgres.connect() as watcher:
        done = watcher.execute(filled).fetchone()[0]
        assert N_ROWS - 50 < done < N_ROWS
        first = watcher.execute("SELECT xmin::text FROM items WHERE id = 1").fetchone()
        postgres.psql(made.steps[1])
        assert watcher.execute(filled).fetchone() == (N_ROWS,)
        assert watcher.execute("SELECT xmin::text FROM items WHERE id = 1").fetchone() == first
    agree(made.slim, made.read(postgres), rows[:N_ROWS])


def test_an_interrupted_index_is_built_again(
    rows: NDArray[np.float32],
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    made = export("prefix")
    fill(postgres, rows[:50])
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid::regclass::text LIKE '%hnsw%'"
    with (
        postgres.connect() as other,
        postgres.connect() as watcher,
        in_thread(lambda: postgres.psql(made.steps[1], check=False)) as script,
    ):
        other.execute("BEGIN")
        other.execute("DELETE FROM items WHERE id = 49")
        script.start()
        wait_until(lambda: watcher.execute(valid).fetchone() == (False,))
        busy = postgres.psql(made.steps[1], check=False)
        assert "another session builds the index" in busy.stderr
        watcher.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%CONCURRENTLY%' "
            "AND pid <> pg_backend_pid()"
        )
        script.join()
        other.execute("ROLLBACK")
        assert watcher.execute(valid).fetchone() == (False,)
        postgres.psql(made.steps[1])
        assert watcher.execute(valid).fetchone() == (True,)


ODD = ('My "odd" schema.', "Items'; DROP TABLE precious; --", "em$slim$bed\\ding", "The Id")


@pytest.mark.parametrize("kind", ["projection", "all as bits", "subset"])
def test_odd_names_another_role_and_another_search_path(
    kind: str,
    rows: NDArray[np.float32],
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    schema_name, table, column, key = ('"' + name.replace('"', '""') + '"' for name in ODD)
    made = export(kind, table=f"{schema_name}.{table}", column=ODD[2], id=ODD[3])
    with postgres.connect() as connection:
        connection.execute("CREATE TABLE precious (n int)")
        connection.execute("CREATE SCHEMA extensions")
        connection.execute("ALTER EXTENSION vector SET SCHEMA extensions")
        connection.execute("SET search_path = extensions")
        connection.execute(f"CREATE SCHEMA {schema_name}")
        connection.execute(
            f"CREATE TABLE {schema_name}.{table} ({key} text PRIMARY KEY, {column} vector({WIDTH}))"
        )
        connection.execute(
            f"INSERT INTO {schema_name}.{table} VALUES ('000', %s)", (literal(rows[0]),)
        )
    made.apply(postgres)
    with postgres.connect() as connection:
        connection.execute("CREATE ROLE application")
        connection.execute(f"GRANT USAGE ON SCHEMA {schema_name}, extensions TO application")
        connection.execute(f"GRANT INSERT, SELECT ON {schema_name}.{table} TO application")
        connection.execute("SET ROLE application")
        connection.execute("SET search_path = pg_catalog")
        for number in range(1, 30):
            connection.execute(
                f"INSERT INTO {schema_name}.{table} VALUES (%s, %s)",
                (f"{number:03}", literal(rows[number])),
            )
        connection.execute("RESET ROLE")
        connection.execute(f"SET search_path = {schema_name}, extensions")
        query = f"SELECT ({made.facts['short']})::text FROM {table} ORDER BY {key}".replace(
            "%", "%%"
        )
        stored = [row[0] for row in connection.execute(query).fetchall()]
        connection.execute(f"REINDEX TABLE {table}")
        assert connection.execute("SELECT count(*) FROM public.precious").fetchone() == (0,)
    got = (
        np.packbits([[int(bit) for bit in text] for text in stored], axis=1)
        if made.slim.precision == "binary"
        else np.array([json.loads(text) for text in stored], dtype=np.float32)
    )
    agree(made.slim, got, rows[:30])
    assert "after:" in postgres.psql(made.folder / "recall.sql").stdout
    postgres.psql(made.folder / "undo.sql")
    with postgres.connect() as connection:
        connection.execute("DROP OWNED BY application")
        connection.execute("DROP ROLE application")


@pytest.mark.parametrize(
    ("create", "message"),
    [
        ("CREATE TABLE other (id int)", 'relation "items" does not exist'),
        ("CREATE TABLE items (id int, vector vector(24))", "no column \"embedding\""),
        ("CREATE TABLE items (id int, embedding real[])", "has type _float4, not vector"),
        ("CREATE TABLE items (id int, embedding vector(25))", "has 25 dimensions, .* takes 24"),
        ("CREATE TABLE items (a int, b int, embedding vector(24), PRIMARY KEY (a, b))",
         r"no column \"id\"; export again with --id.*primary key: a, b"),
        ("CREATE TABLE items (id int, embedding vector); "
         "INSERT INTO items VALUES (1, '[1,2]')", "1 rows of column .* other than 24"),
        ("CREATE TABLE items (id int, embedding vector(24)) PARTITION BY RANGE (id)",
         "is no plain table"),
        ("CREATE TABLE items (id int, embedding vector(24)); DROP EXTENSION vector CASCADE",
         "no extension vector"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused_in_one_line(
    create: str,
    message: str,
    postgres: Database,
    export: Callable[..., Export],
) -> None:
    made = export("projection")
    with postgres.connect() as connection:
        connection.execute(create)
    before = schema(postgres)
    done = postgres.psql(made.steps[0], check=False)
    assert done.returncode == 3
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert schema(postgres) == before

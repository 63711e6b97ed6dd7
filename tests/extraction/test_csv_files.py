"""CSV files: the separator is found or refused, and quotation marks swallow no rows."""

from __future__ import annotations

import pytest

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import UNLABELLED, load_dataset

ROWS = [("ham" if number % 2 else "spam", f"note {number}, of the day") for number in range(24)]


def write(tmp_path, lines, name="t.csv", encoding="utf-8", end="\n"):
    content = end.join(lines) + end
    (tmp_path / name).write_bytes(content.encode(encoding))
    return f"csv:{tmp_path / name}"


def samples(data):
    """Merge the splits: row number -> (class name, item)."""
    return {
        int(name.removeprefix("row-")): (data.class_names[label], item)
        for split in data.splits.values()
        for name, item, label in zip(split.ids, split.items, split.labels, strict=True)
    }


@pytest.mark.parametrize(("separator", "name"), [(";", "';'"), ("\t", "tab"), ("|", "'|'")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_separator_is_found_in_the_header_line(tmp_path, separator, name, encoding, end):
    lines = [separator.join(("label", "text")), *(separator.join(row) for row in ROWS)]
    data = load_dataset(write(tmp_path, lines, encoding=encoding, end=end))
    assert samples(data) == dict(enumerate(ROWS))
    assert data.notes["separator"] == f"{name}, found in the header line"


def test_the_usual_separator_is_not_mentioned(tmp_path):
    data = load_dataset(write(tmp_path, ["label,text", "a,b;c", "a,d", "b,e", "b,f"]))
    assert samples(data)[0] == ("a", "b;c")
    assert "separator" not in data.notes
    tabs = load_dataset(write(tmp_path, ["label\ttext", "a\tb,c", "a\td", "b\te"], name="t.tsv"))
    assert samples(tabs)[0] == ("a", "b,c")
    assert "separator" not in tabs.notes


def test_a_tsv_file_may_have_commas(tmp_path):
    lines = ["label,text", *(f"{label},n{number}" for number, (label, _) in enumerate(ROWS))]
    data = load_dataset(write(tmp_path, lines, name="t.tsv"))
    assert samples(data)[1] == ("ham", "n1")
    assert data.notes["separator"].startswith("','")


def test_the_rows_decide_between_two_separators_in_the_header(tmp_path):
    lines = ["label;text, or note;x", "a;one;1", "a;two;2", "b;three, four;3", "b;five;4"]
    data = load_dataset(write(tmp_path, lines) + "?text=text, or note")
    assert samples(data)[2] == ("b", "three, four")
    both = ["label;text|x", *(f"a;t{n}|1" for n in range(4))]
    with pytest.raises(CriticalMassError, match=r"holds ';' and '\|'; name .*\?sep=;'"):
        load_dataset(write(tmp_path, both))


def test_a_long_file_is_cut_between_lines_to_find_its_separator(tmp_path):
    rows = [(("a", "b")[n % 2], "words" + "," * (n % 3) + "x" * n) for n in range(400)]
    lines = ["label;text, or note", *(f'{label};"{text}\n{text}"' for label, text in rows)]
    data = load_dataset(write(tmp_path, lines))
    assert samples(data)[399] == (rows[399][0], f"{rows[399][1]}\n{rows[399][1]}")
    assert data.notes["line_breaks"].startswith("801 lines hold 401 rows")


@pytest.mark.parametrize("options", ["", "?sep=tab"])
def test_a_single_column_with_a_separator_in_its_name_is_refused(tmp_path, options):
    lines = ["label;text", "a;b;c;d", "ham;d", "spam;e"]
    with pytest.raises(CriticalMassError, match=r"one column, 'label;text'.*option sep=;, or"):
        load_dataset(write(tmp_path, lines) + options)


def test_one_column_is_one_column(tmp_path):
    data = load_dataset(write(tmp_path, ["text", "a;b", "c;d", "e;f", "g;h"]))
    assert data.class_names == UNLABELLED
    assert samples(data)[0][1] == "a;b"


def test_line_breaks_in_cells_are_counted(tmp_path):
    lines = ["label,text", 'a,"one', 'two, ""three"""', "a,four", "", 'b,"five"', "b,six"]
    data = load_dataset(write(tmp_path, lines))
    assert samples(data)[0] == ("a", 'one\ntwo, "three"')
    assert data.notes["line_breaks"].startswith("6 lines hold 5 rows with the header: 1 quoted")
    assert data.notes["line_breaks"].endswith("the first in line 2")


def test_a_quotation_mark_inside_a_cell_is_a_character(tmp_path):
    data = load_dataset(write(tmp_path, ["label,text", 'a,5" pipe', "a,x", 'b,"6"" pipe"', "b,y"]))
    assert {samples(data)[row][1] for row in (0, 2)} == {'5" pipe', '6" pipe'}
    assert "line_breaks" not in data.notes


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['ham,"hello', "spam,b", 'ham,so "they" say', "spam,d"], "starts in line 2 .* in line 4"),
        (['ham,"Hi" she said', "spam,b", "ham,c"], "starts in line 2 .* in line 2"),
        (["ham,a", "spam,b", 'ham,"c', "spam,d"], "in line 4 .* never closed .*5 lines"),
        (
            ["ham,a", "spam,b", 'ham,"c', "spam,d", "ham,e", 'spam,f"', "ham,g"],
            "starts in line 4 .* holds line 5, which is a row with the label 'spam'",
        ),
    ],
)
def test_a_stray_quotation_mark_is_refused_with_its_line(tmp_path, rows, message):
    with pytest.raises(CriticalMassError, match=message) as caught:
        load_dataset(write(tmp_path, ["label,text", *rows]))
    assert "\n" not in str(caught.value)
    assert "quotation mark" in str(caught.value)


@pytest.mark.parametrize("n", [1, 60_000])
def test_a_row_with_too_many_cells_is_named(tmp_path, n):
    lines = ["label,text", *(f"ham,this is the text number {number}" for number in range(n))]
    spec = write(tmp_path, [*lines, "spam,a,b", "spam,c"])
    with pytest.raises(CriticalMassError, match=rf"line {n + 2} of '.*t\.csv' has 3 cells"):
        load_dataset(spec)


def test_a_table_that_cannot_be_split_is_named(tmp_path):
    spec = write(tmp_path, ["label,text", "a,x", "b,y", "c,z"])
    with pytest.raises(CriticalMassError, match=r"t\.csv': 3 samples of 3 classes cannot be split"):
        load_dataset(spec)

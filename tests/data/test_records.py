"""Where the rows of large files are."""

import csv
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.data.formats import DatasetSpec, open_dataset
from video_llama.data.records import csv_records, json_records, line_records, parse_json
from video_llama.errors import DataError

cells = st.text(st.sampled_from('ab ,"\n狗\x0b\u2028'), max_size=6)


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(st.lists(cells, min_size=2, max_size=4), max_size=8), crlf=st.booleans())
def test_csv_rows_are_those_of_the_csv_module(tmp_path_factory, rows, crlf):
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\r\n" if crlf else "\n").writerows(rows)
    records = csv_records(path)
    found = [next(csv.reader([records.read(n).decode()])) for n in range(len(records))]
    assert found == [row for row in rows if "".join(row).strip() or len(row) > 1]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(st.sampled_from('ab,"'), max_size=8), max_size=6))
def test_quotes_out_of_place_move_no_other_row(tmp_path_factory, lines):
    """What the csv module makes of a file, quotes in the middle of cells and all."""
    path = tmp_path_factory.getbasetemp() / "lines.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    with path.open(newline="") as file:
        expected = [row for row in csv.reader(file) if row]
    try:
        records = csv_records(path)
    except DataError:
        assert expected[-1][-1].endswith("\n")  # the module takes the rest of the file for a cell
        return
    assert [next(csv.reader([records.read(n).decode()])) for n in range(len(records))] == expected


def test_a_quote_that_is_never_closed_is_found_soon(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,name\n1,a\n2,"b\n' + "3,c\n" * 5000)
    with pytest.raises(DataError, match=r"a\.csv: a quote is opened and never closed, in row 1"):
        csv_records(path)


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=80)
@given(
    rows=st.lists(values, max_size=5),
    before=st.dictionaries(st.text(max_size=3), values, max_size=2),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    mark=st.booleans(),
    crlf=st.booleans(),
)
def test_json_elements_are_where_they_are(
    tmp_path_factory, rows, before, ascii_only, indent, mark, crlf
):
    path = tmp_path_factory.getbasetemp() / "rows.json"
    for content, under in ((rows, None), ({**before, "rows": rows, "z": 1}, "rows")):
        text = json.dumps(content, ensure_ascii=ascii_only, indent=indent)
        encoding, newline = "utf-8-sig" if mark else "utf-8", "\r\n" if crlf else "\n"
        path.write_text(text, encoding=encoding, newline=newline)
        records = json_records(path, under)
        assert [json.loads(records.read(n)) for n in range(len(records))] == rows


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b'{"a": ["x \\ud83d"]}', r"\ud83d is half a character, and its other half is missing"),
        (b'{"\\uDE00": 1}', r"\ude00 is half a character"),
        (b'"\xed\xa0\xbd"', "not text in UTF-8"),
        (b"[" * 100_000, "lists or objects are nested too deep"),
        (b"1" * 5000, "digits"),
        (b"{", "Expecting property name"),
    ],
)
def test_json_that_cannot_be_used_is_named(record, words):
    with pytest.raises(DataError) as caught:
        parse_json("a.jsonl#3", record)
    assert str(caught.value).startswith("a.jsonl#3: not JSON: ")
    assert words in str(caught.value)


def test_whole_pairs_and_a_byte_order_mark_are_fine():
    assert parse_json("x", b'\xef\xbb\xbf"\\ud83d\\ude00 \xe7\x8b\x97"') == "\U0001f600 狗"


def test_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"a": 1}\r\n  \n{"a": 2}')
    records = line_records(path)
    assert [json.loads(records.read(n)) for n in range(len(records))] == [{"a": 1}, {"a": 2}]


def test_millions_of_rows_take_little_memory(tmp_path):
    """16 bytes a row: 40 MB for the 2.5 million of WebVid."""
    count = 20_000
    path = tmp_path / "large.csv"
    with path.open("w") as file:
        file.write("videoid,page_dir,name\n")
        file.writelines(f'{n},{n // 50:06d},"A dog, number {n}, runs"\n' for n in range(count))
    tracemalloc.start()
    rows = open_dataset(DatasetSpec(str(path)))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == count
    assert kept < 20 * count
    assert peak < 60 * count
    assert rows[count - 1].answers == (f"A dog, number {count - 1}, runs",)
    assert rows.records.starts.dtype == np.int64

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from velatura.data.tables import csv_table
from velatura.data.tables.csv_table import DELIMITERS, open_csv
from velatura.data.tables.rows import BadRow, Row
from velatura.errors import DataError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path) -> list[Row | BadRow]:
    table = open_csv(path)
    return list(table.rows(table.columns))


def cells(path: Path) -> list[dict[str, object]]:
    return [dict(row.cells) for row in rows(path) if isinstance(row, Row)]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(DELIMITERS),
    st.lists(st.tuples(texts, texts), max_size=5),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_writer_writes_is_read(
    tmp_path: Path, delimiter: str, written: list[tuple[str, str]], encoding: str, end: str
) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(
        [("image", "prompt"), *written]
    )
    path = write(tmp_path / "x.csv", out.getvalue().encode(encoding))
    kept = [pair for pair in written if any(text.strip() for text in pair)]  # all cells empty: a blank row
    assert [(row["image"], row["prompt"]) for row in cells(path)] == kept


def test_the_delimiter_is_that_of_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", "image\tprompt\na.png\tone, two; three\n")
    assert cells(path) == [{"image": "a.png", "prompt": "one, two; three"}]
    assert cells(write(tmp_path / "y.csv", '"image"\t"a prompt"\n"b.png"\t"x"\n')) == [
        {"image": "b.png", "a prompt": "x"}
    ]
    assert cells(write(tmp_path / "z.csv", "image\na.png\n")) == [{"image": "a.png"}]


def test_lines_are_counted_through_quoted_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", 'image,prompt\na.png,"two\nlines"\n\nb.png,x,y\nc.png\nd.png,x\n')
    assert rows(path) == [
        Row(where="line 2", cells={"image": "a.png", "prompt": "two\nlines"}),
        BadRow(where="line 5", reason="has 3 cells, the header 2 (a delimiter inside a cell needs quotes around the cell)"),
        BadRow(where="line 6", reason="has 1 cell, the header 2"),
        Row(where="line 7", cells={"image": "d.png", "prompt": "x"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('image,prompt\na.png,x\nb.png,"never closed\nc.png,x\n', "line 3: a quote that begins a cell here is not closed"),
        ('image,prompt\na.png,"a "red" dog"\n', 'line 2: a closing quote is followed by more text.*written twice: ""'),
        ('image,prompt\na.png,"' + "x" * 200_000 + '"\n', r"line 2: a cell has more than 131,072 characters, or a quote is not closed"),
        (b"image,prompt\na.png,caf\xe9\n", "line 2: not UTF-8 text. Save the table as UTF-8"),
        (b"image,prompt\n" + b"a.png,x\n" * 200_000 + b"a.png,caf\xe9\n", "line 200002: not UTF-8 text"),
        ("image,prompt\na.png,x\n".encode("utf-16-le"), "holds zero bytes: it is no text, or UTF-16 without its mark"),
        ("image,image\na.png,b.png\n", "more than one column named 'image'"),
        ("", "is empty; expected a first line with the names"),
        ("\ufeff\n  \n", "is empty"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_trusted(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path / "x.csv", content)
    with pytest.raises(DataError, match=message):
        rows(path)


def test_a_line_without_end_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "MAX_LINE", 1000)
    path = write(tmp_path / "x.csv", "image,prompt\na.png," + "x" * 2000)
    with pytest.raises(DataError, match="line 2: longer than"):
        rows(path)


def test_only_the_wanted_cells_are_kept(tmp_path: Path) -> None:
    table = open_csv(write(tmp_path / "x.csv", "image,prompt,seed\na.png,x,1\n"))
    assert table.columns == ("image", "prompt", "seed")
    (row,) = table.rows({"seed", "image"})
    assert isinstance(row, Row)
    assert row.cells == {"image": "a.png", "seed": "1"}

"""A new kind of source is its schema, its reader, and a line for each: the one that the notes show works."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from velatura.data.scanning.scan import scan
from velatura.data.sources import readers
from velatura.errors import DataError

NOTES = Path(__file__).parents[3] / "docs/notes/architecture.md"
Write = Callable[..., Path]


@pytest.fixture
def example(monkeypatch: Any) -> dict[str, Any]:
    """What the code in the notes defines, with its reader among the others."""
    chapter = NOTES.read_text("utf-8").split("## Adding a source\n", 1)[1].split("\n## ", 1)[0]
    module = type(sys)("example_of_a_source")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for code in re.findall(r"```python\n(.*?)```", chapter, re.DOTALL):
        exec(code, vars(module))
    monkeypatch.setitem(readers.READERS, "lines", module.read_lines)
    return vars(module)


def test_the_source_of_the_notes(tmp_path: Path, example: Any, write_image: Write, log: Any) -> None:
    write_image("set/a.png", (40, 30), seed=1)
    write_image("set/in/b.png", (30, 40), seed=2)
    (tmp_path / "set/list.txt").write_text("a.png\ta dog\nin/b.png\n../c.png\tout\nd.png\tgone\n")
    section = example["LinesData"](lines="set/list.txt", repeats=2, max_bad=0.5)
    for _ in range(2):
        found = scan([section], tmp_path, log.events, memory=tmp_path / "memory")
        assert [(item.name, item.caption.text, item.width) for item in found.items] == [
            ("set/a.png", "a dog", 40),
            ("set/in/b.png", "", 30),
        ]
        assert [one.name for one in found.quarantined] == ["set/list.txt, line 3", "set/list.txt, line 4"]
        assert "contains '..'" in found.quarantined[0].reason
    (tmp_path / "set/list.txt").unlink()
    with pytest.raises(DataError, match=r"'set/list\.txt' cannot be read"):
        scan([section], tmp_path, log.events)

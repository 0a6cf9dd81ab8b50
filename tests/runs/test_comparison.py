from __future__ import annotations

import json
from pathlib import Path

import pytest

from velatura.errors import RecipeError
from velatura.runs.comparison import Subject, compare
from velatura.runs.comparison_page import comparison_page
from velatura.runs.recipes import Difference

from ..training.reporting.test_report import Sound
from .folders import RECIPE, write_run


def two(tmp_path: Path, prompt: str = "a dog") -> list[Path]:
    other = RECIPE.replace("rank = 16", "rank = 32").replace('"dog"', '"cat"')
    return [
        write_run(tmp_path / "dog", previews=(0, 2, 4), prompt=prompt),
        write_run(
            tmp_path / "cat",
            recipe=other,
            losses=(1.0, 0.5),
            previews=(0, 2),
            prompt=prompt,
            state="finished",
        ),
    ]


def test_side_by_side(tmp_path: Path) -> None:
    roots = two(tmp_path)
    found = compare(roots)
    assert (found.letters, found.names, found.caution) == ("AB", ["dog", "cat"], "")
    assert found.differences == [Difference(key="adapter.rank", values=("16", "32"))]
    (steps,) = found.previews.values()
    assert list(found.previews) == [Subject(prompt="a dog", seed=7, width=8, height=8)]
    assert [sorted(each) for each in steps] == [[0, 2, 4], [0, 2]]
    assert steps[1][2] == roots[1] / "previews" / "000002" / "00.png"
    record = json.loads(json.dumps(found.record()))
    assert record["differences"] == [{"key": "adapter.rank", "values": ["16", "32"]}]
    assert [len(losses) for losses in record["losses"]] == [4, 2]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    roots = [write_run(tmp_path / place / "dog") for place in "ab"]
    assert compare(roots).names == [str(root) for root in roots]


def test_losses_of_unlike_tasks_are_told(tmp_path: Path) -> None:
    other = RECIPE.replace('"photos"', '"pictures"').replace("seed = 1", "seed = 2")
    found = compare([write_run(tmp_path / "a"), write_run(tmp_path / "b", recipe=other)])
    assert found.caution.endswith("these runs differ in data[0].folder")


@pytest.mark.parametrize(("key", "told"), [("every = 3", ""), ("times = 8", "validation.times")])
def test_how_often_is_measured_is_no_other_task(tmp_path: Path, key: str, told: str) -> None:
    other = f"{RECIPE}[validation]\n{key}\n"
    found = compare([write_run(tmp_path / "a"), write_run(tmp_path / "b", recipe=other)])
    assert found.caution.rpartition(" ")[2] == told


def test_averages_are_set_beside_averages(tmp_path: Path) -> None:
    """A run without [ema] has none: its weights do not stand beside the other's average."""
    found = compare(
        [write_run(tmp_path / "a", previews=(2,)), write_run(tmp_path / "b", previews=(2,), ema=True)]
    )
    names = {
        subject.average: [[path.name for path in steps.values()] for steps in each]
        for subject, each in found.previews.items()
    }
    assert names == {False: [["00.png"], ["00.png"]], True: [[], ["00-ema.png"]]}
    assert "8x8, average)" in comparison_page(found)


def test_too_few_and_too_many(tmp_path: Path) -> None:
    root = write_run(tmp_path / "dog")
    for roots in ([root], [root, root], [root, tmp_path / "." / "dog"], [root] * 9):
        with pytest.raises(RecipeError, match="two to 8 different runs can be compared"):
            compare(roots)


def test_the_page(tmp_path: Path) -> None:
    page = Sound()
    text = comparison_page(compare(two(tmp_path, prompt="<b>a dog</b>")))
    page.feed(text.removeprefix("<!doctype html>"))
    assert page.open == []
    words = " ".join(page.words)
    for expected in (
        "dog and cat", "running", "finished", "20/40", "adapter.rank 16 32", "<b>a dog</b>", "(seed 7, 8x8)",
        "before step 2 step 4", "dog 1.0000 0.2500", "cat 1.0000 0.5000", "validation loss",
        "8.00 1.0 GiB", "curve first last lowest",
    ):  # fmt: skip
        assert expected in words, expected
    assert len(page.images) == 5
    assert text.count("<polyline") == 4
    assert "://" not in text  # nothing is fetched


def test_runs_of_other_lengths_names_and_without_previews(tmp_path: Path) -> None:
    roots = [
        *two(tmp_path),
        write_run(tmp_path / "<i>none & short", losses=(0.75,)),
    ]
    page = Sound()
    page.feed(comparison_page(compare(roots)).removeprefix("<!doctype html>"))
    assert page.open == []
    words = " ".join(page.words)
    assert "<i>none & short 0.7500 0.7500 0.7500 (step 1)" in words
    assert "not painted by <i>none & short" in words
    assert "before step 2 step 4 —" in words  # the second run has no picture of step 4


def test_the_page_of_runs_without_anything(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.toml").write_text("")
    text = comparison_page(compare([tmp_path / "a", tmp_path / "b"]))
    assert "They differ in nothing but their names." in text
    assert "<svg" not in text
    assert "Previews" not in text

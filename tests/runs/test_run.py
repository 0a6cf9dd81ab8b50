from __future__ import annotations

import json
from pathlib import Path

from velatura.runs.run import Phase, read_run

from .folders import write_run


def test_all_that_a_folder_tells(tmp_path: Path) -> None:
    root = write_run(tmp_path / "dog", previews=(0, 4))
    (root / "model-000004").mkdir()
    (root / "model-000004" / "a").write_bytes(bytes(100))
    found = read_run(root)
    assert found.recipe["adapter"]["rank"] == 16
    assert found.phases == [
        Phase(name="scan", times=1, seconds=2.0),
        Phase(name="previews", times=2, seconds=63.0),
    ]
    assert found.losses == [(1, 1.0), (2, 0.75), (3, 0.5), (4, 0.25)]
    assert found.smoothed == found.losses  # of so few nothing is smoothed
    assert found.validations == {"validation": [(2, 0.9), (4, 0.6)]}
    assert (found.images_per_second, found.memory) == (8.0, 2**30)
    assert [(one.step, one.request.prompt) for one in found.pictures] == [(0, "a dog"), (4, "a dog")]
    assert found.states == ["000004"]
    assert found.models == [
        (root / "adapters" / "dog-000004.safetensors", 2**20),
        (root / "model-000004", 100),
    ]
    assert [notice.level for notice in found.notices] == ["info", "warning"]
    record = json.loads(json.dumps(found.record()))
    assert (record["name"], record["losses"][0], record["states"]) == ("dog", [1, 1.0], ["000004"])
    assert record["previews"][1]["request"]["seed"] == 7


def test_an_empty_folder_is_an_empty_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("broken =")
    (tmp_path / "events.jsonl").write_bytes(b'\xff\x00\n{"kind": "StepFinished"}\n[]')
    found = read_run(tmp_path)
    assert (found.recipe, found.losses, found.pictures, found.models, found.notices) == ({}, [], [], [], [])
    assert (found.smoothed, found.images_per_second, found.memory) == ([], None, None)
    json.dumps(found.record())

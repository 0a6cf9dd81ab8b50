"""A new user's first hour: a dataset, a LoRA, pictures with it, the same pictures again, files for other tools."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from velatura.checkpoints.lora_file import read_lora
from velatura.checkpoints.reader import TensorFile

from .conftest import Run

RECIPE = """\
name = "snow"
seed = 5
[model]
model = "pocket/flux"
[[data]]
folder = "photos"
resolution = 96
[adapter]
rank = 4
[training]
steps = {steps}
batch_size = 4
[validation]
share = 0.25
every = 2
[previews]
every = 2
steps = 2
prompts = ["a large red matte snowman at noon --d 3"]
[output]
formats = ["kohya", "diffusers", "comfy"]
save_dtype = "fp32"
"""


def test_from_pictures_to_a_lora_to_pictures(velatura: Run, tmp_path: Path) -> None:
    velatura("pocket", "concept", "--out", "photos", "--count", "8", "--seed", "2")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(steps=4))
    plan = velatura("train", "recipe.toml", "--dry-run")
    assert "linear layers adapted" in plan.stdout
    assert not (tmp_path / "runs").exists()

    velatura("train", "recipe.toml")
    run = tmp_path / "runs" / "snow"
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["kind"] == "StepFinished"] == [1, 2, 3, 4]
    assert {event["step"] for event in events if event["kind"] == "PreviewSaved"} == {0, 2, 4}
    assert {event["step"] for event in events if event["kind"] == "ValidationFinished"} == {2, 4}
    assert "snowman" in (run / "report.html").read_text()

    files = {path.name: path for path in (run / "adapters").iterdir()}
    assert set(files) == {
        "snow-000004.safetensors",
        "snow-000004-diffusers.safetensors",
        "snow-000004-comfy.safetensors",
    }
    deltas = [_deltas(path, tmp_path / f"{name}.kohya.safetensors", velatura) for name, path in files.items()]
    for other in deltas[1:]:
        assert other.keys() == deltas[0].keys()
        assert all(float((other[name] - delta).abs().max()) < 1e-6 for name, delta in deltas[0].items())

    lora = files["snow-000004.safetensors"]
    with TensorFile(lora) as file:
        assert file.metadata["ss_base_model_version"] == "flux1"
        assert "sshs_model_hash" in file.metadata
    paint = ("generate", "--prompt", "a small green snowman at dusk", "--steps", "3", "--seed", "9")
    velatura(*paint, "--lora", f"{lora}:0.8", "--out", "a.png")
    velatura(*paint, "--lora", f"{lora}:0.8", "--out", "b.png")
    velatura(*paint, "--out", "without.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "without.png").read_bytes()
    velatura("generate", "--like", "a.png", "--out", "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def _deltas(path: Path, as_kohya: Path, velatura: Run) -> dict[str, object]:
    """Updates by fused layer, after a conversion by the command line."""
    velatura("lora", "convert", str(path), "--to", "kohya", "--out", str(as_kohya))
    return {layer.module: layer.delta() for layer in read_lora(as_kohya).layers}


@pytest.mark.slow
def test_the_demo_teaches_a_snowman(velatura: Run, tmp_path: Path) -> None:
    done = velatura("demo", "--folder", "demo")
    assert (tmp_path / "demo" / "before-after.png").exists()
    assert (tmp_path / "demo" / "runs" / "snowman" / "report.html").exists()
    scores = re.findall(r"^  (\w+) +(\d+)% +(\d+)%$", done.stdout, flags=re.MULTILINE)
    assert {"shape", "colour", "light", "count"} <= {name for name, _, _ in scores}
    assert sum(int(after) for _, _, after in scores) > sum(int(before) for _, before, _ in scores) + 20

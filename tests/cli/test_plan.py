"""`velatura plan`, as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from velatura.planning.choose import NO_FIT


@pytest.fixture
def flux_file(tmp_path: Path) -> Path:
    path = tmp_path / "flux.toml"
    path.write_text(
        'name = "dog"\n[model]\nfamily = "flux"\nmodel = "black-forest-labs/FLUX.1-dev"\n'
        '[[data]]\nfolder = "photos"\nresolution = 512\n[adapter]\n'
    )
    return path


def test_a_plan_fits_in_80_columns_and_needs_no_files(velatura: Callable[..., Any], flux_file: Path) -> None:
    done = velatura("plan", flux_file, "--device", "h200")
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    for word in ("captions", "latents", "step", "time", "host", "disk", "fits in 139.8 GiB"):
        assert word in done.out


@pytest.mark.slow
def test_a_budget_is_met_with_lines_to_paste(velatura: Callable[..., Any], flux_file: Path) -> None:
    done = velatura("plan", flux_file, "--device", "4090", "--memory", "16GiB")
    assert done.code == 0, done.err
    lines = [line.split()[1] for line in done.out.splitlines() if line.strip().startswith("--set ")]
    assert lines
    sets = [word for line in lines for word in ("--set", line)]
    assert velatura("recipe", "check", flux_file, *sets).err.count("unknown") == 0
    again = velatura("plan", flux_file, "--device", "4090", "--memory", "16GiB", "--json", *sets)
    document = json.loads(again.out)
    assert document["fits"]
    assert document["set"] == []
    assert document["needed"] <= 16 * 2**30


@pytest.mark.slow
def test_what_cannot_fit_ends_with_3(velatura: Callable[..., Any], flux_file: Path) -> None:
    done = velatura("plan", flux_file, "--device", "4090", "--memory", "2GiB", "--json")
    document = json.loads(done.out)
    assert done.code == NO_FIT == 3
    assert not document["fits"]
    assert document["needed"] > 2 * 2**30
    assert document["advice"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--memory", "much"), "for example 24GiB"),
        (("--memory", "0.0000001MB"), "less than one byte"),
        (("--device", "abacus"), "received the device 'abacus'"),
        (("--set", "training.stepz=3"), "steps"),
    ],
)
def test_mistakes_are_told(
    velatura: Callable[..., Any], flux_file: Path, words: tuple[str, str], said: str
) -> None:
    done = velatura("plan", flux_file, *words)
    assert done.code == 2
    assert said in done.err

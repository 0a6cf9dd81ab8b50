from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from velatura.families.registry import family_for, files_of
from velatura.interfaces import ModelFiles, Parts, Prompt
from velatura.placement.precision import emulated
from velatura.placement.precision.emulated import HeldLinear, compute_in_float32, is_emulated
from velatura.recipe.toml import parse_recipe
from velatura.sampling.pipeline import Pipeline

CPU = torch.device("cpu")


def encoders(folder: Path, dtype: torch.dtype) -> tuple[object, Parts]:
    recipe = parse_recipe(f'name = "x"\n[model]\nmodel = "{folder}"\n[[data]]\nfolder = "x"\n[adapter]\n')
    family = family_for(recipe.model)
    files: ModelFiles = files_of(recipe.model, folder)
    return family, family.load(files, ["text_encoders"], device=CPU, dtype=dtype)


def size(modules: tuple[nn.Module, ...]) -> int:
    return sum(t.nbytes for one in modules for t in (*one.parameters(), *one.buffers()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_compute_as_the_same_values_in_float32(tiny_model: Path, dtype: torch.dtype) -> None:
    family, held = encoders(tiny_model, dtype)
    _, wide = encoders(tiny_model, dtype)
    prompts = [Prompt(text="a red cube"), Prompt(text="")]
    with torch.no_grad():
        narrow = family.encode(held, prompts).tensors  # type: ignore[attr-defined]
        before = size(held.modules("text_encoders"))
        compute_in_float32(held.modules("text_encoders"))
        found = family.encode(held, prompts).tensors  # type: ignore[attr-defined]
        for module in wide.modules("text_encoders"):
            module.float()
        wanted = family.encode(wide, prompts).tensors  # type: ignore[attr-defined]
    for name, tensor in wanted.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor), name
        assert not torch.equal(found[name], narrow[name].float())
    linears = [m for one in held.modules("text_encoders") for m in one.modules() if isinstance(m, HeldLinear)]
    assert len(linears) > 10
    assert {one.values.dtype for one in linears} == {dtype}
    assert before < size(held.modules("text_encoders")) < 1.3 * before


def test_only_what_a_cpu_emulates_is_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (False, True):
        monkeypatch.setattr(emulated, "has_bf16", lambda device, there=there: there)
        assert is_emulated(torch.bfloat16, CPU) != there
        assert is_emulated(torch.float16, CPU)
        assert not is_emulated(torch.float32, CPU)
        assert not is_emulated(torch.bfloat16, torch.device("cuda"))


@pytest.mark.parametrize("there", [False, True])
def test_a_pipeline_widens_what_its_cpu_emulates(
    tiny_model: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulated, "has_bf16", lambda device: there)
    pipeline = Pipeline.load(str(tiny_model), device="cpu", precision="bf16")
    pipeline("a", steps=1, width=32, height=32)
    encoders = pipeline.held.parts.modules("text_encoders")
    assert encoders
    held = [m for one in encoders for m in one.modules() if isinstance(m, HeldLinear)]
    assert bool(held) != there

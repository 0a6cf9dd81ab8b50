"""Putting LoRAs on the tiny FLUX, taking them off, merging them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from velatura.adapters.attach import Adapter, LoraValues, put_on, put_on_fresh
from velatura.adapters.lora import LoraLinear
from velatura.adapters.targets import choose
from velatura.draws import Draw
from velatura.errors import CheckpointError
from velatura.interfaces import Conditioning, Family, Parts, Target
from velatura.placement.recompute import recompute

from ..tiny import load


@pytest.fixture
def model(tiny_model: Path) -> tuple[Family, Parts]:
    return load(tiny_model)


def inputs() -> tuple[Tensor, Tensor, Conditioning]:
    draw = Draw.of(1, slots=2)
    tensors = {"text": draw.normal("text", (5, 32)), "pooled": draw.normal("pooled", (32,))}
    return draw.normal("latents", (16, 4, 6)), torch.tensor([0.2, 0.9]), Conditioning(tensors=tensors)


def output(family: Family, parts: Parts) -> Tensor:
    return family.predict(parts, *inputs())


def fresh(family: Family, parts: Parts, wanted: str | list[str] = "sd-scripts", seed: int = 0) -> Adapter:
    assert parts.denoiser is not None
    targets = choose(family.targets(parts.denoiser), wanted).targets
    return put_on_fresh(parts.denoiser, targets, rank=4, alpha=2.0, seed=seed)


def filled(adapter: Adapter, seed: int = 0) -> Adapter:
    """B random, so that the adapter does something."""
    generator = torch.Generator().manual_seed(seed)
    for layer in adapter.layers.values():
        layer.up.data.normal_(0, 0.1, generator=generator)
    return adapter


def carries_lora(module: nn.Module | None) -> bool:
    assert module is not None
    return any(isinstance(layer, LoraLinear) for layer in module.modules())


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@torch.no_grad()
def test_a_fresh_adapter_changes_nothing(model: tuple[Family, Parts]) -> None:
    before = output(*model)
    adapter = fresh(*model)
    assert all(not layer.up.any() for layer in adapter.layers.values())
    assert torch.equal(output(*model), before)


@torch.no_grad()
def test_taking_off_restores_the_model_bit_for_bit(model: tuple[Family, Parts]) -> None:
    denoiser = model[1].denoiser
    assert denoiser is not None
    before, names, old = output(*model), [name for name, _ in denoiser.named_modules()], weights(denoiser)
    adapter = filled(fresh(*model))
    assert (output(*model) - before).abs().max() > 1e-2
    adapter.take_off()
    assert torch.equal(output(*model), before)
    assert [name for name, _ in denoiser.named_modules()] == names
    assert not carries_lora(denoiser)
    assert all(torch.equal(value, old[name]) for name, value in denoiser.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_merged_is_applied(model: tuple[Family, Parts], strength: float) -> None:
    adapter = filled(fresh(*model))
    adapter.set_strength(strength)
    applied = output(*model)
    adapter.merge(strength)
    assert model[1].denoiser is not None
    assert not carries_lora(model[1].denoiser)
    torch.testing.assert_close(output(*model), applied, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_stacked_adapters_add_up(model: tuple[Family, Parts]) -> None:
    """Two on top of each other are as good as both updates added to the weights; they come off one by one."""
    bare = output(*model)
    first = filled(fresh(*model, "sd-scripts", seed=1), seed=1)
    first.set_strength(0.5)
    only_first = output(*model)
    second = filled(fresh(*model, ["attention"], seed=2), seed=2)
    second.set_strength(-1.5)
    both = output(*model)
    second.take_off()
    assert torch.equal(output(*model), only_first)
    first.take_off()
    assert torch.equal(output(*model), bare)
    denoiser = model[1].denoiser
    assert denoiser is not None
    for adapter, strength in ((first, 0.5), (second, -1.5)):
        for path, layer in adapter.layers.items():
            denoiser.get_submodule(path).weight += strength * layer.delta()  # type: ignore[operator]
    torch.testing.assert_close(output(*model), both, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_stacked_adapters_merge_from_the_top(model: tuple[Family, Parts]) -> None:
    first, second = filled(fresh(*model, seed=1), 1), filled(fresh(*model, seed=2), 2)
    both = output(*model)
    second.merge()
    first.merge()
    torch.testing.assert_close(output(*model), both, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("act", ["take_off", "merge"])
def test_the_lower_of_two_refuses_and_leaves_everything_as_it_is(
    model: tuple[Family, Parts], act: str
) -> None:
    """The upper one sits on some of the layers only: those beside them must not be touched either."""
    lower, upper = filled(fresh(*model, seed=1), 1), filled(fresh(*model, ["mlp"], seed=2), 2)
    before = output(*model)
    with pytest.raises(RuntimeError, match="reverse order"):
        getattr(lower, act)()
    assert torch.equal(output(*model), before)
    upper.take_off()
    lower.take_off()


@torch.no_grad()
def test_strength_per_item(model: tuple[Family, Parts]) -> None:
    adapter = filled(fresh(*model))
    adapter.set_strength(torch.tensor([0.0, 1.0]))
    mixed = output(*model)
    for strength, row in ((0.0, 0), (1.0, 1)):
        adapter.set_strength(strength)
        torch.testing.assert_close(output(*model)[row], mixed[row], rtol=1e-5, atol=1e-5)


def test_recomputed_blocks_give_the_same_gradients(tiny_model: Path) -> None:
    found = []
    for recomputed in (False, True):
        family, parts = load(tiny_model)
        adapter = filled(fresh(family, parts))
        assert parts.denoiser is not None
        if recomputed:
            recompute(family.blocks(parts.denoiser))
        for _ in range(2):  # a second pass meets whatever the first one left behind
            output(family, parts).square().mean().backward()
        found.append({name: value.grad for name, value in adapter.parameters().items()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert gradient is not None
        assert gradient.abs().max() > 0, name
        assert torch.equal(gradient, found[1][name]), name


def test_parameters_name_each_value_once(model: tuple[Family, Parts]) -> None:
    """qkv of a stream, and q, k, v, mlp of a single block, have one A; the others one each."""
    adapter = fresh(*model)
    names = adapter.parameters()
    assert len({id(value) for value in names.values()}) == len(names)
    double = [name for name in names if name.startswith("transformer_blocks.0.")]
    assert sum(name.endswith(".up") for name in double) == 14
    assert sum(name.endswith(".down") for name in double) == 14 - 2 * 2
    single = [name for name in names if name.startswith("single_transformer_blocks.1.")]
    assert sum(name.endswith(".up") for name in single) == 6
    assert sum(name.endswith(".down") for name in single) == 6 - 3


def test_values_of_layers_that_share_hold_one_tensor(model: tuple[Family, Parts]) -> None:
    values = fresh(*model).values()
    q, k, other = (values[f"transformer_blocks.0.attn.{name}"] for name in ("to_q", "to_k", "add_q_proj"))
    assert q.down is k.down
    assert q.down is not other.down


def test_without_sharing_every_layer_has_its_own(model: tuple[Family, Parts]) -> None:
    denoiser = model[1].denoiser
    assert denoiser is not None
    targets = choose(model[0].targets(denoiser), "attention").targets
    adapter = put_on_fresh(denoiser, targets, rank=4, alpha=4, seed=0, share_down=False)
    assert sum(name.endswith(".down") for name in adapter.parameters()) == len(targets)


def test_start_depends_on_seed_and_layer_not_on_what_else_is_adapted(tiny_model: Path) -> None:
    def downs(wanted: list[str], seed: int) -> dict[str, Tensor]:
        adapter = fresh(*load(tiny_model), wanted, seed)
        return {path: layer.down.weight for path, layer in adapter.layers.items()}

    few, many, other = downs(["mlp"], 7), downs(["attention", "mlp"], 7), downs(["mlp"], 8)
    assert all(torch.equal(value, many[path]) for path, value in few.items())
    assert not any(torch.equal(value, other[path]) for path, value in few.items())
    assert len({value[0, 0].item() for value in few.values()}) == len(few)


def test_rank_is_limited_by_the_layer_and_keeps_its_scale() -> None:
    host = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 40))
    targets = [Target(module=name, group="mlp") for name in ("0", "1")]
    adapter = put_on_fresh(host, targets, rank=16, alpha=8.0, seed=0)
    found = [(path, layer.rank, layer.scale) for path, layer in adapter.layers.items()]
    assert found == [("0", 3, 0.5), ("1", 3, 0.5)]


@pytest.mark.parametrize(
    ("path", "shapes", "message"),
    [
        (
            "blocks.7.to_q",
            ((2, 8), (8, 2)),
            "has a layer for 'blocks.7.to_q', which Sequential does not have",
        ),
        ("0", ((2, 9), (8, 2)), "maps 9 -> 8 features, the model's layer 8 -> 8"),
        ("0", ((2, 8), (8, 3)), "down has rank 2 and up has rank 3"),
        ("1", ((2, 8), (8, 2)), "'1' is a GELU; LoRA layers sit on linear layers and plain convolutions"),
    ],
)
def test_values_that_do_not_fit_are_refused_before_anything_changes(
    path: str, shapes: tuple[tuple[int, int], tuple[int, int]], message: str
) -> None:
    host = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    good = LoraValues(down=torch.zeros(2, 8), up=torch.zeros(8, 2), alpha=2)
    bad = LoraValues(down=torch.zeros(shapes[0]), up=torch.zeros(shapes[1]), alpha=2)
    with pytest.raises(CheckpointError, match=message):
        put_on(host, {"2": good, path: bad})
    assert not carries_lora(host)

"""What the words of `adapter.targets` choose, counted on the true-size FLUX."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from velatura.adapters.attach import put_on_fresh
from velatura.adapters.targets import choose
from velatura.checkpoints.loading import skeleton
from velatura.errors import RecipeError
from velatura.families.flux_targets import flux_targets
from velatura.interfaces import Target

DOUBLE, SINGLE, D = 19, 38, 3072


@pytest.fixture(scope="module")
def flux() -> nn.Module:
    """FLUX.1-dev without weights; diffusers' defaults are its shapes."""
    model: nn.Module = skeleton(lambda: FluxTransformer2DModel(guidance_embeds=True))
    return model


@pytest.fixture(scope="module")
def targets(flux: nn.Module) -> list[Target]:
    return flux_targets(flux)


# (in, out) of each kohya module; rank 16 on it trains 16 (in + out) values
DOUBLE_STREAM = {
    "attn_qkv": (D, 3 * D),
    "attn_proj": (D, D),
    "mlp_0": (D, 4 * D),
    "mlp_2": (4 * D, D),
    "mod_lin": (D, 6 * D),
}
SINGLE_BLOCK = {"linear1": (D, 7 * D), "linear2": (5 * D, D), "modulation_lin": (D, 3 * D)}


def values(*, modulation: bool) -> int:
    """By hand from the table above."""
    double = sum(sum(s) for name, s in DOUBLE_STREAM.items() if modulation or name != "mod_lin")
    single = sum(sum(s) for name, s in SINGLE_BLOCK.items() if modulation or name != "modulation_lin")
    return 16 * (2 * DOUBLE * double + SINGLE * single)


@pytest.mark.parametrize(
    ("wanted", "modules", "count", "millions"),
    [
        (["attention", "mlp"], 228, values(modulation=False), 56.03),
        ("sd-scripts", 304, values(modulation=True), 76.58),
        (["sd-scripts"], 304, values(modulation=True), 76.58),
    ],
)
def test_presets_have_the_module_and_value_counts_of_sd_scripts(
    targets: list[Target], wanted: str | list[str], modules: int, count: int, millions: float
) -> None:
    """sd-scripts trains 76.58 M values in 304 modules at rank 16; less the modulation it is 56.03 M in 228."""
    assert round(count / 1e6, 2) == millions
    choice = choose(targets, wanted)
    assert len({target.kohya for target in choice.targets}) == modules
    host = skeleton(lambda: FluxTransformer2DModel(guidance_embeds=True))
    adapter = put_on_fresh(host, choice.targets, rank=16, alpha=16, seed=0)
    assert sum(value.numel() for value in adapter.parameters().values()) == count
    assert f"{modules} modules in a kohya file" in choice.report()


def test_every_linear_layer_is_in_a_group_once(flux: nn.Module, targets: list[Target]) -> None:
    linears = {name for name, module in flux.named_modules() if isinstance(module, nn.Linear)}
    assert {target.module for target in targets} == linears
    assert len(targets) == len(linears)


def test_groups_hold_what_their_names_say(targets: list[Target]) -> None:
    counts = {
        name: len(choose(targets, name).targets) for name in ("attention", "mlp", "modulation", "embedders")
    }
    assert counts == {
        "attention": DOUBLE * 8 + SINGLE * 3,  # q k v out of two streams; q k v
        "mlp": DOUBLE * 4 + SINGLE * 2,  # two layers of two streams; in, and out with the attention's part
        "modulation": DOUBLE * 2 + SINGLE,
        "embedders": 10,  # image, text, 2 of t, guidance and pooled text, the last modulation, the output
    }


def test_layers_that_share_read_inputs_of_one_width(flux: nn.Module, targets: list[Target]) -> None:
    groups: dict[str, list[Target]] = {}
    for target in targets:
        if target.shares:
            groups.setdefault(target.shares, []).append(target)
    assert sorted({len(group) for group in groups.values()}) == [3, 4]
    assert len(groups) == 2 * DOUBLE + SINGLE
    for group in groups.values():
        assert {flux.get_submodule(target.module).weight.shape[1] for target in group} == {D}  # type: ignore[union-attr, index]


def test_patterns_run_over_full_paths_and_keep_the_models_order(targets: list[Target]) -> None:
    choice = choose(targets, ["single_transformer_blocks.3?.proj_mlp", "transformer_blocks.0.attn.*"])
    assert choice.counts == {"single_transformer_blocks.3?.proj_mlp": 8, "transformer_blocks.0.attn.*": 8}
    modules = [target.module for target in choice.targets]
    assert modules[:2] == ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k"]
    assert modules[8:] == [f"single_transformer_blocks.{i}.proj_mlp" for i in range(30, 38)]


def test_what_two_words_choose_is_taken_once(targets: list[Target]) -> None:
    both = choose(targets, ["attention", "transformer_blocks.0.attn.to_q"])
    assert len(both.targets) == len(choose(targets, "attention").targets)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "atention",
            "'atention' matches no layer of this model; did you mean 'attention'? Allowed: the groups",
        ),
        ("sd_scripts", "did you mean 'sd-scripts'?"),
        ("transformer.transformer_blocks.0.attn.to_q", "did you mean 'transformer_blocks.0.attn.to_q'?"),
        (
            "%%%",
            "'%%%' matches no layer of this model. Allowed: the groups attention, embedders, mlp, modulation;",
        ),
    ],
)
def test_no_match_says_what_there_is(targets: list[Target], word: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        choose(targets, ["mlp", word])
    assert message in str(caught.value)
    assert "'transformer_blocks.*.attn.to_q'" in str(caught.value)


def test_skeletons_cost_no_memory(flux: nn.Module) -> None:
    assert {parameter.device for parameter in flux.parameters()} == {torch.device("meta")}

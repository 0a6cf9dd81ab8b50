from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from hypothesis import given, settings
from hypothesis import strategies as st

from velatura.checkpoints.checkpoint import TensorDict
from velatura.checkpoints.flux_keys import flux_config, flux_denoiser, flux_key_map, rope_axes
from velatura.checkpoints.keymap import KeyMap
from velatura.checkpoints.loading import load_into, skeleton
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.published import load_config
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import CheckpointError, ModelError

from .conftest import TINY_FLUX, md5_of_names_and_shapes, shapes_of, tiny_flux

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def bfl_shapes(
    *, width: int, head: int, double: int, single: int, channels: int, text: int, pooled: int, guidance: bool
) -> Shapes:
    """Every tensor of a FLUX file as Black Forest Labs lays it out, from the architecture's description."""
    d = width
    shapes = linear("img_in", d, channels) | linear("txt_in", d, text)
    embedders = {"time_in": 256, "vector_in": pooled} | ({"guidance_in": 256} if guidance else {})
    for name, size in embedders.items():
        shapes |= linear(f"{name}.in_layer", d, size) | linear(f"{name}.out_layer", d, d)
    for i in range(double):
        for stream in ("img", "txt"):
            at = f"double_blocks.{i}.{stream}"
            shapes |= linear(f"{at}_mod.lin", 6 * d, d)
            shapes |= linear(f"{at}_attn.qkv", 3 * d, d) | linear(f"{at}_attn.proj", d, d)
            shapes |= linear(f"{at}_mlp.0", 4 * d, d) | linear(f"{at}_mlp.2", d, 4 * d)
            shapes |= {f"{at}_attn.norm.{n}_norm.scale": (head,) for n in ("query", "key")}
    for i in range(single):
        at = f"single_blocks.{i}"
        shapes |= linear(f"{at}.modulation.lin", 3 * d, d)
        shapes |= linear(f"{at}.linear1", 3 * d + 4 * d, d) | linear(f"{at}.linear2", d, d + 4 * d)
        shapes |= {f"{at}.norm.{n}_norm.scale": (head,) for n in ("query", "key")}
    return (
        shapes
        | linear("final_layer.adaLN_modulation.1", 2 * d, d)
        | linear("final_layer.linear", channels, d)
    )


TRUE = {"width": 3072, "head": 128, "double": 19, "single": 38, "channels": 64, "text": 4096, "pooled": 768}


@pytest.mark.parametrize(
    ("name", "guidance", "parameters"), [("dev", True, 11_901_408_320), ("schnell", False, 11_891_178_560)]
)
def test_true_size_in_both_layouts(name: str, guidance: bool, parameters: int) -> None:
    config = load_config(f"flux-{name}-transformer")
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
    wanted = bfl_shapes(**TRUE, guidance=guidance)
    assert sum(math.prod(shape) for shape in wanted.values()) == parameters
    written = flux_key_map(double_blocks=19, single_blocks=38).to_file(
        model.state_dict(), dtype=torch.bfloat16
    )
    assert {key: pending.shape for key, pending in written.items()} == wanted

    file = TensorDict({key: torch.empty(shape, device="meta") for key, shape in wanted.items()})
    inner, key_map = flux_denoiser(file)
    shapes = shapes_of(model)
    origins = key_map.origins(shapes)
    assert all(origin.file_shape(shapes[at]) == wanted[origin.key] for at, origin in origins.items())
    assert {origin.key for origin in origins.values()} == set(inner)

    read = flux_config(file)
    assert {key: read[key] for key in config} == config
    assert flux_config(TensorDict(model.state_dict())) == read


@pytest.mark.parametrize(
    ("changes", "prefix", "md5"),
    [
        ({}, "", "a29710fea6dddb0314663ee823598e50"),  # FLUX.1-dev, Krea, Kontext
        ({}, "model.diffusion_model.", "3394f306c4cbf04334b712bf5aaed95f"),
        ({"in_channels": 384, "out_channels": 64}, "", "f876d2a6fb247fb7da0f84fc7fb8a823"),  # FLUX.1-Fill-dev
        (
            {"in_channels": 196, "out_channels": 64, "num_layers": 8},
            "",
            "d02f41c13549fa5093d3521f62a5570a",
        ),  # Flex.2
    ],
)
def test_layout_is_that_of_the_published_files(changes: dict[str, int], prefix: str, md5: str) -> None:
    """The md5s were taken from the published files by another tool."""
    config = load_config("flux-dev-transformer") | changes
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
    key_map = flux_key_map(double_blocks=config["num_layers"], single_blocks=config["num_single_layers"])
    shapes = {prefix + key: item.shape for key, item in key_map.to_file(model.state_dict()).items()}
    assert md5_of_names_and_shapes(shapes) == md5
    file = TensorDict({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
    read = flux_config(file)
    assert all(read[key] == value for key, value in config.items())


def test_diffusers_layout_is_that_of_the_published_file() -> None:
    with torch.device("meta"):
        model = FluxTransformer2DModel(**load_config("flux-dev-transformer"))
    assert md5_of_names_and_shapes(shapes_of(model)) == "605c56eab23e9e2af863ad8f0813a25d"


def test_agrees_with_diffusers_converter_at_true_width() -> None:
    """Rows as in the true model, one column: their converter assumes the width 3072."""
    with torch.device("meta"):
        config = load_config("flux-dev-transformer") | {"num_layers": 2, "num_single_layers": 2}
        shapes = shapes_of(FluxTransformer2DModel(**config))
    torch.manual_seed(0)
    narrow = {name: torch.randn(shape[0], *[1] * (len(shape) - 1)) for name, shape in shapes.items()}
    file = flux_key_map(double_blocks=2, single_blocks=2).to_file(narrow)
    theirs = convert_flux_transformer_checkpoint_to_diffusers(
        {key: item.make() for key, item in file.items()}
    )
    assert sorted(theirs) == sorted(narrow)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in narrow.items())


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("guidance", [True, False])
def test_tiny_round_trip_is_bit_exact(tmp_path: Path, prefix: str, guidance: bool) -> None:
    model = tiny_flux(guidance=guidance)
    file = flux_key_map(double_blocks=2, single_blocks=3).to_file(model.state_dict())
    extra = {"vae.x": torch.zeros(1)} if prefix else {}
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {prefix + key: item for key, item in file.items()} | extra)

    checkpoint = open_checkpoint(path)
    config = flux_config(checkpoint)
    assert config == TINY_FLUX | {"patch_size": 1, "out_channels": 12, "guidance_embeds": guidance}
    inner, key_map = flux_denoiser(checkpoint)
    again = skeleton(lambda: FluxTransformer2DModel(**config))
    load_into(again, inner, key_map, dtype=None, what="FLUX denoiser")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_layout_by_hand() -> None:
    """Where single rows go, spelled out."""
    d = 24
    state = tiny_flux().state_dict()
    file = {k: v.make() for k, v in flux_key_map(double_blocks=2, single_blocks=3).to_file(state).items()}
    linear1 = file["single_blocks.2.linear1.weight"]
    assert linear1.shape == (7 * d, d)
    at = "single_transformer_blocks.2"
    assert torch.equal(linear1[d : 2 * d], state[f"{at}.attn.to_k.weight"])
    assert torch.equal(linear1[3 * d :], state[f"{at}.proj_mlp.weight"])
    txt = file["double_blocks.1.txt_attn.qkv.bias"]
    assert torch.equal(txt[2 * d :], state["transformer_blocks.1.attn.add_v_proj.bias"])
    final = file["final_layer.adaLN_modulation.1.weight"]
    assert torch.equal(
        final[:d], state["norm_out.linear.weight"][d:]
    )  # shift first in the file, second in diffusers


def test_diffusers_layout_loads_as_it_is() -> None:
    model = tiny_flux()
    inner, key_map = flux_denoiser(TensorDict(model.state_dict()))
    again = skeleton(lambda: tiny_flux(seed=1))
    load_into(again, inner, key_map, dtype=None, what="FLUX denoiser")
    assert torch.equal(again.proj_out.weight, model.proj_out.weight)


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 9),
    mlp=st.integers(1, 9),
    double=st.integers(0, 3),
    single=st.integers(0, 3),
    data=st.data(),
)
def test_key_map_round_trip_at_any_shape(
    width: int, mlp: int, double: int, single: int, data: st.DataObject
) -> None:
    """file -> module -> file and module -> file -> module change no value, whatever the sizes."""
    key_map = flux_key_map(double_blocks=double, single_blocks=single)
    state: dict[str, torch.Tensor] = {}
    for rule in key_map.rules:
        for place in rule.places:
            rows = mlp if "mlp" in place else 2 * width if rule.form == "swapped_halves" else width
            state[f"{place}.weight"] = torch.randn(
                rows, data.draw(st.integers(1, 3)) if len(rule.places) == 1 else 2
            )
            state[f"{place}.bias"] = torch.randn(rows)
    file = TensorDict({key: item.make() for key, item in key_map.to_file(state).items()})
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    back = {name: origin.read(file, shapes[name]) for name, origin in key_map.origins(shapes).items()}
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_refusals() -> None:
    with pytest.raises(ModelError, match="no FLUX denoiser in it"):
        flux_denoiser(TensorDict({"conv.weight": torch.zeros(1)}))
    key_map = flux_key_map(double_blocks=1, single_blocks=0)
    with pytest.raises(ModelError, match=r"no rule for 'transformer_blocks.1.norm1.linear.weight'"):
        key_map.origins({"transformer_blocks.1.norm1.linear.weight": (1, 1)})
    with pytest.raises(
        ModelError, match=r"shares 'double_blocks.0.img_attn.qkv' with 'transformer_blocks.0.attn.to_k"
    ):
        key_map.origins({"transformer_blocks.0.attn.to_q.weight": (1, 1)})
    with pytest.raises(ValueError, match="two rules"):
        KeyMap([*key_map.rules, key_map.rules[0]])
    origins = key_map.origins({"x_embedder.weight": (4, 2)})
    with pytest.raises(CheckpointError, match=r"'img_in.weight' has shape \(4, 3\), expected \(4, 2\)"):
        origins["x_embedder.weight"].read(TensorDict({"img_in.weight": torch.zeros(4, 3)}), (4, 2))


@pytest.mark.parametrize(
    ("head", "axes"),
    [(128, [16, 56, 56]), (64, [8, 28, 28]), (32, [4, 14, 14]), (8, [4, 2, 2]), (96, [12, 42, 42])],
)
def test_rope_axes(head: int, axes: list[int]) -> None:
    assert rope_axes(head) == axes
    assert sum(axes) == head


def test_rope_axes_impossible() -> None:
    with pytest.raises(ModelError, match="three rotary axes"):
        rope_axes(7)

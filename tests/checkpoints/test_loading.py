from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from velatura.checkpoints.checkpoint import TensorDict
from velatura.checkpoints.keymap import KeyMap, Rule
from velatura.checkpoints.loading import load_into, skeleton
from velatura.checkpoints.writing import write_safetensors
from velatura.errors import CheckpointError, ModelError

from .conftest import tiny_flux, tiny_vae


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2, bias=False)
        self.second_again = self.second
        self.norm = nn.BatchNorm1d(4)
        self.table: torch.Tensor
        self.register_buffer("table", torch.arange(5.0) / 3, persistent=False)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn_like(t) if t.is_floating_point() else t + 3
        for name, t in module.state_dict().items()
    }


def test_fills_everything_in_place() -> None:
    values = state(Small())
    del values["second_again.weight"]
    module = skeleton(Small)
    assert all(parameter.is_meta for parameter in module.parameters())
    module.first.bias.requires_grad_(False)
    load_into(module, TensorDict(values), KeyMap.same(), dtype=torch.bfloat16, what="thing")
    assert torch.equal(module.first.weight, values["first.weight"].bfloat16())
    assert not module.first.bias.requires_grad
    assert module.first.weight.requires_grad
    assert module.second.weight is module.second_again.weight  # tied stays tied
    assert module.norm.num_batches_tracked.dtype == torch.int64
    assert module.norm.num_batches_tracked.item() == 3
    assert torch.equal(module.table, torch.arange(5.0) / 3)  # not stored, keeps its value and precision
    assert not any(t.is_meta for t in (*module.parameters(), *module.buffers()))


def test_dtype_none_keeps_what_is_stored() -> None:
    values = {name: t.half() if t.is_floating_point() else t for name, t in state(Small()).items()}
    module = skeleton(Small)
    load_into(module, TensorDict(values), KeyMap.same(), dtype=None, what="thing")
    assert module.first.weight.dtype == torch.float16


def test_missing_and_left_over_are_named() -> None:
    values = state(Small())
    for name in ("first.weight", "norm.bias"):
        del values[name]
    values |= {f"extra.{i}": torch.zeros(1) for i in range(7)}
    with pytest.raises(ModelError) as caught:
        load_into(skeleton(Small), TensorDict(values, name="file"), KeyMap.same(), dtype=None, what="thing")
    assert str(caught.value).startswith(
        "file does not fit the thing: 2 tensors are missing (first.weight, norm.bias); 7 have no place in it "
        "(extra.0, extra.1, extra.2, extra.3, extra.4, … 2 more)."
    )
    del values["extra.6"]
    with pytest.raises(ModelError, match=r"2 tensors are missing \(first.weight, norm.bias\)\. "):
        load_into(
            skeleton(Small), TensorDict(values), KeyMap.same(), dtype=None, what="thing", ignore=["extra.*"]
        )


def test_wrong_shape_names_both_sides() -> None:
    values = state(Small()) | {"weights.1": torch.zeros(4, 2)}
    del values["first.weight"]
    key_map = KeyMap([Rule("", ""), Rule("weights.1", "first.weight")])
    with pytest.raises(
        CheckpointError, match=r"thing: .*'weights.1' has shape \(4, 2\), expected \(4, 3\).*first.weight"
    ):
        load_into(skeleton(Small), TensorDict(values), key_map, dtype=None, what="thing")


def test_buffers_lost_on_meta_are_refused() -> None:
    with torch.device("meta"):
        module = Small()
    with pytest.raises(ModelError, match="the buffer 'table' has no values; build the module with skeleton"):
        load_into(module, TensorDict(state(Small())), KeyMap.same(), dtype=None, what="thing")


def test_skeleton_restores_torch_after_an_error() -> None:
    before = nn.Module.register_parameter
    with pytest.raises(ZeroDivisionError):
        skeleton(lambda: nn.Linear(2, 1 // 0))
    assert nn.Module.register_parameter is before
    assert not nn.Linear(2, 2).weight.is_meta


def test_skeleton_of_the_real_classes_has_true_buffers() -> None:
    config = CLIPTextConfig(hidden_size=64, num_attention_heads=1, num_hidden_layers=1, vocab_size=50_000)
    clip = skeleton(lambda: CLIPTextModel(config))
    ids = dict(clip.named_buffers())
    assert [name.rpartition(".")[2] for name in ids] == ["position_ids"]
    assert torch.equal(next(iter(ids.values())), torch.arange(77)[None])
    for build in (tiny_flux, tiny_vae):
        module = skeleton(build)
        assert all(parameter.is_meta for parameter in module.parameters())
        assert not any(buffer.is_meta for buffer in module.buffers())


LAYERS, WIDTH = 32, 5792  # 32 x 5792² values: 1.07e9, 2.0 GiB in bf16
SCRIPT = """
import sys, torch
from torch import nn
from velatura.checkpoints.keymap import KeyMap
from velatura.checkpoints.loading import load_into, skeleton
from velatura.checkpoints.opening import open_checkpoint

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))

torch.set_num_threads(1)
layers, width = int(sys.argv[2]), int(sys.argv[3])
module = skeleton(lambda: nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers)))
load_into(nn.Linear(4, 4), open_checkpoint(sys.argv[4]), KeyMap.same(), dtype=torch.bfloat16, what="warm-up")
before = status("VmRSS")
load_into(module, open_checkpoint(sys.argv[1]), KeyMap.same(), dtype=torch.bfloat16, what="thing")
target = sum(p.numel() * p.itemsize for p in module.parameters())
assert all(float(layer.weight[0, 0]) == i for i, layer in enumerate(module))
print((status("VmHWM") - before) / target)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_peak_memory_is_that_of_the_target(tmp_path: Path, stored: torch.dtype) -> None:
    path, warm_up = tmp_path / "big.safetensors", tmp_path / "small.safetensors"
    tensors = {
        f"{i}.weight": torch.full((1, 1), float(i)).expand(WIDTH, WIDTH).to(stored) for i in range(LAYERS)
    }
    write_safetensors(path, tensors)
    write_safetensors(warm_up, {"weight": torch.zeros(4, 4), "bias": torch.zeros(4)})
    assert path.stat().st_size > 2e9
    command = [sys.executable, "-c", SCRIPT, str(path), str(LAYERS), str(WIDTH), str(warm_up)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    path.unlink()
    ratio = float(result.stdout)
    print(f"\npeak over target, {stored}: {ratio:.3f}")
    assert 0.98 < ratio < 1.15

"""Plans for GPUs follow the operations of CUDA, though tensors say that they are on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from velatura.planning.devices import KNOWN, Device
from velatura.planning.estimate import Estimator
from velatura.planning.on_cuda import on_cuda, recomputed_on_cuda
from velatura.planning.replay import VALUELESS
from velatura.planning.tracking import Tracker
from velatura.recipe.recipe import Recipe

from ..tiny import recipe
from .conftest import sections
from .test_estimate import CPU

H200 = KNOWN["h200"]
ROWS, WIDTH = 4096, 128


def kept(run: Callable[[Tensor], Tensor], x: Tensor, device: Device) -> int:
    """Bytes that the forward pass leaves for the backward pass, beside x and the result."""
    with VALUELESS:
        there = torch.empty_like(x).requires_grad_()
        tracker = Tracker(device)
        with tracker:
            out = run(there)
        held = tracker.segments[-1].end.total
        return held - there.nbytes - out.nbytes


def test_a_norm_of_roots_keeps_its_input_and_a_number_a_row() -> None:
    """The CPU computes it in float32, one operation after the other, and keeps what these made."""
    x, weight = torch.zeros(ROWS, WIDTH, dtype=torch.bfloat16), torch.ones(WIDTH, dtype=torch.bfloat16)

    def norm(x: Tensor) -> Tensor:
        return F.rms_norm(x, (WIDTH,), weight, 1e-6)

    assert kept(norm, x, H200) == 4 * ROWS
    assert kept(norm, x, CPU) > 2 * x.nbytes


def test_a_weight_of_another_dtype_has_no_kernel() -> None:
    x, weight = torch.zeros(ROWS, WIDTH, dtype=torch.bfloat16), torch.ones(WIDTH)
    assert kept(lambda x: F.rms_norm(x, (WIDTH,), weight), x, H200) > 2 * x.nbytes


def test_gradients_reach_input_and_weight() -> None:
    x, weight = torch.zeros(3, 8, requires_grad=True), nn.Parameter(torch.ones(8))
    with on_cuda():
        F.rms_norm(x, (8,), weight).sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert (x.grad.shape, weight.grad.shape) == (x.shape, weight.shape)


@pytest.mark.parametrize(
    "norm",
    [
        lambda x: F.layer_norm(x, (WIDTH,)),
        nn.LayerNorm(WIDTH, elementwise_affine=False),
        lambda x: F.group_norm(x, 4),
        lambda x: F.rms_norm(x, (WIDTH,), torch.ones(WIDTH)),
        lambda x: F.interpolate(x[None, None], scale_factor=2.0),
    ],
)
def test_autocast_widens_what_it_widens_on_cuda(norm: Any) -> None:
    """On the CPU these stay in bf16."""
    x = torch.zeros(16, WIDTH, dtype=torch.bfloat16)
    with on_cuda(), torch.autocast("cpu", torch.bfloat16):
        assert norm(x).dtype == torch.float32
        with torch.autocast("cpu", enabled=False):
            assert F.layer_norm(x, (WIDTH,)).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert F.layer_norm(x, (WIDTH,)).dtype == torch.bfloat16


def test_what_is_run_again_is_run_again_in_the_same_way() -> None:
    """Torch knows no mode in a backward pass that was on where it began, and would find other tensors than were kept."""
    x = torch.zeros(4, 8, requires_grad=True)
    weight = nn.Parameter(torch.ones(8))
    with on_cuda():
        run = recomputed_on_cuda(lambda x: F.rms_norm(x, (8,), weight).sin())
        checkpoint(run, x, use_reentrant=False).sum().backward()
    assert weight.grad is not None


def test_a_block_of_flux_keeps_as_much_as_counted_by_hand(
    tmp_path: Path, flux_dev: Callable[..., Recipe]
) -> None:
    """Tensors of all tokens in bf16: 17 in a single block, 18 in a double one; and rotary tables and sums of logs.

    A single block: its input; that normed, and that modulated; q, k, v, and q and k normed, and q and k turned, and what
    is attended; the MLP's four before and four after gelu, less those that another one holds already.
    """
    wanted = flux_dev("previews.prompts=[]")
    step = Estimator.of_recipe(wanted, tmp_path, H200).of(wanted).step
    unit = 4608 * 3072 * 2
    double, single = step.per_block
    assert 18 < double / unit < 18.4
    assert 17 < single / unit < 17.4


def test_norms_of_flux_stay_narrow_under_autocast(
    tmp_path: Path, photos: Path, flux: Path, sd1: Path
) -> None:
    """Those of SD 1's UNet do not, and what follows them neither, as with every trainer under autocast."""
    cpu = Device(**{**vars(H200), "kind": "cpu"})
    kept = {}
    for model in (flux, sd1):
        wanted = recipe(
            tmp_path,
            model,
            **sections(adapter=None, full={}, training={"precision": "bf16", "batch_size": 4}),
        )
        kept[model] = [Estimator.of_recipe(wanted, tmp_path, one).of(wanted).step.kept for one in (H200, cpu)]
    assert kept[flux][0] < kept[flux][1]  # the norms of q and k are kernels there
    assert kept[sd1][0] > 1.05 * kept[sd1][1]

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from velatura.doctor import devices as module
from velatura.doctor.check import Check
from velatura.doctor.devices import devices, runs_on

GIB = 2**30
HOPPER = ["sm_75", "sm_80", "sm_90", "compute_90"]
MESSAGE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Linux machine without a GPU's driver."""
    monkeypatch.setattr(module, "NVIDIA_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(module.platform, "system", lambda: "Linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def torch_with(
    *, gpus: int = 0, capability: tuple[int, int] = (9, 0), free: int = 80, cuda: str | None = "13.0", why: str = "", mps: bool = False,
    architectures: list[str] = HOPPER,
) -> Any:  # fmt: skip
    """What the checks ask torch for."""

    def init() -> None:
        if why:
            raise RuntimeError(why)

    return SimpleNamespace(
        version=SimpleNamespace(cuda=cuda, hip=None),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
        cuda=SimpleNamespace(
            is_available=lambda: gpus > 0,
            device_count=lambda: gpus,
            get_device_capability=lambda number: capability,
            get_device_name=lambda number: "A GPU",
            mem_get_info=lambda number: (free * GIB, 80 * GIB),
            get_arch_list=lambda: architectures,
            init=init,
        ),
    )


def checks(**machine: Any) -> list[Check]:
    return list(devices(torch_with(**machine)))


def test_gpus(machine: Path) -> None:
    (machine / "driver").write_text(MESSAGE)
    one, two = checks(gpus=2)
    assert (one.name, one.level, two.name) == ("cuda:0", "ok", "cuda:1")
    assert (
        one.found
        == "A GPU, capability 9.0, driver 550.54.15, 80.0 GiB of 80.0 GiB free, units for fp16, bf16, fp8"
    )


@pytest.mark.parametrize(
    ("facts", "level", "told"),
    [
        ({"capability": (8, 6)}, "ok", "units for fp16, bf16"),
        ({"capability": (7, 5)}, "remark", 'precision = "fp16" is faster'),
        ({"free": 40}, "remark", "who holds the rest"),
        ({"capability": (6, 1)}, "problem", "was not built for it, but for sm_75, sm_80, sm_90, compute_90"),
        ({"capability": (12, 0)}, "ok", "capability 12.0"),
        ({"capability": (12, 0), "architectures": ["sm_80", "sm_90"]}, "problem", "install a build of torch"),
    ],
)
def test_a_gpu(facts: dict[str, Any], level: str, told: str) -> None:
    (check,) = checks(gpus=1, **facts)
    assert check.level == level
    assert told in f"{check.found} {check.remedy}"


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (["sm_80"], (8, 9), True),
        (["sm_89"], (8, 6), False),
        (["sm_80"], (9, 0), False),
        (["compute_80"], (9, 0), True),
        (["compute_90"], (8, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_120"], (12, 0), True),
        (["gfx942"], (9, 4), True),
        ([], (9, 0), False),
    ],
)
def test_which_builds_run_on_which_gpus(
    architectures: list[str], capability: tuple[int, int], runs: bool
) -> None:
    assert runs_on(architectures, capability) is runs


def test_windows_moves_memory_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.platform, "system", lambda: "Windows")
    assert "Sysmem Fallback" in checks(gpus=1)[1].remedy


def test_no_gpu_is_a_remark() -> None:
    assert [check.level for check in checks()] == ["remark"]
    assert [check.level for check in checks(mps=True)] == ["ok"]


@pytest.mark.parametrize(
    ("facts", "hidden", "level", "told"),
    [
        ({"cuda": None}, None, "problem", "this torch is a build without CUDA"),
        ({"why": "The NVIDIA driver on your system is too old\nmore"}, None, "problem", "is too old"),
        ({}, None, "problem", "torch finds no GPU"),
        ({}, "", "remark", "hidden by CUDA_VISIBLE_DEVICES=''"),
        ({}, "-1", "remark", "unset CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_cannot_be_used(
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    facts: dict[str, Any],
    hidden: str | None,
    level: str,
    told: str,
) -> None:
    (machine / "driver").write_text(MESSAGE)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    (check,) = checks(**facts)
    assert check.level == level
    assert told in f"{check.found} {check.remedy}"
    assert "more" not in check.found

"""Compiled blocks: where they are kept, when they are not used, and what happens when the compiler fails."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
from torch._dynamo.testing import CompileCounter
from torch._inductor.runtime.cache_dir_utils import cache_dir

from velatura.placement.compiling import CompilerFailed, compile_blocks, decide

X = torch.arange(6.0).view(2, 3)


class Block(nn.Module):
    """Doubles what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Instead of compiling: what was asked for, and a call more for each run of it; it adds 100."""
    seen: list[dict[str, Any]] = []

    def compiled(run: Any, **options: Any) -> Any:
        seen.append(options | {"calls": 0})
        mine = seen[-1]

        def fast(x: Tensor) -> Tensor:
            mine["calls"] += 1
            if mine.get("fails"):
                raise mine["fails"]
            result: Tensor = run(x) + 100
            return result

        return fast

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return seen


def shaped(*shape: int) -> Tensor:
    return torch.ones(shape, requires_grad=True)


@pytest.mark.parametrize(("sizes", "graphs"), [(1, 3), (2, 1)])
def test_several_sizes_share_a_graph(monkeypatch: pytest.MonkeyPatch, sizes: int, graphs: int) -> None:
    """Also several sizes of a batch; widths are constants."""

    class Joined(nn.Module):
        def forward(self, tokens: Tensor, vector: Tensor, tables: tuple[Tensor], more: Tensor) -> Tensor:
            return (tokens * vector[:, None] * tables[0]).sum() + more.sum()

    counter = CompileCounter()
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **options: compiler(run, backend=counter, **options))
    block = Joined()
    compile_blocks([block], sizes)
    for batch, length, edge in ((2, 6, 8), (3, 10, 12), (4, 12, 8)):
        block(shaped(batch, length, 4), shaped(batch, 4), (shaped(length, 4),), shaped(batch, 3, edge, edge))
    assert counter.frame_count == graphs


def test_without_gradients_nothing_is_compiled(compilations: list[dict[str, Any]]) -> None:
    """Previews have sizes of their own, each of which would cost a graph."""
    block = Block()
    compile_blocks([block], 1)
    with torch.no_grad():
        assert torch.equal(block(X), 2 * X)
    assert compilations[0]["calls"] == 0
    assert torch.equal(block(X), 2 * X + 100)


def failure() -> TorchDynamoException:
    return BackendCompilerFailed(
        nn.Identity(), RuntimeError("C++ compile error\n\nCommand:\ng++ main.cpp"), None
    )  # type: ignore[arg-type]


def test_a_run_outlives_a_compiler_that_fails(compilations: list[dict[str, Any]]) -> None:
    blocks, told = [Block(), Block()], []
    compile_blocks(blocks, 1, told.append)
    compilations[0]["fails"] = failure()
    assert torch.equal(blocks[0](X), 2 * X)
    assert torch.equal(blocks[1](X), 2 * X)
    assert torch.equal(blocks[0](X), 2 * X)
    assert [one["calls"] for one in compilations] == [1, 0]
    assert len(told) == 1
    assert "goes on without it" in told[0]
    assert "C++ compile error" in told[0]
    assert "\n" not in told[0]


def test_errors_of_the_block_itself_are_not_hidden(compilations: list[dict[str, Any]]) -> None:
    block, told = Block(), []
    compile_blocks([block], 1, told.append)
    compilations[0]["fails"] = MemoryError("no room")
    with pytest.raises(MemoryError, match="no room"):
        block(X)
    assert not told


@pytest.mark.parametrize("before", [None, "torch's own"])
def test_what_was_compiled_is_kept_for_later_runs(
    compilations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str | None
) -> None:
    """Importing diffusers makes torch enter its temporary folder into the environment."""
    monkeypatch.setenv("VELATURA_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    if before:
        cache_dir()
    compile_blocks([Block()], 1)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled")


def test_a_folder_that_the_user_chose_stays(
    compilations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    compile_blocks([Block()], 1)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"


def test_a_folder_that_cannot_be_made_costs_no_run(
    compilations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VELATURA_CACHE", str(tmp_path / "file"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    block, told = Block(), []
    compile_blocks([block], 1, told.append)
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ or "file" not in os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert "cannot be kept" in told[0]
    assert str(tmp_path / "file") in told[0]
    assert torch.equal(block(X), 2 * X + 100)


def test_where_some_ran_compiled_what_was_begun_is_begun_again(compilations: list[dict[str, Any]]) -> None:
    """A recomputed block would be run in another way than it was run before."""
    blocks, told = [Block(), Block()], []
    compile_blocks(blocks, 1, told.append)
    compilations[1]["fails"] = failure()
    blocks[0](X)
    with pytest.raises(CompilerFailed):
        blocks[1](X)
    assert [torch.equal(block(X), 2 * X) for block in blocks] == [True, True]
    assert len(told) == 1


def test_the_message_has_what_the_compiler_for_cpp_said(compilations: list[dict[str, Any]]) -> None:
    block, told = Block(), []
    compile_blocks([block], 1, told.append)
    text = "C++ compile error\n\nCommand:\ng++ main.cpp -o main.so\n\nOutput:\ng++: fatal error: Killed\nterminated"
    compilations[0]["fails"] = BackendCompilerFailed(nn.Identity(), RuntimeError(text), None)  # type: ignore[arg-type]
    block(X)
    assert "g++: fatal error: Killed" in told[0]
    assert "main.so" not in told[0]
    assert told[0].endswith("training.compile = false, no --compile.")


@pytest.mark.parametrize(("named", "there"), [("nowhere/g++", False), (sys.executable, True)])
def test_the_compiler_is_the_one_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, named: str, there: bool
) -> None:
    monkeypatch.setenv("CXX", named)
    assert decide("auto", flops=1e30, device=torch.device("cpu")) == there

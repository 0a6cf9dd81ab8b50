"""Whether compiling the repeated blocks pays, and doing it with a bounded number of graphs."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from velatura.checkpoints.cache_folder import default_cache_folder

GRAPHS = 16  # of a kind of block: for one item and for several, with and without gradients of its inputs, and to spare

CACHE = "TORCHINDUCTOR_CACHE_DIR"

# Rough effective speed (FLOP/s) and the share of it that compiling saves: enough to tell minutes from hours, and the
# same on every start, so that a resumed run decides as it did before.
_SPEED = {"cpu": 4e11, "cuda": 2e14}
_SAVES = {"cpu": 0.1, "cuda": 0.2}
_COST_SECONDS = {"cpu": 90.0, "cuda": 60.0}
_UPDATE_SAVES = {"cpu": 1e-8, "cuda": 1e-10}  # seconds a value, at least
_UPDATE_COST_SECONDS = {"cpu": 20.0, "cuda": 20.0}


class CompilerFailed(RuntimeError):
    """The compiler failed after blocks had been run compiled: what was begun is to be begun again, without it.

    A recomputed block has to be run in the backward pass as it was run forwards.
    """


def decide(wanted: Literal["auto"] | bool, *, flops: float, device: torch.device) -> bool:
    """'auto' compiles when the run's `flops` (forward and backward, all steps) are worth the compiler's minute."""
    if wanted != "auto":
        return wanted
    kind = device.type
    return _has_compiler(kind) and flops / _SPEED[kind] * _SAVES[kind] > _COST_SECONDS[kind]


def decide_updates(wanted: Literal["auto"] | bool, *, values: int, steps: int, device: torch.device) -> bool:
    """The same for updates of an optimizer that has no kernel: of so many `values` in each of the run's steps."""
    if wanted != "auto":
        return wanted
    kind = device.type
    return _has_compiler(kind) and values * steps * _UPDATE_SAVES[kind] > _UPDATE_COST_SECONDS[kind]


def _has_compiler(kind: str) -> bool:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return kind in _SPEED and (kind != "cpu" or any(map(shutil.which, names)))


def compile_blocks(
    blocks: Sequence[nn.Module], sizes: int, tell: Callable[[str], None] = warnings.warn
) -> None:
    """Compile the forward of each block for training; `sizes`: how many token counts the run will see.

    Blocks of a kind share their graphs: one where there is one size, and with more one for all of them, in which the
    number of items and the length of the sequence are open (a batch of one has its own). Without gradients, as for
    previews of any size, blocks are run as they are. `tell` is told why, should the compiler fail: all are run as they
    are from then on, and the call raises CompilerFailed where some had been run compiled. Before the blocks are
    recomputed or streamed: both go round the compiled forward. What was compiled is kept for later runs, in
    TORCHINDUCTOR_CACHE_DIR where that is set.
    """
    _keep_what_is_compiled(tell)
    torch._dynamo.config.recompile_limit = GRAPHS
    # both passes at once: what fails in the backward pass cannot be made good there
    torch._functorch.config.force_non_lazy_backward_lowering = True
    compiler = _Compiler(tell)
    for block in blocks:
        block.forward = compiler.compiled(block.forward, dynamic=sizes > 1)


def compile_for_painting(blocks: Sequence[nn.Module], tell: Callable[[str], None] = warnings.warn) -> None:
    """Compile the forward of each block for passes without gradients. Before the blocks are streamed.

    Each kind of block has a graph for each size of picture and of batch, so that a picture's bits do not depend on
    those painted before it. `tell` is told why, should the compiler fail: blocks are run as they are then.
    """
    _keep_what_is_compiled(tell)
    torch._dynamo.config.recompile_limit = GRAPHS
    compiler = _Compiler(tell)
    for block in blocks:
        block.forward = compiler.or_plain(block.forward, dynamic=False)


def compiled_update(
    update: Callable[..., None], tell: Callable[[str], None] = warnings.warn
) -> Callable[..., None]:
    """An update of a tensor, in a graph that serves all sizes; numbers come in tuples.

    They become tensors, which stay where they are: of a number a graph is a constant.
    """
    _keep_what_is_compiled(tell)
    run = _Compiler(tell).or_plain(update, dynamic=True)
    return lambda *args: run(
        *(tuple(map(_as_tensor, one)) if isinstance(one, tuple) else one for one in args)
    )


def _as_tensor(one: Any) -> Any:
    return torch.tensor(one) if isinstance(one, float) else one


def _keep_what_is_compiled(tell: Callable[[str], None]) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # torch enters its own folder, a temporary one, as soon as some part of it is imported
    temporary = Path(default_cache_dir()).absolute()
    if Path(os.environ.get(CACHE, temporary)).absolute() != temporary:
        return
    folder = default_cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        tell(
            f"what is compiled cannot be kept for later runs: {folder}: {error.strerror or error}. Set {CACHE} to a "
            "folder that can be written to."
        )
        return
    os.environ[CACHE] = str(folder)


class _Compiler:
    """Compiles functions, until it fails for the first time."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.works = True
        self.ran = False  # whether a block has been run compiled

    def compiled(self, run: Callable[..., Any], *, dynamic: bool) -> Callable[..., Any]:
        """A block's forward in training, and as it is without gradients."""
        either = self.or_plain(run, dynamic=None if dynamic else False)

        def in_training(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return run(*args, **kwargs)
            if dynamic:
                _mark_sizes(chain(args, kwargs.values()))
            before = self.works
            out = either(*args, **kwargs)
            if before and not self.works and self.ran:
                raise CompilerFailed("the compiler failed within a step; make the step again, without it")
            self.ran = self.works
            return out

        return in_training

    def or_plain(self, run: Callable[..., Any], *, dynamic: bool | None) -> Callable[..., Any]:
        """What is compiled, as long as the compiler works."""
        # seconds of imports, for those who compile
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        try:
            fast = torch.compile(run, dynamic=dynamic)
        except OSError as error:  # torch makes its folder for what is compiled
            self._give_up(error)
            return run

        def either(*args: Any, **kwargs: Any) -> Any:
            if self.works:
                try:
                    return fast(*args, **kwargs)
                except (TorchDynamoException, InductorError) as error:
                    self._give_up(error)
            return run(*args, **kwargs)

        return either

    def _give_up(self, error: Exception) -> None:
        if self.works:
            self.tell(f"the compiler failed, and the run goes on without it, slower: {_reason(error)}")
        self.works = False


def _mark_sizes(given: Iterable[Any]) -> None:
    """Say which sizes differ from batch to batch, so that the first graph serves all; widths are constants in it.

    These are the items of a batch, of `[B, T, D]` also the length, of `[B, C, H, W]` height and width, and of tables
    `[T, E]` the length. A batch of one has graphs of its own in any case.
    """
    for value in given:
        if isinstance(value, tuple):
            _mark_sizes(value)
        elif isinstance(value, Tensor):
            differ = {3: (0, 1), 4: (0, 2, 3)}.get(value.ndim, (0,))
            for size in (size for size in differ if value.shape[size] > 1):
                torch._dynamo.maybe_mark_dynamic(value, size)


def _reason(error: Exception) -> str:
    """The lines of a compiler's long message that say who failed, and of what; and what to do."""
    text = str(error) or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    output = lines.index("Output:") + 1 if "Output:" in lines else len(lines)  # of the compiler for C++
    said = " ".join([*lines[:2], *lines[output : output + 2]])
    remedy = "To do without it, set training.compile = false, or leave --compile out"
    if "ImportError" in said:  # of what was compiled
        remedy = f"If {os.environ.get(CACHE)} is damaged, remove it"
    elif "C++ compile error" in text or "Cxx" in text:
        remedy = (
            "Let CXX be a compiler for C++ that works, or do without: training.compile = false, no --compile"
        )
    return f"{said.rstrip('.')}. {remedy}."


def training_flops(blocks: Sequence[nn.Module], tokens: int, images: int) -> float:
    """6 FLOP per weight and token: forward and backward of the blocks' linear layers over `images` in all."""
    held = (
        tensor for block in blocks for tensor in chain(block.parameters(), block.buffers())
    )  # fp8: buffers
    weights = sum(tensor.numel() for tensor in held if tensor.ndim == 2 and tensor.shape[1] > 1)
    return 6.0 * weights * tokens * images

"""The parts of a model while it paints: each is loaded when it is first needed, with the LoRAs that belong on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from velatura.adapters.attach import Adapter
from velatura.adapters.files import read_adapter
from velatura.adapters.merging import Lora, put_on_part
from velatura.errors import CheckpointError
from velatura.events import Events
from velatura.families.attending import attend_by
from velatura.families.denoiser import load_denoiser
from velatura.families.text_encoders import load_text_encoders
from velatura.interfaces import PARTS, Family, ModelFiles, PartName, Parts
from velatura.placement.attention import Attention
from velatura.placement.compiling import compile_for_painting
from velatura.placement.place import NO_USE, place
from velatura.placement.precision.quantised import Weights
from velatura.plural import counted
from velatura.sampling.memory import Encoders, enough_to, fits_whole, weight_bytes


@dataclass(kw_only=True, eq=False)
class HeldParts:
    """Loads parts and LoRAs; on a GPU that cannot hold all parts, the text encoders can be released again."""

    family: Family
    files: ModelFiles
    parts: Parts  # as far as they are loaded
    device: torch.device
    dtype: torch.dtype
    weights: Weights
    streamed: float
    events: Events
    attention: Attention = field(default_factory=Attention)
    compiled: bool = False  # the denoiser's blocks
    text_encoders: Encoders = "auto"
    turns: bool | None = None  # whether the text encoders make room for the denoiser; None: where they must
    _loras: list[tuple[Lora, float]] = field(default_factory=list, init=False)
    _adapters: list[Adapter] = field(default_factory=list, init=False)

    @property
    def keeps_all(self) -> bool:
        """Whether all parts stay loaded."""
        return self._fit_together if self.turns is None else not self.turns

    @cached_property
    def _fit_together(self) -> bool:
        sizes = weight_bytes(self.family, self.files, self.dtype, self.weights, self.streamed)
        if self.text_encoders == "cpu":
            sizes["text_encoders"] = 0
        return fits_whole(sizes, self.device)

    def need(self, name: PartName) -> None:
        """Load a part with its LoRAs, unless it is there. Raises CheckpointError, MemoryShortage, without the part."""
        if self.parts.modules(name):
            return
        less = "another device, weights in int8 or fp8, or streamed ones"
        with enough_to(f"load the {name.replace('_', ' ')}", self.device, instead=less):
            self._load(name)
        try:
            for values, weight in self._loras:
                self._put_on(name, values, weight)
        except CheckpointError:
            self._release(name)
            raise

    def release_text_encoders(self) -> None:
        """Let go of them, to make room."""
        self._release("text_encoders")
        torch.cuda.empty_cache()

    def add_lora(self, file: Path, weight: float) -> None:
        """Put a LoRA on the loaded parts, and later on the others. Raises CheckpointError, having changed nothing."""
        values = read_adapter(file, dtype=self.dtype)
        if "denoiser" in values and self.keeps_all:
            self.need("denoiser")  # what does not fit is told at once
        before = len(self._adapters)
        try:
            for part in PARTS:
                self._put_on(part, values, weight)
        except CheckpointError:
            self._take_off(before)
            raise
        self._loras.append((values, weight))

    def remove_loras(self) -> None:
        """Take all LoRAs off again."""
        self._loras.clear()
        self._take_off(0)

    def _load_denoiser(self) -> None:
        device = torch.device("cpu") if self.streamed else self.device
        denoiser = load_denoiser(
            self.family, self.files, self.events, weights=self.weights, device=device, dtype=self.dtype
        )
        attend_by(self.family, denoiser, self.attention)
        blocks = self.family.blocks(denoiser)
        if self.compiled:
            compile_for_painting(blocks, self.events.warn)
            self.events.notice(f"compiling {counted(len(blocks), 'block')}; the first step takes longer")
        if self.streamed:
            ahead = self.family.ahead(denoiser)
            placed = place(denoiser, blocks, ahead, share=self.streamed, device=self.device)
            self.events.notice(placed.report())
            if self.device.type == "cpu":
                self.events.warn(NO_USE)
        self.parts.denoiser = denoiser

    def _load(self, name: PartName) -> None:
        if name == "denoiser":
            self._load_denoiser()
            return
        if name == "text_encoders":
            crowded = self.parts.denoiser is not None and not self.keeps_all
            device = torch.device("cpu") if crowded or self.text_encoders == "cpu" else self.device
            loaded = load_text_encoders(self.family, self.files, device=device, dtype=self.dtype)
        else:
            loaded = self.family.load(self.files, [name], device=self.device, dtype=self.dtype)
        for one in _fields(name):
            setattr(self.parts, one, getattr(loaded, one))

    def _release(self, name: PartName) -> None:
        """Let go of a part, and of the adapters on it, which hold it too."""
        hosts = self.parts.modules(name)
        self._adapters = [adapter for adapter in self._adapters if adapter.host not in hosts]
        for one in _fields(name):
            setattr(self.parts, one, None)

    def _put_on(self, part: PartName, lora: Lora, weight: float) -> None:
        """On the modules of a part, as far as it is loaded."""
        for adapter in put_on_part(self.parts, part, lora):
            adapter.set_strength(weight)
            if part == "denoiser":  # a streamed layer, beside which it was made, lies elsewhere
                adapter.move(self.device)
            self._adapters.append(adapter)

    def _take_off(self, keep: int) -> None:
        """All adapters but the first `keep`, the last one first."""
        while len(self._adapters) > keep:
            self._adapters.pop().take_off()


def _fields(name: PartName) -> tuple[str, ...]:
    """Of `Parts`: a part, and what comes and goes with it."""
    return (name, "tokenizers") if name == "text_encoders" else (name,)

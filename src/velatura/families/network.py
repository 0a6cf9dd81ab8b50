"""Networks as libraries build them and files hold them: what differs is declared, the steps are written once."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from velatura.checkpoints.checkpoint import Checkpoint
from velatura.checkpoints.detect import contents, expect
from velatura.checkpoints.keymap import KeyMap, Origin
from velatura.checkpoints.loading import load_into, skeleton
from velatura.checkpoints.opening import open_checkpoint
from velatura.checkpoints.published import load_config
from velatura.draws import generator_for
from velatura.errors import ModelError
from velatura.families.configs import read_json
from velatura.families.folder import SavedModule
from velatura.families.tokenizers import TokenizerKind
from velatura.placement.precision.quantised import Fp8Linear

Within = Callable[[nn.Module], Sequence[nn.Module]]


def _as_it_is(module: Any) -> None:
    """No change."""


@dataclass(frozen=True, kw_only=True)
class Network(ABC):
    """One kind of network, wherever it comes from."""

    what: str  # in messages; and the name by which its random start is drawn
    kind: str  # of `detect.OURS`
    model: Any  # its library's class
    find: Callable[[Checkpoint], tuple[Checkpoint, KeyMap]]  # it within a file, and the map that reads it
    shapes: Callable[[Checkpoint], Mapping[str, Any]]  # the config, as far as a file's shapes tell it
    published: str | None = None  # the shipped config that tells the rest
    usual: str | None = None  # the shipped config of the best-known model, where `published` names none
    ignore: tuple[str, ...] = ()  # patterns of names that may be left over in a file
    start: Callable[[Any], None] = _as_it_is  # done to a module of random weights

    library: ClassVar[str]

    def config(self, path: Path) -> dict[str, Any]:
        """From a folder's config.json, or read off the shapes in a single file. Raises ModelError."""
        if path.is_dir():
            return self.folder_config(path)
        published = {} if self.published is None else load_config(self.published)
        return {**published, **self.shapes(self.weights(path))}

    def sketch(self, path: Path) -> nn.Module:
        """The module with its parameters on the meta device."""
        config = self.config(path)
        return skeleton(lambda: self.build(config))

    def load(
        self, path: Path, *, device: torch.device, dtype: torch.dtype | None, keep_fp8: Within | None = None
    ) -> nn.Module:
        """The module with the weights at `path`, frozen and in eval mode. Raises ModelError.

        `keep_fp8`: within which of its modules linear layers that the file has in fp8 are held so, if the device can.
        """
        module = self.sketch(path)
        inner, key_map = self.find(self.weights(path))
        can = keep_fp8 is not None and device.type != "mps"
        stored = stored_in_fp8(module, keep_fp8(module), inner, key_map) if keep_fp8 and can else {}
        load_into(
            module, inner, key_map, dtype=dtype, device=device, what=self.what, ignore=self.ignore,
            later=[f"{name}.weight" for name in stored],
        )  # fmt: skip
        for name, origin in stored.items():
            layer: Any = module.get_submodule(name)
            values, scale = origin.read_fp8(inner, tuple(layer.weight.shape), device=device)
            module.set_submodule(name, Fp8Linear(values, scale, layer.bias))
        return module.requires_grad_(False).eval()

    def from_scratch(self, path: Path, *, device: torch.device, seed: int) -> nn.Module:
        """Shaped by the config at `path`, with the class's own initialisation, drawn by `seed` and `what` alone."""
        config = self.config(path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(seed, f"scratch/{self.what}").initial_seed())
            module = self.build(config)
        self.start(module)
        return module.float().to(device).requires_grad_(False).eval()

    def count(self, path: Path) -> int:
        """How many numbers the weights at `path` are, from headers. Raises ModelError."""
        inner, _ = self.find(self.weights(path))
        return sum(math.prod(info.shape) for info in inner.tensors.values())

    def weights(self, path: Path) -> Checkpoint:
        """The weights at `path`, which must hold this network, alone or among others.

        Raises ModelError that says what the file looks like and what was wanted.
        """
        checkpoint = open_checkpoint(path)
        expect(checkpoint, self.kind)
        return checkpoint

    @abstractmethod
    def folder_config(self, folder: Path) -> dict[str, Any]:
        """`config.json`. Raises ModelError when it is missing, unreadable, or that of another class."""

    @abstractmethod
    def build(self, config: dict[str, Any]) -> nn.Module:
        """An instance of the class, with its own initialisation."""

    @abstractmethod
    def saved(self, module: Any) -> SavedModule:
        """The module under its library's file name, its config with the class's name."""


@dataclass(frozen=True, kw_only=True)
class DiffusersNetwork(Network):
    """A denoiser or an autoencoder."""

    prepare: Callable[[Any], None] = _as_it_is  # done to every module that is built

    library: ClassVar[str] = "diffusers"

    def folder_config(self, folder: Path) -> dict[str, Any]:
        """With the defaults of the class where the file is silent."""
        config = read_json(folder / "config.json")
        wanted = self.model.__name__
        found = config.get("_class_name", wanted)
        if found != wanted:
            raise ModelError(f"{folder} holds a {found}; wanted: the {self.what}, a {wanted}.")
        silent = {name: p.default for name, p in self._arguments().items() if p.default is not p.empty}
        return {**silent, **config}

    def build(self, config: dict[str, Any]) -> nn.Module:
        """The class's name and version notes in the config are left out."""
        known = self._arguments()
        module: nn.Module = self.model(**{name: value for name, value in config.items() if name in known})
        self.prepare(module)
        return module

    def saved(self, module: Any) -> SavedModule:
        config = {name: value for name, value in dict(module.config).items() if not name.startswith("_")}
        config["_class_name"] = type(module).__name__
        return SavedModule(module=module, config=config, file="diffusion_pytorch_model")

    def _arguments(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.model.__init__).parameters


@dataclass(frozen=True, kw_only=True)
class TransformersNetwork(Network):
    """A text encoder."""

    tokenizer: TokenizerKind  # that goes with it
    prefix: str = ""  # before the names in files, where they differ from the module's

    library: ClassVar[str] = "transformers"

    def folder_config(self, folder: Path) -> dict[str, Any]:
        config = read_json(folder / "config.json")
        wanted = self.model.config_class.model_type
        found = config.get("model_type", wanted)
        if found != wanted:
            raise ModelError(
                f"{folder} holds a model of type {found}; wanted: the {self.what}, type {wanted}."
            )
        return config

    def build(self, config: dict[str, Any]) -> nn.Module:
        module: nn.Module = self.model(self.model.config_class(**config))
        return module

    def saved(self, module: Any) -> SavedModule:
        config = {**module.config.to_dict(), "architectures": [type(module).__name__]}
        return SavedModule(module=module, config=config, file="model", prefix=self.prefix)

    def width(self, path: Path) -> int:
        """Width of what the encoder gives, from its config or header."""
        return int(self.model.config_class(**self.config(path)).hidden_size)

    def fits(self, path: Path) -> bool:
        """Whether a folder or file says that it holds this network."""
        if path.is_dir():
            said = read_json(path / "config.json").get("model_type")
            return bool(said == self.model.config_class.model_type)
        return any(found.kind == self.kind for found in contents(open_checkpoint(path)))


def stored_in_fp8(
    module: nn.Module, within: Sequence[nn.Module], checkpoint: Checkpoint, key_map: KeyMap
) -> dict[str, Origin]:
    """The linear layers inside `within` that the file has in fp8: their names in `module`, and where they are."""
    inside = {id(layer) for root in within for layer in root.modules() if type(layer) is nn.Linear}
    origins = key_map.origins({name: tuple(tensor.shape) for name, tensor in module.state_dict().items()})
    linear = [name for name, layer in module.named_modules() if id(layer) in inside]
    return {
        name: origins[f"{name}.weight"] for name in linear if origins[f"{name}.weight"].in_fp8(checkpoint)
    }


@dataclass(frozen=True, kw_only=True)
class Place:
    """A network among a family's parts."""

    network: Network
    subfolder: str  # of a diffusers folder

"""A model's shapes from what is at hand: from files that are there, else from the configs of the published model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from velatura.checkpoints.loading import skeleton
from velatura.checkpoints.published import config_names, load_config
from velatura.errors import ModelError
from velatura.families.configs import scheduler_config
from velatura.families.latent_family import LatentFamily
from velatura.families.listing import Headers
from velatura.families.network import Network
from velatura.families.text import TextPlace
from velatura.interfaces import PARTS, ModelFiles, ModelInfo, PartName
from velatura.recipe.paths import is_pocket, resolve


@dataclass(frozen=True, kw_only=True)
class Outline:
    """Configs of all parts. `assumed` are those that no file told."""

    info: ModelInfo  # its fingerprints are empty: no weights were looked at
    configs: Mapping[PartName, tuple[Mapping[str, Any], ...]]
    assumed: tuple[PartName, ...]
    files: ModelFiles  # as far as they are there


def outline(family: LatentFamily, files: ModelFiles, *, present: bool = False) -> Outline:
    """Look at what is there; nothing is downloaded. `present`: all of it is, that of hub ids in the hub's cache.

    Raises ModelError for files that do not fit.
    """
    found = family.listing.whole(files if present else _present(files))
    configs: dict[PartName, tuple[Mapping[str, Any], ...]] = {}
    assumed = []
    for part in PARTS:
        networks = [place.network for place in family.listing.places(part)]
        if found.model is not None or getattr(found, part):
            paths = family.listing.paths(found, part)
            configs[part] = tuple(net.config(path) for net, path in zip(networks, paths, strict=True))
        else:
            configs[part] = tuple(_published(network, files) for network in networks)
            assumed.append(part)
    headers = _headers(configs, found, family.listing.text_encoders)
    info = family.described(headers, found)
    return Outline(info=info, configs=configs, assumed=tuple(assumed), files=found)


def sketched(family: LatentFamily, found: Outline, part: PartName) -> tuple[nn.Module, ...]:
    """The modules of a part with their parameters on the meta device, frozen and in eval mode."""
    networks = [place.network for place in family.listing.places(part)]
    return tuple(_sketch(net, config) for net, config in zip(networks, found.configs[part], strict=True))


def _sketch(network: Network, config: Mapping[str, Any]) -> nn.Module:
    return skeleton(lambda: network.build(dict(config))).requires_grad_(False).eval()


def _present(files: ModelFiles) -> ModelFiles:
    """Without the sources that are not there; hub ids are not there."""

    def here(source: str | None) -> bool:
        return source is not None and (is_pocket(source) or resolve(source, files.base).exists())

    texts = files.text_encoders if all(map(here, files.text_encoders)) else ()
    return replace(
        files,
        model=files.model if here(files.model) else None,
        denoiser=files.denoiser if here(files.denoiser) else None,
        autoencoder=files.autoencoder if here(files.autoencoder) else None,
        text_encoders=texts,
        tokenizers=files.tokenizers if here(files.tokenizers) else None,
    )


def _published(network: Network, files: ModelFiles) -> dict[str, Any]:
    """The shipped config: of schnell, where the recipe names it."""
    name = network.published or network.usual
    if name is None:
        raise ModelError(f"the {network.what} is not there, and no shapes of it are known; give its file")
    sources = " ".join(filter(None, (files.model, files.denoiser))).lower()
    variant = name.replace("-dev-", "-schnell-")
    if "schnell" in sources and variant in config_names():
        name = variant
    return load_config(name)


def _headers(
    configs: Mapping[PartName, Sequence[Mapping[str, Any]]], files: ModelFiles, texts: Sequence[TextPlace]
) -> Headers:
    (denoiser,), (autoencoder,) = configs["denoiser"], configs["autoencoder"]
    widths = zip(texts, configs["text_encoders"], strict=True)
    return Headers(
        denoiser=denoiser,
        latent_channels=int(autoencoder["latent_channels"]),
        latent_scale=2 ** (len(autoencoder["block_out_channels"]) - 1),
        text_widths=tuple(
            int(place.network.model.config_class(**config).hidden_size) for place, config in widths
        ),
        scheduler=scheduler_config(files),
        fingerprints={},
        settings="",
    )

"""What a LoRA file says about itself: sd-scripts' `ss_` keys and the SAI model spec (1.0.1), all strings.

Panels and hubs read these: `ss_base_model_version` decides for which model a file is offered, `modelspec.title` and
`thumbnail` are shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from velatura.errors import CheckpointError

NOTHING: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class _Base:
    """How files call a base model."""

    version: str  # ss_base_model_version
    module: str  # ss_network_module
    implementation: str


_FLUX = _Base(
    version="flux1",
    module="networks.lora_flux",
    implementation="https://github.com/black-forest-labs/flux",
)
_SD = "https://github.com/Stability-AI/generative-models"
_BASES: Mapping[str, _Base] = {
    "flux-1-dev": _FLUX,
    "flux-1-schnell": _FLUX,
    "stable-diffusion-v1": _Base(version="sd_v1", module="networks.lora", implementation=_SD),
    "chroma": _Base(
        version="chroma",
        module="networks.lora_flux",
        implementation="https://huggingface.co/lodestones/Chroma",
    ),
    "lumina-2": _Base(
        version="lumina2",
        module="networks.lora_lumina",
        implementation="https://github.com/Alpha-VLLM/Lumina-Image-2.0",
    ),
    "hunyuan-image-2.1": _Base(
        version="hunyuan-image-2.1",
        module="networks.lora_hunyuan_image",
        implementation="https://github.com/Tencent-Hunyuan/HunyuanImage-2.1",
    ),
}


def lora_metadata(
    *,
    architecture: str,
    title: str,
    rank: int | None,
    alpha: float | None,
    date: str | None = None,
    resolution: tuple[int, int] | None = None,
    prediction_type: str | None = None,
    author: str | None = None,
    description: str | None = None,
    license: str | None = None,  # noqa: A002 - the spec's word
    tags: Sequence[str] = (),
    trigger_phrase: str | None = None,
    usage_hint: str | None = None,
    thumbnail: str | None = None,
    merged_from: str | None = None,
    network_args: Mapping[str, object] = NOTHING,
    training: Mapping[str, object] = NOTHING,
) -> dict[str, str]:
    """The metadata of a LoRA file, without hashes (`write_lora` adds them).

    architecture: of the base model: "flux-1-dev", "flux-1-schnell", "stable-diffusion-v1", …
    rank, alpha: None where layers differ.
    date: ISO 8601; left out when None, so that equal runs give equal files.
    resolution: (width, height) in pixels. thumbnail: a data URL.
    training: facts under sd-scripts' names without `ss_` ("learning_rate", "num_epochs", "tag_frequency", …); mappings
    and lists become JSON.
    Raises CheckpointError for an unknown architecture.
    """
    if architecture not in _BASES:
        raise CheckpointError(
            f"No architecture '{architecture}' for metadata; there are {', '.join(_BASES)}."
        )
    base = _BASES[architecture]
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{architecture}/lora",
        "implementation": base.implementation,
        "title": title,
        "resolution": resolution and f"{resolution[0]}x{resolution[1]}",
        "date": date,
        "prediction_type": prediction_type,
        "author": author,
        "description": description,
        "license": license,
        "tags": ",".join(tags) or None,
        "trigger_phrase": trigger_phrase,
        "usage_hint": usage_hint,
        "thumbnail": thumbnail,
        "merged_from": merged_from,
    }
    network = {
        "v2": False,
        "base_model_version": base.version,
        "network_module": base.module,
        "network_dim": "Dynamic" if rank is None else rank,
        "network_alpha": "Dynamic" if alpha is None else alpha,
        "network_args": network_args,
    }
    facts = {f"ss_{key}": _text(value) for key, value in {**network, **training}.items()}
    return facts | {f"modelspec.{key}": value for key, value in spec.items() if value is not None}


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return json.dumps(dict(value), ensure_ascii=False)
    if isinstance(value, list | tuple):
        return json.dumps(list(value), ensure_ascii=False)
    return str(value)

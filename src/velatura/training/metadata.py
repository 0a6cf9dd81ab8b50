"""What a trained adapter file says about how it was made, in sd-scripts' keys and forms."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import torch

from velatura.adapters.attach import Adapter
from velatura.checkpoints.fingerprint import remembered_sha256
from velatura.checkpoints.hashes import legacy_file_hash
from velatura.checkpoints.lora_metadata import lora_metadata
from velatura.data.batching.order import PlanReport
from velatura.data.batching.plan import Entry
from velatura.data.items import Item
from velatura.data.text.wording import text_of
from velatura.recipe.adapters.lora import LoraAdapter
from velatura.recipe.data.items import SourceData
from velatura.recipe.objectives.diffusion import DiffusionObjective
from velatura.recipe.objectives.flow import FlowObjective
from velatura.training.ema import Weights
from velatura.training.optimizer import optimizer_name
from velatura.training.setup import Setup

Value = TypeVar("Value")
Facts = dict[str, object]

TAGS = 100  # of each folder, the most frequent: captions in sentences would fill the header
_PREDICTION = {"noise": "epsilon", "v": "v"}
_PRECISION = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def training_metadata(setup: Setup, step: int, adapter: Adapter, weights: Weights = "raw") -> dict[str, str]:
    """`ss_*` and `modelspec.*` keys.

    What has no one value, because layers or sources differ, is left out; so are dates: equal runs give equal files.
    """
    recipe = setup.recipe
    section = recipe.adapter or LoraAdapter()
    report = setup.dataset.plan.report()
    width, height = next(iter(report.buckets))
    triggers = [data.trigger for data in recipe.data if data.trigger]
    targets = section.targets if isinstance(section.targets, str) else ",".join(section.targets)
    return lora_metadata(
        architecture=setup.info.architecture,
        title=recipe.name if weights == "raw" else f"{recipe.name} ({weights})",
        rank=_single(layer.rank for layer in adapter.layers.values()),
        alpha=_single(layer.alpha for layer in adapter.layers.values()),
        resolution=(width, height),
        prediction_type=None if setup.info.prediction == "velocity" else _PREDICTION[setup.info.prediction],
        trigger_phrase=triggers[0] if triggers else None,
        network_args={"targets": targets, "share_down": section.share_down},
        training={
            **_run(setup, step, report),
            **_objective(setup),
            **_amounts(setup, report),
            **_treatment(setup),
            **_folders(setup),
            **_models(setup),
        },
    )


def _run(setup: Setup, step: int, report: PlanReport) -> Facts:
    """The optimizer, and how far it went. `epoch` counts those that are complete."""
    recipe, optimizer = setup.recipe, setup.recipe.optimizer
    per_epoch = report.steps
    schedule = "constant_with_warmup" if optimizer.warmup_steps else "constant"
    return {
        "output_name": recipe.name,
        "seed": recipe.seed,
        "steps": step,
        "max_train_steps": recipe.training.steps,
        "epoch": math.floor(step / per_epoch + 1e-9),
        "num_epochs": math.ceil(recipe.training.steps / per_epoch - 1e-9),
        "learning_rate": optimizer.learning_rate,
        "unet_lr": optimizer.learning_rate,
        "lr_scheduler": schedule if optimizer.schedule == "constant" else optimizer.schedule,
        "lr_warmup_steps": optimizer.warmup_steps,
        "optimizer": optimizer_name(optimizer),
        "max_grad_norm": optimizer.clip,
        "gradient_accumulation_steps": recipe.training.accumulate,
        "gradient_checkpointing": bool(recipe.training.checkpoint_blocks),
        "mixed_precision": _PRECISION.get(setup.dtype, "no"),
        "fp8_base": recipe.memory.weights == "fp8",
        "cache_latents": setup.caches_latents,
    }


def _objective(setup: Setup) -> Facts:
    """The loss; `raw` is sd-scripts' word for predicting the velocity itself."""
    objective = setup.recipe.objective
    facts: Facts = {"loss_type": "l2"}
    if isinstance(objective, DiffusionObjective):
        facts["min_snr_gamma"] = objective.min_snr_gamma
        facts["noise_offset"] = objective.noise_offset or None
    if isinstance(objective, FlowObjective):
        facts["model_prediction_type"] = "raw"
        facts["timestep_sampling"] = objective.timesteps
        facts["weighting_scheme"] = objective.weighting
        if objective.timesteps != "uniform":
            facts["sigmoid_scale"] = objective.sigmoid_scale
        if objective.timesteps == "shift":
            facts["discrete_flow_shift"] = objective.shift
        if setup.info.guided:
            facts["guidance_scale"] = getattr(setup.recipe.model, "guidance", 1.0)
    return facts


def _amounts(setup: Setup, report: PlanReport) -> Facts:
    """How much there is: uses per epoch, as sd-scripts counts images, and batches."""
    dataset, training = setup.dataset, setup.recipe.training
    facts: Facts = {
        "num_train_images": _uses(entry for entry in dataset.entries if not _is_reg(entry)),
        "num_reg_images": _uses(entry for entry in dataset.entries if _is_reg(entry)),
        "num_validation_images": len({entry.item.place.key for entry in dataset.held_out}),
        "num_batches_per_epoch": report.batches,
        "bucket_info": _buckets(dataset.entries),
    }
    size = _single(entry.batch_size or training.batch_size for entry in dataset.entries)
    if size is not None:
        facts["batch_size_per_device"] = size
        facts["total_batch_size"] = size * training.accumulate
    return facts


def _buckets(entries: Iterable[Entry]) -> Facts:
    """Width, height and uses of each size by its number, and how far ratios of sides are from those of the images."""
    counts: Counter[tuple[int, int]] = Counter()
    errors = {}
    for entry in entries:
        counts[entry.bucket] += 1
        item, (width, height) = entry.item, entry.bucket
        errors[item.place.key, entry.bucket] = abs(width / height - item.width / item.height)
    buckets = {
        str(number): {"resolution": list(size), "count": counts[size]}
        for number, size in enumerate(sorted(counts))
    }
    return {"buckets": buckets, "mean_img_ar_error": sum(errors.values()) / len(errors)}


def _treatment(setup: Setup) -> Facts:
    """What is done to images and captions, as far as all sources agree on it."""
    sections = [section for section in setup.dataset.scan.sections if not section.regularisation]
    found: dict[str, object] = {
        "resolution": _single(_resolution(one) for one in sections),
        "enable_bucket": _single(one.buckets for one in sections),
        "bucket_no_upscale": _single(one.upscale == "own size" for one in sections),
        "min_bucket_reso": _single(one.bucket_min for one in sections),
        "max_bucket_reso": _single(one.bucket_max for one in sections),
        "color_aug": _single(one.colour > 0 for one in sections),
        "flip_aug": _single(one.flip > 0 for one in sections),
        "random_crop": _single(one.crop == "random" for one in sections),
        "shuffle_caption": _single(one.shuffle_tags for one in sections),
        "keep_tokens": _single(one.keep_tags for one in sections),
        "caption_dropout_rate": _single(
            setup.caption_dropout if one.caption_dropout is None else one.caption_dropout for one in sections
        ),
        "caption_dropout_every_n_epochs": _single(one.caption_dropout_every for one in sections),
        "caption_tag_dropout_rate": _single(one.tag_dropout for one in sections),
        "prior_loss_weight": _single(one.weight for one in setup.dataset.scan.sections if one.regularisation),
    }
    return {key: value for key, value in found.items() if value is not None}


def _resolution(section: SourceData) -> str | None:
    """`(512, 512)`; None for several."""
    if section.size is not None:
        width, height = section.size
    elif isinstance(section.resolution, int):
        width = height = section.resolution
    elif len(section.resolution) == 1:
        width = height = section.resolution[0]
    else:
        return None
    return f"({width}, {height})"


def _folders(setup: Setup) -> Facts:
    """Repeats, images and tags by the names of the folders that they are in."""
    items: dict[str, Item] = {entry.item.place.key: entry.item for entry in setup.dataset.entries}
    folders: dict[tuple[bool, str], list[Item]] = defaultdict(list)
    for item in items.values():
        name = Path(item.name).parent.name or setup.recipe.name
        folders[item.treatment.regularisation, name].append(item)
    told = {
        place: {
            "n_repeats": _plain(sum(i.treatment.repeats for i in found) / len(found)),
            "img_count": len(found),
        }
        for place, found in folders.items()
    }
    return {
        "dataset_dirs": {name: facts for (reg, name), facts in told.items() if not reg},
        "reg_dataset_dirs": {name: facts for (reg, name), facts in told.items() if reg},
        "tag_frequency": {name: _tags(found) for (_, name), found in folders.items()},
    }


def _tags(items: Iterable[Item]) -> dict[str, int]:
    """How often each comma-separated part of the captions occurs."""
    captions = (text_of(item.caption, item.treatment.wording) for item in items)
    counts = Counter(tag.strip().lower() for caption in captions for tag in caption.split(",") if tag.strip())
    return dict(counts.most_common(TAGS))


def _models(setup: Setup) -> Facts:
    """Names and hashes of the model's files; of a folder or a hub id the name alone."""
    files, facts = setup.files, {}
    for kind, source in (("sd_model", files.denoiser or files.model), ("vae", files.autoencoder)):
        if source is None:
            continue
        path = files.base / Path(source).expanduser()
        facts[f"{kind}_name"] = path.name if path.exists() else source
        if path.is_file():
            facts[f"{kind}_hash"] = legacy_file_hash(path)
            facts[f"new_{kind}_hash"] = remembered_sha256(path)
    return dict(facts)


def _is_reg(entry: Entry) -> bool:
    return entry.item.treatment.regularisation


def _uses(entries: Iterable[Entry]) -> int:
    return round(sum(entry.share for entry in entries))


def _plain(number: float) -> float:
    """Without `.0`."""
    return int(number) if number == int(number) else number


def _single(values: Iterable[Value]) -> Value | None:
    """The only value; None where there are several, or none."""
    different = list(dict.fromkeys(values))
    return different[0] if len(different) == 1 else None

"""What a trained adapter file says about how it was made."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from velatura.adapters.attach import Adapter
from velatura.checkpoints.lora_metadata import lora_metadata
from velatura.data.wording import text_of
from velatura.recipe.adapters.lora import LoraAdapter
from velatura.training.setup import Setup

Number = TypeVar("Number", int, float)


def training_metadata(setup: Setup, step: int, adapter: Adapter) -> dict[str, str]:
    """`ss_*` and `modelspec.*` keys; no dates, so that equal runs give equal files."""
    recipe = setup.recipe
    section = recipe.adapter or LoraAdapter()
    plan = setup.dataset.plan.report()
    width, height = next(iter(plan.buckets))
    triggers = [data.trigger for data in recipe.data if data.trigger]
    targets = section.targets if isinstance(section.targets, str) else ",".join(section.targets)
    return lora_metadata(
        architecture=setup.info.architecture,
        title=recipe.name,
        rank=_single({layer.rank for layer in adapter.layers.values()}),
        alpha=_single({layer.alpha for layer in adapter.layers.values()}),
        resolution=(width, height),
        prediction_type=None if setup.info.prediction == "velocity" else _PREDICTION[setup.info.prediction],
        trigger_phrase=triggers[0] if triggers else None,
        network_args={"targets": targets, "share_down": section.share_down},
        training={
            "output_name": recipe.name,
            "learning_rate": recipe.optimizer.learning_rate,
            "lr_scheduler": recipe.optimizer.schedule,
            "lr_warmup_steps": recipe.optimizer.warmup_steps,
            "optimizer": {"adamw": "torch.optim.AdamW", "muon": "velatura.Muon"}[recipe.optimizer.kind],
            "max_grad_norm": recipe.optimizer.clip,
            "seed": recipe.seed,
            "steps": step,
            "max_train_steps": recipe.training.steps,
            "epoch": round(step / plan.steps, 3),
            "batch_size_per_device": recipe.training.batch_size,
            "gradient_accumulation_steps": recipe.training.accumulate,
            "gradient_checkpointing": recipe.training.checkpoint_blocks,
            "mixed_precision": {"torch.bfloat16": "bf16", "torch.float16": "fp16"}.get(
                str(setup.dtype), "no"
            ),
            "num_train_images": len(plan.uses),
            "num_batches_per_epoch": plan.batches,
            "bucket_info": {f"{w}x{h}": count for (w, h), count in plan.buckets.items()},
            "tag_frequency": {recipe.name: _tags(setup)},
            "cache_latents": setup.caches_latents,
            "sd_model_name": str(setup.files.model or setup.files.denoiser),
        },
    )


_PREDICTION = {"noise": "epsilon", "v": "v"}


def _single(values: set[Number]) -> Number | None:
    """The only value, or None where layers differ."""
    return next(iter(values)) if len(values) == 1 else None


def _tags(setup: Setup) -> dict[str, int]:
    """How often each comma-separated part of the captions occurs, the hundred most frequent."""
    items = {entry.item.place.key: entry.item for entry in setup.dataset.entries}.values()
    captions = (text_of(item.caption, item.treatment.wording) for item in items)
    counts = Counter(tag.strip().lower() for caption in captions for tag in caption.split(",") if tag.strip())
    return dict(counts.most_common(100))

"""Stable Diffusion 1.x: a UNet that predicts noise (or v), steered by one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from velatura.checkpoints.published import load_config
from velatura.errors import ModelError
from velatura.families.configs import check_fit, sampling_defaults, scheduler_config
from velatura.families.latent_family import LatentFamily, loaded
from velatura.families.listing import Headers, read_headers
from velatura.families.noise_schedule import PREDICTIONS, NoiseSchedule, prediction_of
from velatura.families.sd1_files import SD1
from velatura.families.text import CLIP
from velatura.families.unet import unet_attentions, unet_blocks, unet_targets
from velatura.interfaces import (
    Conditioning,
    ModelFiles,
    ModelInfo,
    Parts,
    Prediction,
    Prompt,
    SamplingDefaults,
    Target,
)

SCHEDULER = "sd15-scheduler"  # for single files


class Sd1Family(LatentFamily):
    """Stable Diffusion 1.x. `prediction`: what the UNet predicts; None: what the scheduler's config says."""

    name = "sd1"
    listing = SD1
    schedule: NoiseSchedule

    def __init__(self, *, prediction: Prediction | None = None) -> None:
        self.prediction = prediction
        self.schedule = NoiseSchedule.from_config(load_config(SCHEDULER))

    def inspect(self, files: ModelFiles) -> ModelInfo:
        """See `Family.inspect`."""
        return self.described(read_headers(SD1, files, self.prediction), files)

    def described(self, found: Headers, files: ModelFiles) -> ModelInfo:
        """See `LatentFamily.described`."""
        _check_parts(found)
        scheduler = found.scheduler or load_config(SCHEDULER)
        self.schedule = NoiseSchedule.from_config(scheduler)
        prediction = self.prediction or prediction_of(scheduler)
        size = int(found.denoiser["sample_size"] or 64) * found.latent_scale
        return ModelInfo(
            family=self.name,
            variant="1.x" if prediction == "noise" else f"1.x-{prediction}",
            architecture="stable-diffusion-v1",
            latent_channels=found.latent_channels,
            latent_scale=found.latent_scale,
            size_step=found.latent_scale,
            prediction=prediction,
            shifted=False,
            defaults=sampling_defaults(files, SamplingDefaults(size=size, steps=25, cfg=7.5)),
            fingerprints=found.fingerprints,
            settings=found.settings,
        )

    def scheduler(self, files: ModelFiles, info: ModelInfo) -> dict[str, Any]:
        """See `LatentFamily.scheduler`."""
        config = scheduler_config(files) or load_config(SCHEDULER)
        said = next(name for name, kind in PREDICTIONS.items() if kind == info.prediction)
        return {"_class_name": "PNDMScheduler", **config, "prediction_type": said}

    def encode(self, parts: Parts, prompts: Sequence[Prompt]) -> Conditioning:
        """`text` [B, 77, 768]: CLIP's last hidden states after its final layer norm; padding takes part."""
        ((clip, ids),) = self.tokenized(parts, prompts)
        return Conditioning(tensors={"text": clip(ids).last_hidden_state})

    def predict(
        self, parts: Parts, latents: Tensor, t: Tensor, conditioning: Conditioning, *, guidance: float = 1.0
    ) -> Tensor:
        """Noise or v, float32; distilled guidance does not exist here. k stays float32 up to its sinusoids."""
        denoiser: Any = loaded(parts.denoiser, "denoiser")
        dtype = denoiser.conv_in.weight.dtype
        predicted: Tensor = denoiser(
            latents.to(dtype),
            self.schedule.step(t),
            encoder_hidden_states=conditioning.tensors["text"].to(dtype),
            return_dict=False,
        )[0]
        return predicted.float()

    def blocks(self, denoiser: nn.Module) -> Sequence[nn.Module]:
        """The stages of the UNet: down, middle, up."""
        return unet_blocks(denoiser)

    def attentions(self, denoiser: nn.Module) -> Sequence[Any]:
        """Those of the transformer blocks: within the image, and of image to text."""
        return unet_attentions(denoiser)

    def feed_forwards(self, denoiser: nn.Module) -> Sequence[tuple[nn.Module, str]]:
        """Of the transformer blocks."""
        return [(module, "forward") for module in denoiser.modules() if isinstance(module, FeedForward)]

    def targets(self, denoiser: nn.Module) -> Sequence[Target]:
        """Linears of the transformer blocks in two groups, `projection` where it is linear, and the `embedders`."""
        return unet_targets(denoiser)

    def tokens(self, latents: Tensor) -> int:
        """One token per latent pixel, as the finest attention sees them."""
        return latents.shape[2] * latents.shape[3]


def _check_parts(found: Headers) -> None:
    """Refuse parts of different models, and denoisers that want more than noisy latents."""
    config = found.denoiser
    wanted = int(config["in_channels"])
    if wanted != int(config["out_channels"]):
        raise ModelError(
            f"this UNet takes {wanted} channels and gives {config['out_channels']}: it is one for inpainting or "
            "edits, which is not supported. Give a plain Stable Diffusion 1.x model."
        )
    (clip,) = found.text_widths
    check_fit("autoencoder", "latent channels", found.latent_channels, wanted)
    check_fit(CLIP.what, "a width of", clip, int(config["cross_attention_dim"]))

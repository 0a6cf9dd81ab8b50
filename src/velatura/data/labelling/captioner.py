"""Captions by an image-to-text model of the transformers library: BLIP, Florence-2, LLaVA and their kin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from velatura.data.labelling.models import loaded, on_device
from velatura.data.text.captions import tidy
from velatura.errors import ModelError
from velatura.placement.device import choose_dtype

_TASK = "<DETAILED_CAPTION>"  # of Florence-2
_QUESTION = "Describe this image in one sentence."  # to models that chat


class Captioner:
    """A captioning model, ready. `prompt` is what it is asked, or what its captions begin with.

    Raises ModelError when there is no such model, or it is of another kind.
    """

    def __init__(
        self, model: str, *, device: torch.device, prompt: str | None = None, max_tokens: int = 128
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        what = "a model that captions images (AutoModelForImageTextToText)"
        self._device, self._dtype = device, choose_dtype("auto", device)
        self._max_tokens = max_tokens
        self._processor: Any = loaded(model, what, AutoProcessor.from_pretrained)
        self._model: Any = loaded(
            model, what, lambda folder: AutoModelForImageTextToText.from_pretrained(folder, dtype=self._dtype)
        )
        self._model.to(device).eval()
        self._prompt = self._worded(prompt)
        tokenizer = getattr(self._processor, "tokenizer", None)
        if tokenizer is not None and not self._model.config.is_encoder_decoder:
            tokenizer.padding_side = "left"  # what comes next continues the prompt

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption for each RGB image, on one line. Raises ModelError for a prompt that the model refuses."""
        options = {} if self._prompt is None else {"text": [self._prompt] * len(images), "padding": True}
        try:
            read = self._processor(images=list(images), return_tensors="pt", **options)
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"the model does not take this prompt: {error}. Give another --prompt."
            ) from error
        inputs = on_device(read, self._device, self._dtype)
        asked = inputs["input_ids"].clone() if self._sees_in_text(inputs) else None
        made = self._model.generate(**inputs, max_new_tokens=self._max_tokens, do_sample=False)
        if asked is not None and made[:, : asked.shape[1]].equal(asked):
            made = made[:, asked.shape[1] :]  # the answer alone
        texts: list[str] = self._processor.batch_decode(made, skip_special_tokens=True)
        return [" ".join(tidy(text).split("\n")) for text in texts]

    def _sees_in_text(self, inputs: Mapping[str, torch.Tensor]) -> bool:
        """Whether the image stands in the prompt: then that is a question, and no beginning of the caption."""
        config = self._model.config
        token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        return token is not None and "input_ids" in inputs and bool((inputs["input_ids"] == token).any())

    def _worded(self, prompt: str | None) -> str | None:
        """The prompt as the model's processor wants it; some need one in any case."""
        if getattr(self._processor, "task_prompts_without_inputs", None):
            return prompt or _TASK
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt or _QUESTION}]
            return str(
                self._processor.apply_chat_template(
                    [{"role": "user", "content": content}], add_generation_prompt=True
                )
            )
        return prompt

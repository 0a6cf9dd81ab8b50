"""Teaches the pocket T5 to read before the denoiser listens to it: which words belong together, who stands where.

    python examples/pocket/captions.py MODEL OUT [--steps 800] [--seed 0]

FLUX's T5 has read a good part of the internet before a picture depends on it. From pictures alone a small one learns
words but hardly their order, and then shapes and places get mixed. Here each word of a phrase ("large red cube") must
tell size, colour, material, shape and place of its solid, through linear readers that are thrown away; the outputs also
stay near what they were, so that a denoiser that knows the old ones is not lost. MODEL is a model folder with
`text_encoder_2`; OUT is where the new encoder goes. Captions are those of training scenes; no picture is drawn.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, T5EncoderModel

from velatura.families.tokenizers import token_ids
from velatura.pocket.dataset import WorldSource
from velatura.pocket.scenes import COLOURS, MATERIALS, SHAPES, SIZES, Scene, Solid

PACKAGE = Path(__file__).parents[2] / "src" / "velatura" / "pocket" / "models" / "flux"
LENGTH = 28  # tokens that the encoder reads
PLACES = ("alone", "left", "middle", "right")
WORDS: dict[str, Sequence[str]] = {
    "shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES), "material": MATERIALS,
}  # fmt: skip
ANSWERS = {**WORDS, "place": PLACES}
UNSAID = -100  # no answer is asked for
SCENES, BATCH, RATE, NEAR = 40_000, 256, 1e-3, 0.3
HELD_BACK = 1000


def labels_of(scene: Scene, text: str) -> list[tuple[int, int, dict[str, int]]]:
    """Per word that states something: where it begins and ends in the text, and the answers to give there."""
    found: list[tuple[int, int, dict[str, int]]] = []
    phrase: list[tuple[int, int, str, str]] = []
    for match in re.finditer(r"[a-z]+", text):
        kind = next((name for name, words in WORDS.items() if match[0] in words), None)
        if kind is None:
            continue
        phrase.append((match.start(), match.end(), kind, match[0]))
        if kind == "shape":
            found += _answers(scene, phrase)
            phrase = []
    return found


def _answers(
    scene: Scene, phrase: Sequence[tuple[int, int, str, str]]
) -> list[tuple[int, int, dict[str, int]]]:
    said = {kind: word for _, _, kind, word in phrase}
    fitting = [index for index, solid in enumerate(scene.solids) if _is(solid, said)]
    if len(fitting) != 1:
        return []  # twins: the caption does not tell them apart
    answers = {kind: ANSWERS[kind].index(word) for kind, word in said.items()}
    answers["place"] = PLACES.index(_place(fitting[0], len(scene.solids)))
    return [(start, end, answers) for start, end, _, _ in phrase]


def _is(solid: Solid, said: dict[str, str]) -> bool:
    return all(getattr(solid, kind) == word for kind, word in said.items())


def _place(index: int, count: int) -> str:
    if count == 1:
        return "alone"
    return "left" if index == 0 else "right" if index == count - 1 else "middle"


def examples(tokenizer: object, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Token ids `[N, 28]`, and per question the answer at each token `[N, 28]`, UNSAID where none is asked for."""
    sources = [WorldSource(seed=seed, split="train", solids=count) for count in (None, 2)]
    pairs = [(source.scene(i), i, source) for source in sources for i in range(SCENES // len(sources))]
    texts = [source.text(i, scene) for scene, i, source in pairs]
    ids = token_ids(tokenizer, texts, LENGTH)
    answers = {question: torch.full_like(ids, UNSAID) for question in ANSWERS}
    spans = tokenizer(texts, return_offsets_mapping=True)["offset_mapping"]  # type: ignore[operator]
    for row, ((scene, _, _), text) in enumerate(zip(pairs, texts, strict=True)):
        labels = labels_of(scene, text)
        for column, (start, end) in enumerate(spans[row][:LENGTH]):
            for first, last, said in labels:
                if first < end and start < last:
                    for question, answer in said.items():
                        answers[question][row, column] = answer
    return ids, answers


class Reader(nn.Module):
    """A linear answer to each question at every token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in ANSWERS.items()})

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        """Scores `[B, 28, answers]` per question."""
        return {name: head(hidden) for name, head in self.heads.items()}


def losses(scores: dict[str, Tensor], answers: dict[str, Tensor]) -> Tensor:
    """Sum over questions of the mean cross entropy where there is an answer."""
    return torch.stack(
        [
            F.cross_entropy(scores[name].flatten(0, 1), answers[name].flatten(), ignore_index=UNSAID)
            for name in scores
        ]
    ).sum()


@torch.no_grad()
def accuracy(
    encoder: T5EncoderModel, reader: Reader, ids: Tensor, answers: dict[str, Tensor]
) -> dict[str, float]:
    """Share of right answers per question."""
    scores = reader(encoder(ids).last_hidden_state)
    asked = {name: answers[name] != UNSAID for name in scores}
    return {
        name: float((scores[name].argmax(-1) == answers[name])[asked[name]].float().mean()) for name in scores
    }


def main() -> None:
    """Train, report, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(PACKAGE / "tokenizer_2")
    encoder = T5EncoderModel.from_pretrained(options.model / "text_encoder_2", dtype=torch.float32)
    before = T5EncoderModel.from_pretrained(options.model / "text_encoder_2", dtype=torch.float32).eval()
    reader = Reader(encoder.config.d_model)
    ids, answers = examples(tokenizer, options.seed)
    held = ids[:HELD_BACK], {name: values[:HELD_BACK] for name, values in answers.items()}
    bias = [p for name, p in encoder.named_parameters() if "relative_attention_bias" in name]
    rest = [p for name, p in encoder.named_parameters() if "relative_attention_bias" not in name]
    groups = [{"params": bias, "lr": 20 * RATE}, {"params": [*rest, *reader.parameters()], "lr": RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [20 * RATE, RATE], total_steps=options.steps, pct_start=0.1
    )
    for step in range(1, options.steps + 1):
        rows = torch.randint(HELD_BACK, len(ids), (BATCH,))
        hidden = encoder(ids[rows]).last_hidden_state
        with torch.no_grad():
            old = before(ids[rows]).last_hidden_state
        near = F.mse_loss(hidden, old) / old.square().mean()
        asked = losses(reader(hidden), {name: values[rows] for name, values in answers.items()})
        optimizer.zero_grad()
        (asked + NEAR * near).backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == options.steps:
            right = ", ".join(
                f"{name} {share:.1%}" for name, share in accuracy(encoder, reader, *held).items()
            )
            sys.stdout.write(f"step {step}: moved {near:.3f}, right: {right}\n")
            sys.stdout.flush()
    encoder.to(torch.bfloat16).save_pretrained(options.out)


if __name__ == "__main__":
    main()

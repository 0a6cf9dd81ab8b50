"""Tokenizers of the text encoders: finding, loading, checking and using them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import transformers
from torch import Tensor, nn

from velatura.checkpoints.fingerprint import fingerprint
from velatura.errors import ModelError
from velatura.families.locate import locate
from velatura.interfaces import ModelFiles

TokenizerKind = Literal["clip", "t5"]
# Sets of files of which one must be complete: without them transformers gives an almost empty vocabulary in silence.
NEEDED = {
    "clip": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "t5": (("tokenizer.json",), ("spiece.model",)),
}
CLASSES = {
    "clip": "CLIPTokenizer",
    "t5": "T5TokenizerFast",
}  # of transformers, as model_index.json names them
COUNTING = ("tokenizer.json", "vocab.json", "merges.txt", "spiece.model", "tokenizer_config.json")


@dataclass(frozen=True, kw_only=True)
class TokenizerPlace:
    """A tokenizer of a family."""

    kind: TokenizerKind
    subfolder: str  # of a diffusers folder


def tokenizer_folders(files: ModelFiles, places: Sequence[TokenizerPlace], example: str) -> list[Path]:
    """Folders from `model.tokenizers` (folder or hub id), else from `model.model`.

    `example` is a hub id that has them, for the message. Raises ModelError.
    """
    source = files.tokenizers or files.model
    patterns = [f"{place.subfolder}/*" for place in places]
    root = None if source is None else locate(source, files.base, patterns=patterns)
    if root is None or (root.is_file() and files.tokenizers is None):
        names = " and ".join(f"'{place.subfolder}'" for place in places)
        raise ModelError(
            "tokenizers are needed and single files do not hold them. Set model.tokenizers to a folder with "
            f"{names} in it, or to a hub id such as '{example}'."
        )
    return [_folder(root, place) for place in places]


def load_tokenizers(files: ModelFiles, places: Sequence[TokenizerPlace], example: str) -> tuple[Any, ...]:
    """The tokenizers in the order of `places`. Raises ModelError when one is not there."""
    folders = tokenizer_folders(files, places, example)
    return tuple(_load(place, folder) for place, folder in zip(places, folders, strict=True))


def given_folders(files: ModelFiles, places: Sequence[TokenizerPlace]) -> dict[str, Path]:
    """The same by sub-folder; empty where there are none: whoever loads them says so."""
    try:
        folders = tokenizer_folders(files, places, "")
    except ModelError:
        return {}
    return {place.subfolder: folder for place, folder in zip(places, folders, strict=True)}


def tokenizers_fingerprint(files: ModelFiles, places: Sequence[TokenizerPlace]) -> str:
    """Identity of the tokenizers' files, for cache keys; empty where there are none."""
    folders = given_folders(files, places).values()
    found = [folder / name for folder in folders for name in COUNTING if (folder / name).is_file()]
    return fingerprint(found) if found else ""


def check_vocabulary(tokenizer: Any, module: nn.Module, what: str) -> None:
    """A tokenizer that knows other pieces than its encoder gives nonsense silently; refuse it."""
    known = int(module.config.vocab_size)  # type: ignore[union-attr, arg-type]
    if len(tokenizer) > known or len(tokenizer) < known * 0.9:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} pieces and the {what} an embedding of {known}: they do not belong "
            "together, or the tokenizer's files are incomplete. Check model.tokenizers."
        )


def token_ids(tokenizer: Any, texts: Sequence[str], length: int) -> Tensor:
    """Padded and cut ids `[B, length]`."""
    encoded = tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    ids: Tensor = encoded.input_ids
    return ids


def token_count(tokenizer: Any, text: str) -> int:
    """Tokens of a text with the marks at its ends, uncut."""
    return len(tokenizer(text, verbose=False).input_ids)


def _folder(root: Path, place: TokenizerPlace) -> Path:
    """The tokenizer's own folder below `root`, else `root` itself. Raises ModelError when its files are not there."""
    # DiffSynth's folders number the first one too
    named = (root / name for name in (place.subfolder, f"{place.subfolder}_1"))
    folder = next((path for path in named if path.is_dir()), root)
    choices = NEEDED[place.kind]
    if not any(all((folder / name).is_file() for name in names) for names in choices):
        wanted = ", or ".join(" and ".join(names) for names in choices)
        raise ModelError(
            f"{folder} holds no {place.kind} tokenizer: wanted {wanted}. Check model.tokenizers."
        )
    return folder


def _load(place: TokenizerPlace, folder: Path) -> Any:
    try:
        return getattr(transformers, CLASSES[place.kind]).from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and its backends raise whatever a damaged file leads them to
        raise ModelError(
            f"the {place.kind} tokenizer in {folder} cannot be read ({type(error).__name__}: {error}). "
            "Check model.tokenizers."
        ) from error

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from velatura.errors import ModelError
from velatura.families.flux_files import FLUX
from velatura.families.tokenizers import (
    check_vocabulary,
    load_tokenizers,
    token_count,
    token_ids,
    tokenizers_fingerprint,
)
from velatura.interfaces import ModelFiles

from .models import POCKET_FLUX, clip, t5

TOKENIZERS = FLUX.tokenizers

REAL = Path(__file__).parents[3] / "shared" / "data" / "tokenizers" / "flux"
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real tokenizers are not there: {REAL}")


def test_pocket_tokenizers_pad_and_cut() -> None:
    tokenizers = load_tokenizers(ModelFiles(model="pocket/flux"), TOKENIZERS, "")
    for tokenizer, end in zip(tokenizers, ("<|endoftext|>", "</s>"), strict=True):
        ids = token_ids(tokenizer, ["a large red cube", "", "red " * 100], 9)
        last = tokenizer.convert_tokens_to_ids(end)
        assert ids.shape == (3, 9)
        assert ids[2, -1] == last  # the end mark survives the cut
        assert ids[1].tolist().count(tokenizer.pad_token_id) >= 7
        assert token_count(tokenizer, "red " * 100) > 100
    check_vocabulary(tokenizers[0], clip(), "CLIP")
    with pytest.raises(ModelError, match="has 213 pieces and the T5 an embedding of 116"):
        check_vocabulary(tokenizers[0], t5(), "T5")


@real
def test_real_clip_tokenizer() -> None:
    clip_tokenizer, _ = load_tokenizers(ModelFiles(tokenizers=str(REAL)), TOKENIZERS, "")
    assert len(clip_tokenizer) == 49408
    (row,) = token_ids(clip_tokenizer, ["a photo of a cat"], 77).tolist()
    # start, a</w> photo</w> of</w> a</w> cat</w>, end, and padding with the end mark: OpenAI's published ids
    assert row[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert row[7:] == [49407] * 70
    assert token_ids(clip_tokenizer, ["cat " * 200], 77)[0, -1] == 49407
    assert token_count(clip_tokenizer, "cat " * 200) == 202


@real
def test_real_t5_tokenizer() -> None:
    _, t5_tokenizer = load_tokenizers(ModelFiles(tokenizers=str(REAL)), TOKENIZERS, "")
    assert len(t5_tokenizer) == 32100
    ids = token_ids(t5_tokenizer, ["a photo of a cat", ""], 512)
    assert ids.shape == (2, 512)
    assert ids[1].tolist() == [1] + [0] * 511  # </s>, then <pad>
    count = token_count(t5_tokenizer, "a photo of a cat")
    assert ids[0, count - 1] == 1
    assert not ids[0, count:].any()
    assert token_ids(t5_tokenizer, ["cat " * 2000], 512)[0, -1] == 1


@real
def test_a_sentencepiece_file_alone_gives_the_same_ids(tmp_path: Path) -> None:
    shutil.copytree(REAL, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_2").chmod(0o755)
    (tmp_path / "tokenizer_2" / "tokenizer.json").unlink()
    with_json, without = (
        load_tokenizers(ModelFiles(tokenizers=str(folder)), TOKENIZERS, "")[1] for folder in (REAL, tmp_path)
    )
    texts = ["a photo of a cat, 4k; Zürich's café", "x"]
    assert token_ids(without, texts, 64).tolist() == token_ids(with_json, texts, 64).tolist()


def test_incomplete_folders_are_refused(tmp_path: Path) -> None:
    shutil.copytree(POCKET_FLUX / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer_2").mkdir()
    shutil.copy(POCKET_FLUX / "tokenizer_2" / "tokenizer_config.json", tmp_path / "tokenizer_2")
    with pytest.raises(ModelError, match="holds no t5 tokenizer: wanted tokenizer.json, or spiece.model"):
        load_tokenizers(ModelFiles(tokenizers=str(tmp_path)), TOKENIZERS, "")
    (tmp_path / "tokenizer_2" / "tokenizer.json").write_text("{broken")
    with pytest.raises(ModelError, match="the t5 tokenizer in .* cannot be read"):
        load_tokenizers(ModelFiles(tokenizers=str(tmp_path)), TOKENIZERS, "")
    (tmp_path / "tokenizer" / "tokenizer.json").rename(tmp_path / "tokenizer" / "vocab.json")
    with pytest.raises(ModelError, match="vocab.json and merges.txt"):
        load_tokenizers(ModelFiles(tokenizers=str(tmp_path)), TOKENIZERS, "")


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(POCKET_FLUX / name, tmp_path / name)
    files = ModelFiles(tokenizers=str(tmp_path))
    before = tokenizers_fingerprint(files, TOKENIZERS)
    assert before == tokenizers_fingerprint(ModelFiles(model="pocket/flux"), TOKENIZERS) != ""
    file = tmp_path / "tokenizer_2" / "tokenizer.json"
    file.write_text(file.read_text().replace("red", "rad"))
    assert tokenizers_fingerprint(files, TOKENIZERS) != before
    assert tokenizers_fingerprint(ModelFiles(), TOKENIZERS) == ""

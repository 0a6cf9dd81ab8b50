"""Models that caption, by the three ways in which they are asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from velatura.data.labelling.captioner import Captioner
from velatura.errors import ModelError

from .models import WORDS, write_blip, write_florence, write_llava, write_segformer

CPU = torch.device("cpu")
IMAGES = [Image.new("RGB", size, "red") for size in ((40, 30), (30, 50))]


def captions(folder: Path, prompt: str | None = None) -> list[str]:
    return Captioner(str(folder), device=CPU, prompt=prompt, max_tokens=6)(IMAGES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("write", [write_blip, write_florence, write_llava])
def test_one_line_of_words_for_each_image(
    tmp_path: Path, write: Callable[[Path], Path], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("velatura.data.labelling.captioner.choose_dtype", lambda *_: dtype)
    made = captions(write(tmp_path / "m"))
    assert len(made) == 2
    for text in made:
        assert text
        assert set(text.split()) <= {word for word in WORDS if word.isalpha() and word.islower()}


def test_a_caption_that_begins_as_it_is_told(tmp_path: Path) -> None:
    assert all(text.startswith("a dog") for text in captions(write_blip(tmp_path / "m"), "a dog"))


def test_a_question_is_no_part_of_its_answer(tmp_path: Path) -> None:
    folder = write_llava(tmp_path / "m")
    captioner = Captioner(str(folder), device=CPU, prompt="cat on grass", max_tokens=2)
    assert all(len(text.split()) <= 2 for text in captioner(IMAGES))  # the question has three words


def test_a_task_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not take this prompt: Task token <CAPTION>.*--prompt"):
        captions(write_florence(tmp_path / "m"), "<CAPTION> and more")


def test_models_that_do_not_caption(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded as a model that captions"):
        captions(write_segformer(tmp_path / "m"))
    with pytest.raises(ModelError, match="no such file or folder"):
        captions(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="is a file; expected a folder"):
        captions(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot be loaded"):
        captions(tmp_path / "empty")

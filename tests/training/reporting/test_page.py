from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from velatura.training.reporting.page import EDGE, inline_picture


def shown(markup: str) -> Image.Image:
    data = markup.partition("base64,")[2].partition("'")[0]
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_small_picture_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (EDGE, 10), (10, 20, 30)).save(path)
    markup = inline_picture(path)
    assert markup.startswith("<img alt='' src='data:image/png;base64,")
    assert base64.b64encode(path.read_bytes()).decode() in markup


def test_a_large_picture_is_made_smaller(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (2 * EDGE, EDGE), (10, 200, 30, 255)).save(path)
    small = shown(inline_picture(path))
    assert (small.format, small.size) == ("JPEG", (EDGE, EDGE // 2))


def test_what_is_no_picture_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    (tmp_path / "half.png").write_bytes(whole.read_bytes()[:2000])
    assert inline_picture(whole)
    for path in (None, tmp_path / "gone.png", tmp_path, tmp_path / "text.png", tmp_path / "half.png"):
        assert inline_picture(path) == ""

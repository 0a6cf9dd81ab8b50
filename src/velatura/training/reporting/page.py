"""What the pages about runs share: the frame, the style, small pictures inside."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from PIL import Image

EDGE = 384  # of a picture in a page: sharp where a screen has two dots per pixel
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem; border-bottom: 1px solid #ddd }
h3 { font-size: 1rem; margin-bottom: .2rem; font-weight: normal }
table { border-collapse: collapse } td, th { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: top }
.scroll { overflow-x: auto } img { display: block; width: 192px; height: auto }
.warning { color: #a40 } .aside, .none { color: #666 } code, pre { background: #f3f3f3 }
pre { padding: .5rem .8rem; white-space: pre-wrap; overflow-wrap: anywhere }
td.prompt { min-width: 10rem; max-width: 16rem }
.chart { width: 100%; min-width: 40rem; height: auto; font: 14px system-ui, sans-serif; fill: #444 }
.grid { stroke: #e4e4e4 } .axis { stroke: #888; fill: none }
.legend td + td, .legend th + th { text-align: right; font-variant-numeric: tabular-nums }
.mark { display: inline-block; width: 1.4rem; height: .3rem; margin-right: .5rem; vertical-align: middle }
"""


def page(title: str, body: str) -> str:
    """A whole page that fetches nothing."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def picture_cell(path: Path | None) -> str:
    """A cell of a table with a picture in it, or a dash where there is none."""
    return f"<td>{inline_picture(path) or '—'}</td>"


def inline_picture(path: Path | None) -> str:
    """An <img> that holds the picture, made smaller where it is large; nothing for one that is gone or damaged."""
    if path is None or not path.is_file():
        return ""
    try:
        kind, data = _small(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's for broken PNGs
        return ""
    return f"<img alt='' src='data:image/{kind};base64,{base64.b64encode(data).decode()}'>"


def _small(path: Path) -> tuple[str, bytes]:
    with Image.open(path, formats=["PNG"]) as image:
        if max(image.size) <= EDGE:
            image.load()  # so that half a file is told here
            return "png", path.read_bytes()
        small = image.convert("RGB")
    small.thumbnail((EDGE, EDGE))
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=88)
    return "jpeg", file.getvalue()

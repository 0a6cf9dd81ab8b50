"""previews/index.html: all pictures of a run side by side, a row per step and a column per prompt.

The page is made from the pictures that are there, each of which says how it was painted: after a resume, or where
prompts were changed on the way, it shows what lies in the folder.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

from velatura.checkpoints.writing import write_bytes
from velatura.sampling.request import Request
from velatura.training.folder import RunFolder
from velatura.training.reporting.pictures import facts_of, is_of_average, pictures

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222 } h1 { font-size: 1.5rem }
p { max-width: 60rem } .scroll { overflow: auto; max-height: 85vh } table { border-collapse: collapse }
th, td { padding: .4rem; text-align: left; vertical-align: top; background: #fff } th { font-weight: normal }
thead th { position: sticky; top: 0; z-index: 1; max-width: 256px } tbody th { position: sticky; left: 0 }
img { display: block; width: 256px; height: auto } small { color: #666 } .none { color: #999 }
"""


def write_previews_page(folder: RunFolder) -> None:
    """Write the page anew, once there are pictures. Raises StorageError."""
    rows: dict[tuple[int, bool], dict[Request, str]] = {}  # of a step, raw weights and then averages
    places: dict[Request, tuple[str, int]] = {}  # columns in the order of the pictures' numbers
    for step, path, request in pictures(folder.previews_page.parent):
        rows.setdefault((step, is_of_average(path)), {})[request] = f"{path.parent.name}/{path.name}"
        places.setdefault(request, (path.name, step))
    if not rows:
        return
    columns = sorted(places, key=lambda request: places[request])
    title = html.escape(f"{folder.name}: previews")
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
        "<p>A row is a moment of the training, a column is a prompt. Within a column all else is the same, the noise "
        "too: what differs was learned. A click shows a picture in full size. The page is written anew after each "
        "round of previews; <a href='../report.html'>the run's report</a> is written when the run ends.</p>"
        f"<div class='scroll'><table><thead><tr><th></th>{''.join(map(_head, columns))}</tr></thead><tbody>"
        f"{''.join(_row(*row, columns, rows[row]) for row in sorted(rows))}</tbody></table></div></body></html>\n"
    )
    data = page.encode()
    write_bytes(folder.previews_page, data)


def _head(request: Request) -> str:
    words = html.escape(request.prompt) or "<span class='none'>no prompt</span>"
    return f"<th>{words}<br><small>{html.escape(facts_of(request))}</small></th>"


def _row(step: int, of_average: bool, columns: list[Request], pictures: Mapping[Request, str]) -> str:
    name = "before training" if step == 0 else f"step {step:,}" + ", average" * of_average
    cells = "".join(f"<td>{_picture(pictures.get(request), name)}</td>" for request in columns)
    return f"<tr><th>{name}</th>{cells}</tr>"


def _picture(path: str | None, alt: str) -> str:
    if path is None:
        return "<span class='none'>not painted</span>"
    where = html.escape(path, quote=True)
    return f"<a href='{where}'><img loading='lazy' alt='{alt}' src='{where}'></a>"

"""A self-contained HTML page: no script, no font, no file beside it."""

import base64
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

_STYLE: Final = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2733; background: #fff;
  max-width: 1040px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 1.7rem; margin: 0 0 4px; } h2 { font-size: 1.2rem; margin: 34px 0 8px; }
.lead { color: #4a5568; margin: 0 0 18px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px; }
.card { border: 1px solid #d8dee6; border-radius: 8px; padding: 12px 14px; }
.card b { font-size: 1.6rem; display: block; line-height: 1.2; }
.card small, figcaption, .note { color: #4a5568; font-size: .87rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 16px; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: #4a5568; }
svg .title { font-size: 13px; font-weight: 600; fill: #1d2733; } svg .grid { stroke: #e3e8ee; }
.legend span { margin-right: 18px; } .legend i { display: inline-block; width: 26px;
  margin-right: 6px; vertical-align: middle; }
figure { margin: 0 0 14px; } figure img { width: 100%; border: 1px solid #d8dee6; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid #e3e8ee;
  vertical-align: top; overflow-wrap: break-word; }
td:first-child { white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
pre { background: #f3f5f8; border-radius: 6px; padding: 10px 12px; overflow-x: auto;
  font-size: .86rem; }
.warning { border-left: 4px solid #c8553d; background: #fdf3f0; padding: 8px 14px; margin: 8px 0; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 2px;
  margin: 0 4px 0 12px; vertical-align: -1px; }
"""


def page(title: str, body: Sequence[str]) -> str:
    """Put parts of HTML into a page.

    Args:
        title: plain text.
        body: elements, already escaped.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 99) -> str:
    """A table of plain text.

    Args:
        header: heading of each column.
        rows: cells.
        numbers_from: columns from this one on are set to the right.
    """

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag} class='number'>{escape(cell)}</{tag}>"
            if column >= numbers_from
            else f"<{tag}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{row(header, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def card(value: str, name: str, meaning: str) -> str:
    """A figure with its name and what it means in plain words."""
    return (
        f'<div class="card"><b>{escape(value)}</b>{escape(name)}<br>'
        f"<small>{escape(meaning)}</small></div>"
    )


def picture(pixels: NDArray[np.uint8], caption: str) -> str:
    """An embedded JPEG.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        caption: plain text below it.
    """
    done, encoded = cv2.imencode(
        ".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 82]
    )
    if not done:
        raise ValueError(f"OpenCV cannot encode a picture of shape {pixels.shape}")
    data = base64.b64encode(encoded.tobytes()).decode("ascii")
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def warning(text: str) -> str:
    """A paragraph that stands out."""
    return f'<p class="warning">{escape(text)}</p>'


def command(*words: str | Path) -> str:
    """A command line to copy, quoted for the shell."""
    return f"<pre>{escape(shlex.join(map(str, words)))}</pre>"

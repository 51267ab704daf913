"""The picture with outlines as a Streamlit component: zoom, pan, click on a nucleus."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

import streamlit as st

_HTML: Final = """
<div class="frame" tabindex="0" role="group"
     aria-label="Picture: plus and minus zoom, arrow keys pan, zero shows all">
  <svg role="img"></svg>
</div>
<div class="tools">
  <button class="closer" aria-label="Zoom in">+</button>
  <button class="farther" aria-label="Zoom out">&minus;</button>
  <button class="fit">Fit</button>
  <output aria-live="polite"></output>
  <span class="hint">Wheel or + and &minus; zoom, drag or arrow keys pan<span
    class="marks">, a click marks</span>.</span>
</div>
"""


def show_viewer(
    data: dict[str, Any], *, key: str, on_nucleus: Callable[[], None] | None = None
) -> int | None:
    """Show `service.ui.drawing.viewer_data` and return the nucleus that was just clicked, if any.

    Args:
        data: What to draw.
        key: Of the element; its zoom is kept for as long as the key stays.
        on_nucleus: Called before the script runs again after a click.
    """
    assets = files("service.ui")
    component = st.components.v2.component(
        "karyon_viewer",
        html=_HTML,
        css=(assets / "viewer.css").read_text("utf-8"),
        js=(assets / "viewer.js").read_text("utf-8"),
    )
    result = component(
        data={**data, "markable": on_nucleus is not None},
        key=key,
        on_nucleus_change=on_nucleus or (lambda: None),
    )
    clicked = result.get("nucleus")
    return None if clicked is None else int(clicked)

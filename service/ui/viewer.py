"""The picture with outlines as a Streamlit component: zoom and pan; mark, delete, draw nuclei."""

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
  <span class="modes" role="group" aria-label="What a click in the picture does">
    <button data-mode="mark">Mark</button>
    <button data-mode="delete">Delete</button>
    <button data-mode="draw">Draw</button>
  </span>
  <button class="finish">Finish outline</button>
</div>
<p class="hint" role="status"></p>
"""


def show_viewer(
    data: dict[str, Any],
    *,
    key: str,
    on_nucleus: Callable[[], None] | None = None,
    on_edit: Callable[[], None] | None = None,
) -> None:
    """Show `service.ui.drawing.viewer_data`.

    Args:
        data: What to draw.
        key: Of the element; its zoom is kept for as long as the key stays.
        on_nucleus: Called after a click on a nucleus; `nucleus` of the element's state has its
            number. None where a click does nothing.
        on_edit: Called after the user deleted or drew a nucleus; `edit` of the element's state has
            all `edits` that `data["taken"]` does not name yet, each with its `id`, the `result`
            that it was made on, and `toggle` (number of a nucleus), `erase` (points of a drawn
            one) or `outline` (corners). None where nothing can be edited. While `data["unfiled"]`
            is true, or an edit is not taken, the browser asks before it leaves the page.
    """
    assets = files("service.ui")
    component = st.components.v2.component(
        "karyon_viewer",
        html=_HTML,
        css=(assets / "viewer.css").read_text("utf-8"),
        js=(assets / "viewer.js").read_text("utf-8"),
    )
    component(
        data={**data, "markable": on_nucleus is not None, "editable": on_edit is not None},
        key=key,
        on_nucleus_change=on_nucleus or (lambda: None),
        on_edit_change=on_edit or (lambda: None),
    )

"""The script that Streamlit runs, from top to bottom at each of the user's actions."""

from pathlib import Path

import streamlit as st

from service.ui import words
from service.ui.batch_view import show_batch
from service.ui.case import BATCH, subject_of
from service.ui.compare_view import show_comparison
from service.ui.result_view import show_result
from service.ui.sidebar import choose_picture, choose_service
from service.ui.start_view import show_start

MODES = ("One image", "Two models", "Batch")

# Streamlit leaves six rem above the page, half of a small laptop's picture.
_STYLE = """
<style>
.stMainBlockContainer { padding: 1.2rem 1.5rem 4rem 1.5rem; }
[data-testid="stSidebarHeader"] { height: 2rem; padding-bottom: 0; margin-bottom: 0; }
[data-testid="stSidebarUserContent"] { padding-bottom: 4rem; }
[data-testid="stMetricValue"] { font-size: 1.5rem; }
/* What is being made anew stays readable: Streamlit would pale it. The spinner says it. */
[data-testid="stElementContainer"] { opacity: 1 !important; transition: none !important; }
/* A tablet held upright: the figures below the picture, not beside it. */
@media (max-width: 1000px) {
  .st-key-result [data-testid="stColumn"]:not([data-testid="stColumn"] [data-testid="stColumn"]) {
    min-width: 100%;
  }
}
.figure-note { color: #374151; font-size: 0.9rem; line-height: 1.35; margin: 0 0 0.2rem 0; }
.research {
  position: fixed; left: 0; right: 0; bottom: 0; z-index: 1000000; padding: 0.35rem 1.5rem;
  background: #7c2d12; color: #ffffff; font-size: 0.95rem; text-align: center;
}
</style>
"""


def main() -> None:
    """Draw the page."""
    st.set_page_config(
        "Karyon",
        # Streamlit fetches its own icons from the internet, which a laboratory may not have.
        page_icon=str(Path(__file__).with_name("icon.svg")),
        layout="wide",
        initial_sidebar_state="expanded",
    )
    # Fixed to the window: it must not scroll out of sight.
    st.html(f'{_STYLE}<div class="research" role="note">{words.RESEARCH_USE_ONLY}</div>')
    title, modes = st.columns([1, 3], vertical_alignment="center")
    title.subheader("Karyon", anchor=False)
    mode = modes.segmented_control(
        "What to do",
        MODES,
        default=MODES[0],
        required=True,
        key="mode",
        label_visibility="collapsed",
    )
    picture = None if mode == "Batch" else choose_picture()
    choices = choose_service(BATCH if mode == "Batch" else subject_of(picture))
    if choices is None:
        return
    if mode == "Batch":
        show_batch(choices)
    elif picture is None:
        show_start()
    elif mode == "Two models":
        show_comparison(choices, picture)
    else:
        show_result(choices, picture)


main()

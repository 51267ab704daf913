"""The script that Streamlit runs, from top to bottom at each of the user's actions."""

import streamlit as st

from service.ui import words
from service.ui.batch_view import show_batch
from service.ui.compare_view import show_comparison
from service.ui.result_view import show_result
from service.ui.sidebar import choose_picture, choose_service

MODES = ("One image", "Two models", "Batch")

# Streamlit leaves six rem above the page, half of a small laptop's picture.
_STYLE = """
<style>
.stMainBlockContainer { padding: 2.2rem 1.5rem 2rem 1.5rem; }
[data-testid="stSidebarHeader"] { height: 2rem; padding-bottom: 0; margin-bottom: 0; }
[data-testid="stMetricValue"] { font-size: 1.5rem; }
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] p { color: #4b5563; }
</style>
"""


def main() -> None:
    """Draw the page."""
    st.set_page_config("Karyon", page_icon="🔬", layout="wide", initial_sidebar_state="expanded")
    st.html(_STYLE)
    title, notice = st.columns([1, 4], vertical_alignment="center")
    title.subheader("Karyon", anchor=False)
    notice.info(words.RESEARCH_USE_ONLY)
    mode = st.segmented_control(
        "What to do",
        MODES,
        default=MODES[0],
        required=True,
        key="mode",
        label_visibility="collapsed",
    )
    picture = None if mode == "Batch" else choose_picture()
    choices = choose_service()
    if choices is None:
        return
    if mode == "Batch":
        show_batch(choices)
    elif picture is None:
        st.markdown("Drop an image into the side bar, or choose a sample there.")
    elif mode == "Two models":
        show_comparison(choices, picture)
    else:
        show_result(choices, picture)


main()

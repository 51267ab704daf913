"""The page before there is an image: what to do first."""

import streamlit as st

from service.ui.pictures import SAMPLES, sample
from service.ui.session import picture_url


def show_start() -> None:
    """Say how to begin, with the samples a click away."""
    st.markdown(
        "Count and outline the nuclei of an H&E image: drop it into the side bar, or choose a"
        " sample. It is sent to your laboratory's service alone, and the app forgets it"
        " when you close this tab."
    )
    for title, column in zip(SAMPLES, st.columns([1, 1, 1]), strict=False):
        with column:
            picture = sample(title)
            # Within the page: Streamlit drops files that a run did not show, and the browser may
            # still ask for them.
            st.image(picture_url(picture.content) or picture.content, width=220, alt=title)
            st.button(title, key=f"begin {title}", on_click=_choose, args=(title,))
            st.caption(picture.source)


def _choose(title: str) -> None:
    st.session_state["sample"] = title

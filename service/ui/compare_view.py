"""Two models on the same image, side by side."""

import streamlit as st

from service.ui.client import ServiceError
from service.ui.drawing import viewer_data
from service.ui.pictures import Picture
from service.ui.result_view import show_figures, show_quality
from service.ui.session import Choices, answer_with_nuclei, map_over_image, picture_url, show_error
from service.ui.viewer import show_viewer


def show_comparison(choices: Choices, picture: Picture) -> None:
    """Let the user choose the second model, and show both with the thresholds of the side bar."""
    if len(choices.models) == 1:
        st.info(
            "This service has one model loaded. Put another into its models folder to compare:"
            " docs/model-contract.md says how."
        )
        return
    others = [name for name in choices.models if name != choices.model]
    second = st.selectbox(
        "Second model",
        others,
        key="second model",
        help="The first one is that of the side bar.",
        width=320,
    )
    counts = []
    for place, (model, column) in enumerate(
        zip((choices.model, second), st.columns(2, gap="medium"), strict=True)
    ):
        with column:
            try:
                answer, _ = answer_with_nuclei(choices, picture, model=model)
            except ServiceError as error:
                show_error(error, again=f"try again {place}")
                continue
            data = viewer_data(
                answer,
                picture_url(picture.content),
                choices.style,
                map_png=map_over_image(choices, picture, model=model),
            )
            show_viewer(data, key=f"viewer {place}")
            show_figures(answer)
            with st.expander("Quality"):
                show_quality(answer)
            counts.append(answer["count"])
    if len(counts) == 2:
        st.markdown(f"Difference of the counts (second less first): **{counts[1] - counts[0]:+,}**")

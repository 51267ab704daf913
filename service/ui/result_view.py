"""One image: the picture, the figures, the nuclei, the quality, the files, the review."""

import html

import streamlit as st

from service.ui import words
from service.ui.case import case_text
from service.ui.client import ServiceError
from service.ui.download_view import show_downloads
from service.ui.drawing import Answer, area_histogram, area_key, nuclei_table, viewer_data
from service.ui.edit_view import (
    KEPT_RECEIPTS,
    are_unfiled,
    edits_of,
    show_edits,
    take_edit,
    taken_edits,
)
from service.ui.pictures import Picture
from service.ui.review_view import show_review
from service.ui.session import (
    Choices,
    answer_with_nuclei,
    map_over_image,
    picture_url,
    show_error,
)
from service.ui.viewer import show_viewer


def show_result(choices: Choices, picture: Picture) -> None:
    """Segment the picture and show all that came of it."""
    try:
        answer, content = answer_with_nuclei(choices, picture, model=choices.model)
    except ServiceError as error:
        show_error(error, again="try image again")
        return
    if st.session_state.get("shown result") != answer["id"]:
        # Numbers mean other nuclei now.
        st.session_state["shown result"] = answer["id"]
        _mark(None)
    left, right = st.container(key="result").columns([5, 4], gap="medium")
    with left:
        _show_picture(choices, picture, answer)
    with right:
        show_figures(answer)
        nuclei, quality, files, review = st.tabs(["Nuclei", "Quality", "Download", "Review"])
        with nuclei:
            _show_nuclei(answer)
        with quality:
            show_quality(answer)
        with files:
            show_downloads(choices, picture, answer, content)
        with review:
            show_review(choices, answer)


def show_figures(answer: Answer) -> None:
    """Show count, density and median area, each with what it rests on."""
    count, density, area = st.columns(3)
    count.metric("Nuclei", f"{answer['count']:,}")
    density.metric("Density", words.density_text(answer))
    area.metric("Median area", words.area_text(answer))
    notes = (
        f"Count interval: {words.interval_text(answer)}",
        f"Resolution: {words.resolution_text(answer)}.",
        words.origin_text(answer),
        f"Case: {case_text(answer['identity']) or 'none'}.",
    )
    st.html(f'<p class="figure-note">{"<br>".join(html.escape(note) for note in notes)}</p>')
    if answer["quality"]["review_recommended"]:
        st.warning(
            "Look before you use this count: see the tab “Quality”.", icon=":material/warning:"
        )


def show_quality(answer: Answer) -> None:
    """Show every flag in plain words; those that fired first, with what to do."""
    for state, text, remedy in words.flag_lines(answer["quality"]):
        if state == "fired":
            st.warning(f"**{text}**\n\nWhat to do: {remedy}", icon=":material/warning:")
        elif state == "fine":
            st.markdown(f":material/check_circle: {text}")
        else:
            st.markdown(f":material/help: {text}")


def _show_picture(choices: Choices, picture: Picture, answer: Answer) -> None:
    shown = picture_url(picture.content)
    if shown is None:
        st.info("This file's pixels cannot be shown here; the outlines are right all the same.")
    data = viewer_data(
        answer,
        shown,
        choices.style,
        selected=st.session_state.get("nucleus"),
        map_png=map_over_image(choices, picture, model=choices.model),
        edits=edits_of(answer),
    )
    show_viewer(
        {
            **data,
            "result": answer["id"],
            "taken": taken_edits()[-KEPT_RECEIPTS:],
            "unfiled": are_unfiled(answer),
        },
        key="viewer",
        on_nucleus=_take_click,
        on_edit=lambda: take_edit(answer, "viewer"),
    )
    show_edits(answer)
    if choices.map_kind is not None:
        st.caption(words.MAP_LEGENDS[choices.map_kind])
    if picture.source:
        st.caption(f"Sample: {picture.source}.")


def _take_click() -> None:
    clicked = st.session_state["viewer"].get("nucleus")
    if clicked is not None:
        _mark(int(clicked))


def _mark(number: int | None) -> None:
    """Mark a nucleus in the picture, in the number's field, and as the first row of the table."""
    st.session_state["nucleus"] = st.session_state["first row"] = number
    st.session_state["table"] = {"selection": {"rows": [] if number is None else [0]}}


def _show_nuclei(answer: Answer) -> None:
    table = nuclei_table(answer, first=st.session_state.get("first row"))
    numbers = table["Nucleus"]
    if not numbers:
        st.info("No nucleus was found. A lower threshold or least area may show some.")
        return

    def take_row() -> None:
        rows = st.session_state["table"]["selection"]["rows"]
        st.session_state["nucleus"] = numbers[rows[0]] if rows else None

    if st.session_state.get("nucleus") not in numbers:
        _mark(None)
    st.number_input(
        "Mark nucleus number",
        min(numbers),
        max(numbers),
        value=None,
        step=1,
        key="nucleus",
        on_change=lambda: _mark(st.session_state["nucleus"]),
        placeholder="or select a row, or click in the picture",
    )
    st.dataframe(
        table,
        height=178,
        hide_index=True,
        key="table",
        on_select=take_row,
        selection_mode="single-row",
        alt="Table of nuclei, the largest first",
    )
    _show_histogram(answer)


def _show_histogram(answer: Answer) -> None:
    histogram = area_histogram(answer)
    title = f"Area ({area_key(answer)[1]})"
    st.vega_lite_chart(
        histogram,
        {
            "mark": {"type": "bar", "color": "#1d4ed8"},
            "encoding": {
                "x": {"field": "from", "bin": "binned", "type": "quantitative", "title": title},
                "x2": {"field": "to"},
                "y": {"field": "nuclei", "type": "quantitative", "title": "Nuclei"},
                "tooltip": [{"field": name} for name in ("from", "to", "nuclei")],
            },
        },
        height=155,
        key="histogram",
    )

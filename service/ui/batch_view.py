"""Many files at once: progress, a table, a ZIP."""

from typing import Any

import streamlit as st

from service.ui.batch import Batch, to_zip
from service.ui.case import case_text
from service.ui.pictures import Picture
from service.ui.session import Choices
from service.ui.sidebar import IMAGE_TYPES


def show_batch(choices: Choices) -> None:
    """Take files, segment them with the choices of the side bar, and hand the results out.

    Any action of the user's ends a run of the script in the middle, so the batch is kept in the
    session, and each run goes on with it where the one before was ended.
    """
    dropped = st.file_uploader(
        "Images (H&E)", IMAGE_TYPES, accept_multiple_files=True, key="batch files"
    )
    st.caption(
        "Model, thresholds, resolution and case are those of the side bar, for all files."
        f" Case: {case_text(choices.identity) or 'none'}."
    )
    parameters = {**choices.parameters, "model": choices.model}
    made_of = ([item.file_id for item in dropped], parameters, choices.identity)
    batch: Batch | None = st.session_state.get("batch")
    at_work = batch is not None and bool(batch.waiting)
    clicked = st.button(
        "Segment all", type="primary", disabled=not dropped or at_work, key="run batch"
    )
    # The second click of two is for the batch that the first one began.
    if clicked and not at_work:
        pictures = [Picture(item.name, item.getvalue()) for item in dropped]
        batch = Batch(choices.client, pictures, parameters, choices.identity, made_of)
        st.session_state["batch"] = batch
    if batch is None:
        return
    if batch.waiting:
        _go_on(batch)
        st.rerun()
    _show_results(batch, is_of_now=batch.made_of == made_of)


def shown_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the summary as people read it; the ZIP has it as programs do."""
    recommended = row["review_recommended"]
    return {
        "File": row["file"],
        "Nuclei": row["count"],
        "From": row["count_lower"],
        "To": row["count_upper"],
        "Density (/mm²)": row["density_per_mm2"],
        "Review recommended": None if recommended is None else "yes" if recommended else "no",
        "Error": row["error"] or "",
        "Id": row["id"],
    }


def progress_text(batch: Batch) -> str:
    """Return how many images are done, and the last of them."""
    total = len(batch.items) + len(batch.waiting)
    return f"{len(batch.items)} of {total}: {batch.items[-1].name}"


def _go_on(batch: Batch) -> None:
    total = len(batch.items) + len(batch.waiting)
    bar = st.progress(len(batch.items) / total, "Segmenting ...")
    st.button("Stop after this image", key="stop batch", on_click=batch.stop)
    while batch.waiting:
        batch.segment_next()
        bar.progress(min(1.0, len(batch.items) / total), progress_text(batch))


def _show_results(batch: Batch, *, is_of_now: bool) -> None:
    rows = [item.row() for item in batch.items]
    failed = sum(row["error"] is not None for row in rows)
    st.markdown(
        f"**{len(rows) - failed}** of {len(rows) + batch.left_out} images segmented."
        f" Model {batch.parameters['model']}; case: {case_text(batch.identity) or 'none'}."
    )
    if not is_of_now:
        st.info("These results are of the files and choices before; “Segment all” makes new ones.")
    st.dataframe(
        [shown_row(row) for row in rows],
        hide_index=True,
        alt="Results of the batch",
        column_config={
            "Density (/mm²)": st.column_config.NumberColumn(format="%.0f"),
        },
    )
    batch.archive = batch.archive or to_zip(batch.items)
    st.download_button(
        f"Download all (ZIP, {len(batch.archive) / 1000:,.0f} kB)",
        batch.archive,
        file_name="karyon-batch.zip",
        mime="application/zip",
        key="batch zip",
        on_click="ignore",
    )

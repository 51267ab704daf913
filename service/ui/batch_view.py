"""Many files at once: progress, a table, a ZIP."""

import streamlit as st

from service.ui.batch import BatchItem, segment_all, to_zip
from service.ui.case import case_text
from service.ui.pictures import Picture
from service.ui.session import Choices
from service.ui.sidebar import IMAGE_TYPES


def show_batch(choices: Choices) -> None:
    """Take files, segment them with the choices of the side bar, and hand the results out."""
    dropped = st.file_uploader(
        "Images (H&E)", IMAGE_TYPES, accept_multiple_files=True, key="batch files"
    )
    st.caption(
        "Model, thresholds, resolution and case are those of the side bar, for all files."
        f" Case: {case_text(choices.identity) or 'none'}."
    )
    if st.button("Segment all", type="primary", disabled=not dropped, key="run batch"):
        pictures = [Picture(item.name, item.getvalue()) for item in dropped]
        bar = st.progress(0.0, "Segmenting ...")

        def tell(done: int, item: BatchItem) -> None:
            bar.progress(done / len(pictures), f"{done} of {len(pictures)}: {item.name}")

        parameters = {**choices.parameters, "model": choices.model}
        items = segment_all(choices.client, pictures, parameters, choices.identity, tell)
        st.session_state["batch"] = ([item.row() for item in items], to_zip(items))
    if "batch" not in st.session_state:
        return
    rows, archive = st.session_state["batch"]
    failed = sum(row["error"] is not None for row in rows)
    st.markdown(f"**{len(rows) - failed}** of {len(rows)} images segmented.")
    st.dataframe(rows, hide_index=True, alt="Results of the batch")
    st.download_button(
        f"Download all (ZIP, {len(archive) / 1000:,.0f} kB)",
        archive,
        file_name="karyon-batch.zip",
        mime="application/zip",
        key="batch zip",
        on_click="ignore",
    )

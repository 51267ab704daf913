"""Files to take away, in every format that the service speaks."""

from pathlib import PurePath
from typing import Final

import streamlit as st

from service.ui.client import ServiceError
from service.ui.drawing import Answer
from service.ui.pictures import Picture
from service.ui.session import Choices, segmented, show_error

FORMATS: Final[dict[str, tuple[dict[str, str], str, str]]] = {
    "JSON: all figures and nuclei, signed": ({}, "json", "application/json"),
    "PNG: mask, black and white": ({"format": "png", "mask": "binary"}, "mask.png", "image/png"),
    "PNG: numbered nuclei, 16 bit": (
        {"format": "png", "mask": "labels"},
        "labels.png",
        "image/png",
    ),
    "PNG: image with outlines": ({"format": "png", "mask": "overlay"}, "overlay.png", "image/png"),
    "PNG: probability": (
        {"format": "png", "mask": "probability"},
        "probability.png",
        "image/png",
    ),
    "PNG: distance to the edge": (
        {"format": "png", "mask": "distance"},
        "distance.png",
        "image/png",
    ),
    "GeoJSON: outlines for QuPath": ({"format": "geojson"}, "geojson", "application/geo+json"),
    "CSV: table of nuclei": ({"format": "csv"}, "csv", "text/csv"),
    "COCO: data set of one image": ({"format": "coco"}, "coco.json", "application/json"),
    "FHIR: R4 bundle": ({"format": "fhir"}, "fhir.json", "application/fhir+json"),
    "HL7: version 2.5.1 message": ({"format": "hl7"}, "hl7", "application/hl7-v2"),
}
"""Title to query parameters, ending of the file name, and media type."""


def show_downloads(choices: Choices, picture: Picture, answer: Answer, content: bytes) -> None:
    """Offer the answer on the screen as JSON, and the same segmentation in every other format."""
    made = [
        title
        for title, (asked, _, _) in FORMATS.items()
        if asked.get("mask") != "distance" or "distance" in choices.maps
    ]
    title = st.selectbox("Format", made, key="format")
    parameters, ending, media_type = FORMATS[title]
    if parameters:
        st.caption(
            "The service makes this file as a result of its own, with an id of its own;"
            f" the JSON is result `{answer['id']}` as shown."
        )
        try:
            content = segmented(choices, picture, model=choices.model, **parameters)
        except ServiceError as error:
            show_error(error, again="try download again")
            return
    file_name = f"{PurePath(picture.name).stem}.{ending}"
    st.download_button(
        f"Download {file_name} ({len(content) / 1000:,.0f} kB)",
        content,
        file_name=file_name,
        mime=media_type,
        key="download",
        on_click="ignore",
    )

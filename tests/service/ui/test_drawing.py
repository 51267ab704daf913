"""What the viewer draws, the table shows and the histogram counts."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from service.ui import words
from service.ui.drawing import OutlineStyle, area_histogram, nuclei_table, viewer_data
from service.ui.pictures import GREATEST_SHOWN_PX, SAMPLES, sample, to_data_url


@pytest.fixture
def answer() -> dict[str, Any]:
    nuclei = [
        {
            "id": number,
            "centroid_px": [5.0, 6.0],
            "contour_px": [[1, 2], [3, 4], [5, 1]],
            "area_px": area,
            "area_um2": area / 16,
            "mean_probability": 0.9,
        }
        for number, area in enumerate((100, 400, 160), start=1)
    ]
    return {
        "count": 3,
        "image": {"sha256": "0", "width": 64, "height": 32, "mpp": 0.25, "mpp_source": "parameter"},
        "nuclei": nuclei,
        "count_interval": {"lower": 2, "upper": 4, "level": 0.9, "method": "drawn"},
    }


def test_outlines_go_through_the_middles_of_pixels(answer: dict[str, Any]) -> None:
    data = viewer_data(answer, None, OutlineStyle(fill=0.3), selected=2)
    assert data["nuclei"][0] == [1, "1.5,2.5 3.5,4.5 5.5,1.5"]
    assert data["style"]["fill"] == 0.3
    assert data["selected"] == 2
    assert data["map"] is None
    assert viewer_data(answer, None, OutlineStyle(), map_png=b"ABC")["map"].endswith("base64,QUJD")


def test_the_table_begins_with_the_largest(answer: dict[str, Any]) -> None:
    table = nuclei_table(answer)
    assert table["Nucleus"] == [2, 3, 1]
    assert nuclei_table(answer, first=1)["Nucleus"] == [1, 2, 3]
    assert table["Area (µm²)"] == [25.0, 10.0, 6.2]
    answer["image"]["mpp_source"] = "assumed_native"
    assert nuclei_table(answer)["Area (px)"] == [400, 160, 100]


def test_the_histogram_holds_every_nucleus_once(answer: dict[str, Any]) -> None:
    bins = area_histogram(answer)
    assert sum(row["nuclei"] for row in bins) == 3
    for nucleus in answer["nuclei"]:
        assert any(row["from"] <= nucleus["area_um2"] < row["to"] for row in bins)
    assert area_histogram({**answer, "nuclei": []}) == []


def test_a_picture_is_shown_upright_small_and_on_white() -> None:
    buffer = io.BytesIO()
    turned = Image.new("RGBA", (3000, 300), (0, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(buffer, "PNG", exif=exif)
    url = to_data_url(buffer.getvalue())
    assert url is not None
    shown = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert shown.size == (round(GREATEST_SHOWN_PX / 10), GREATEST_SHOWN_PX)
    assert shown.getpixel((5, 5)) == (255, 255, 255)
    assert to_data_url(b"no image") is None


def test_samples_are_there_with_their_licence() -> None:
    for title in SAMPLES:
        picture = sample(title)
        assert "CC" in picture.source
        assert to_data_url(picture.content) is not None


def test_the_interval_in_words(answer: dict[str, Any]) -> None:
    assert words.interval_text(answer).startswith("2 to 4 in 90%")
    assert "none stated" in words.interval_text({**answer, "count_interval": None})


def test_flags_that_fired_come_first_with_a_remedy() -> None:
    flag = {"message": "m", "assessed": True, "fired": False}
    flags = [
        {**flag, "name": "blur"},
        {**flag, "name": "stain_shift", "fired": True},
        {**flag, "name": "merged_nuclei", "assessed": False},
    ]
    lines = words.flag_lines({"flags": flags})
    assert [state for state, _, _ in lines] == ["fired", "unknown", "fine"]
    assert lines[0][2]

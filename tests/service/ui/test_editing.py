"""Nuclei deleted and drawn: the labels that a review files."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.ui.editing import EditError, Edits, drawn_points, edited_labels, read_outline

SQUARE = ((10.0, 10.0), (14.5, 10.0), (14.5, 14.5), (10.0, 14.5))


def to_png(labels: NDArray[np.uint16]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG")
    return buffer.getvalue()


def from_png(content: bytes) -> NDArray[np.int32]:
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.mode.startswith("I"), "16 bit"
        return np.array(opened).astype(np.int32)


@pytest.fixture
def labels() -> NDArray[np.uint16]:
    """Two nuclei; the second one's number needs more than 8 bits."""
    drawn = np.zeros((20, 30), np.uint16)
    drawn[2:5, 2:5] = 1
    drawn[8:12, 8:12] = 300
    return drawn


def test_a_deleted_nucleus_is_gone_and_can_be_taken_back(labels: NDArray[np.uint16]) -> None:
    edits = Edits().toggle(300)
    made, count = edited_labels(to_png(labels), edits)
    assert count == 1
    assert set(np.unique(from_png(made))) == {0, 1}
    back = edits.toggle(300)
    assert not back
    made, count = edited_labels(to_png(labels), back)
    assert count == 2
    assert (from_png(made) == labels).all()


def test_a_drawn_nucleus_gets_the_pixels_that_nobody_has(labels: NDArray[np.uint16]) -> None:
    made, count = edited_labels(to_png(labels), Edits().draw(SQUARE))
    assert count == 3
    now = from_png(made)
    assert (now[8:12, 8:12] == 300).all(), "the old one keeps its own"
    assert (now == 301).sum() == 5 * 5 - 2 * 2
    assert (now[14, 10:15] == 301).all()


def test_what_lies_within_another_is_refused_until_that_one_goes(
    labels: NDArray[np.uint16],
) -> None:
    inside = Edits().draw(((9.0, 9.0), (10.9, 9.0), (10.9, 10.9)))
    with pytest.raises(EditError, match="delete those first"):
        edited_labels(to_png(labels), inside)
    assert edited_labels(to_png(labels), inside.toggle(300))[1] == 2


def test_a_drawn_nucleus_is_deleted_for_good() -> None:
    other = ((1.0, 1.0), (2.0, 1.0), (2.0, 2.0))
    edits = Edits().draw(SQUARE).draw(other)
    assert edits.erase(drawn_points(SQUARE)).drawn == (other,)
    assert edits.erase(drawn_points(other)).drawn == (SQUARE,)
    assert edits.erase("9.00,9.00") == edits


def test_outlines_end_at_the_border_and_need_three_corners() -> None:
    outline = read_outline([[-5, 3], [500, 3], [7, 99]], 30, 20)
    assert all(0 <= x < 30 and 0 <= y < 20 for x, y in outline)
    for corners in ([[1, 1], [2, 2]], [[1, 1]] * 5000):
        with pytest.raises(EditError, match="corners"):
            read_outline(corners, 30, 20)

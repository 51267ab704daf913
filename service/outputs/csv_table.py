"""The nuclei as a table: CSV as RFC 4180 says, one row a nucleus, units in the header."""

import csv
import io
import re
from collections.abc import Sequence

from service.outputs.identity import NO_IDENTITY, ResultIdentity
from service.segmentation.measurements import Nucleus

COLUMNS = (
    "result_id", "accession", "specimen_id", "order_id", "nucleus_id", "centroid_x_px",
    "centroid_y_px", "left_px", "top_px", "width_px", "height_px", "area_px", "area_um2",
    "mean_probability",
)  # fmt: skip

# What a spreadsheet program runs as a formula when a cell begins with it (OWASP, CSV injection).
_FORMULA = re.compile(r"^[=+\-@\t\r\n]")


def safe_text(text: str) -> str:
    """Return a text that no spreadsheet program takes for a formula: an apostrophe goes first."""
    return f"'{text}" if _FORMULA.match(text) else text


def build_csv(
    nuclei: Sequence[Nucleus],
    *,
    result_id: str,
    identity: ResultIdentity = NO_IDENTITY,
    mpp: float | None = None,
) -> bytes:
    """Write the table.

    Args:
        nuclei: The nuclei, in pixels of the image sent; origin top-left.
        result_id: Identifier of the result, in every row.
        identity: The laboratory's identifiers, in every row.
        mpp: Micrometres a pixel; None leaves `area_um2` empty.

    Returns:
        UTF-8 with CRLF line ends; the header alone where there is no nucleus.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    texts = [
        safe_text(text or "")
        for text in (result_id, identity.accession, identity.specimen_id, identity.order_id)
    ]
    for nucleus in nuclei:
        area_um2 = "" if mpp is None else f"{nucleus.area_px * mpp * mpp:.4f}"
        x, y = nucleus.centroid_px
        writer.writerow(
            [
                *texts,
                nucleus.id,
                f"{x:.3f}",
                f"{y:.3f}",
                *nucleus.bounding_box_px,
                nucleus.area_px,
                area_um2,
                f"{nucleus.mean_probability:.4f}",
            ]
        )
    return table.getvalue().encode("utf-8")

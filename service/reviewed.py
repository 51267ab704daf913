"""`python -m service export-reviewed`: reviewed results as a folder that `training` reads.

```
 DIR/images/case0001_1.png    the image, RGB as the model saw it
 DIR/labels/case0001_1.png    16 bit: 0 background, 1..n the nuclei that the reviewer stood for
```
`case0001` stands for an accession (a result without one is a case of its own): `training` splits by
the part before the last number, and crops of one patient must not be on both sides. The numbers
tell nothing of the accession.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from sqlalchemy import Connection, select

from service.images.decode import ImageLimits, decode_image
from service.records.audit import Transaction
from service.records.schema import ResultImageRow, ResultRow, ResultVersionRow


@dataclass(frozen=True, slots=True)
class Export:
    """What was exported.

    Attributes:
        written: Identifiers of the results, in the order of their files.
        without_image: Reviewed results whose image is not kept.
        without_labels: Results that were corrected by a count alone.
    """

    written: list[str]
    without_image: int
    without_labels: int


def export_reviewed(connection: Connection, folder: Path, limits: ImageLimits) -> Export:
    """Write the final and corrected results whose nuclei are known.

    Args:
        connection: To read with.
        folder: New or empty; `images/` and `labels/` are made in it.
        limits: Bounds on the images.

    Returns:
        What was written and what was left out.

    Raises:
        FileExistsError: The folder holds something.
        OSError: A file cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; export into a new folder")
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    reviewed = connection.execute(
        select(
            ResultRow.id,
            ResultRow.accession,
            ResultVersionRow.decision,
            ResultVersionRow.labels_png.label("drawn"),
        )
        .join(
            ResultVersionRow,
            (ResultVersionRow.result_id == ResultRow.id)
            & (ResultVersionRow.version == ResultRow.version),
        )
        .where(ResultRow.status.in_(("final", "corrected")))
        .order_by(ResultRow.sequence)
    )
    crops: dict[str, int] = {}
    cases: dict[str, int] = {}
    written: list[str] = []
    without_image = without_labels = 0
    for result_id, accession, decision, drawn in reviewed:
        kept = connection.execute(
            select(ResultImageRow.image, ResultImageRow.labels_png).where(
                ResultImageRow.result_id == result_id
            )
        ).one_or_none()
        if kept is None:
            without_image += 1
            continue
        # Who accepted stood for the model's nuclei; who gave another number stood for none.
        labels_png = drawn if decision == "edit" else kept.labels_png
        if labels_png is None:
            without_labels += 1
            continue
        case = accession or result_id
        number = cases.setdefault(case, len(cases) + 1)
        crops[case] = crops.get(case, 0) + 1
        name = f"case{number:04d}_{crops[case]}.png"
        pixels = decode_image(kept.image, limits).pixels
        _, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))
        (folder / "images" / name).write_bytes(encoded.tobytes())
        (folder / "labels" / name).write_bytes(labels_png)
        written.append(result_id)
    return Export(written, without_image, without_labels)


def audit_export(transaction: Transaction, export: Export, *, actor: str) -> None:
    """Tell the audit trail which results left the service as training data."""
    transaction.audit(
        "reviewed.exported", actor=actor, subject="results", details={"results": export.written}
    )

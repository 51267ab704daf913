"""`python -m service segment`: image files in, result files out, no server."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from service.api.answer import make_result, mask_png, result_document, to_json
from service.api.parameters import MaskKind, SegmentParameters
from service.errors import InvalidParameterError, UnreadableImageError
from service.images.decode import ImageLimits
from service.segmenter import Segmenter

WRITTEN_MASKS: tuple[MaskKind, ...] = ("binary", "labels", "overlay")
_MASK_SUFFIX: dict[MaskKind, str] = {"binary": "mask", "labels": "labels", "overlay": "overlay"}


def check_stems(paths: Sequence[Path]) -> None:
    """Refuse images whose results would overwrite each other.

    Raises:
        InvalidParameterError: Two images have the same stem.
    """
    repeated = sorted(stem for stem, n in Counter(path.stem for path in paths).items() if n > 1)
    if repeated:
        raise InvalidParameterError(
            f"Several images are named {', '.join(repeated)}: their results would overwrite each"
            " other. Segment them into different folders.",
            parameter="IMAGE",
        )


def check_results(paths: Sequence[Path], out_dir: Path) -> None:
    """Refuse to write a result over one of the images, for example `a_mask.png` beside `a.png`.

    Raises:
        InvalidParameterError: A result would take the place of an image.
    """
    images = {path.resolve() for path in paths}
    for path in paths:
        for kind in WRITTEN_MASKS:
            result = _mask_path(path, out_dir, kind)
            if result.resolve() in images:
                raise InvalidParameterError(
                    f"{result} is an image to segment, and would be overwritten by a result of"
                    f" {path.name}. Write into another folder.",
                    parameter="--out",
                )


def _mask_path(path: Path, out_dir: Path, kind: MaskKind) -> Path:
    return out_dir / f"{path.stem}_{_MASK_SUFFIX[kind]}.png"


def segment_file(
    path: Path,
    out_dir: Path,
    segmenter: Segmenter,
    parameters: SegmentParameters,
    limits: ImageLimits,
) -> int:
    """Segment one file and write `<stem>.json` and `<stem>_{mask,labels,overlay}.png`.

    The JSON is the answer of `POST /segment?include=nuclei`, and is written last: where it stands,
    the masks stand too.

    Args:
        path: The image file.
        out_dir: An existing folder.
        segmenter: The model to use.
        parameters: Thresholds and resolution.
        limits: Bounds on the image.

    Returns:
        The number of nuclei.

    Raises:
        KaryonError: The image is refused.
        OSError: A result cannot be written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(f"Cannot be read: {error.strerror}.") from error
    result = make_result(data, segmenter, parameters, limits)
    for kind in WRITTEN_MASKS:
        _mask_path(path, out_dir, kind).write_bytes(mask_png(result, kind))
    document = result_document(result, include=["nuclei"])
    (out_dir / f"{path.stem}.json").write_bytes(to_json(document) + b"\n")
    return result.segmentation.count

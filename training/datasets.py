"""Reading annotated images from disk, and splitting them by patient or organ.

Two layouts are read:

```
simple                          TNBC as published (Naylor et al., Zenodo 1175282)
  images/<stem>.png|jpg|tif       Slide_NN/NN_k.png
  labels/<stem>.png   instances   GT_NN/NN_k.png      binary
  masks/<stem>.png    or binary
```
"""

import fnmatch
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
DEFAULT_GROUP_PATTERN = r"^(.*?)[_-]?\d+$"
"""The stem without its last number: `tnbc_p07_2` belongs to `tnbc_p07`."""

_UNREADABLE = (
    "not an image that OpenCV reads, or cut short; export it again as PNG or TIFF, or remove it"
)

_LOSSY_SUFFIXES = (".jpg", ".jpeg")
_LEAST_FULL_BITS = 15
"""The service takes images whose greatest value needs 14 bits or fewer for those of a camera."""
_MOST_PIECES = 3
"""A real nucleus may be cut into so many pieces by another one or by the image's border."""

Kind = Literal["instances", "binary"]


class DatasetError(ValueError):
    """A folder of annotated images that cannot be used; the message names fault and remedy."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its annotation, still on disk.

    Attributes:
        stem: file name without its suffix, unique in its data set.
        group: what must stay together in a split: the patient, or the organ's slide.
        image_path: RGB image.
        label_path: instance labels or binary mask of the same size.
        kind: "instances" (0 background, 1..n nuclei) or "binary" (0 background, else nucleus).
    """

    stem: str
    group: str
    image_path: Path
    label_path: Path
    kind: Kind

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Read both files.

        Returns:
            RGB (H, W, 3) uint8, and labels (H, W) int32, 0 background, 1..n nuclei. A binary mask
            is separated into connected components (8-neighbourhood), all that it allows.

        Raises:
            DatasetError: when a file is unreadable or is no image that the service would see alike,
                the sizes differ, labels are in colour, or the values are not those of its kind of
                annotation.
        """
        pixels = _read_pixels(self.image_path)
        raw: Any = cv2.imread(str(self.label_path), cv2.IMREAD_UNCHANGED)
        if raw is None:
            raise DatasetError(f"{self.label_path}: {_UNREADABLE}")
        if raw.ndim == 3:
            # Published masks are often saved as RGB or RGBA; alpha says nothing about nuclei.
            colours = raw[..., :3]
            raw = colours.max(axis=2)
            if self.kind == "instances" and (colours != raw[..., None]).any():
                raise DatasetError(
                    f"{self.label_path}: an annotation in colour; save labels as a grey image of "
                    "8 or 16 bits with one number a nucleus and 0 for background"
                )
        if raw.shape != pixels.shape[:2]:
            raise DatasetError(
                f"{self.stem}: image is {pixels.shape[1]}x{pixels.shape[0]} px but its annotation "
                f"{self.label_path.name} is {raw.shape[1]}x{raw.shape[0]}; export both at one size"
            )
        if self.kind == "instances":
            _check_labels(self.label_path, raw)
            return pixels, raw.astype(np.int32)
        _check_mask(self.label_path, raw)
        _, components = cv2.connectedComponents((raw > 0).astype(np.uint8), connectivity=8)
        return pixels, components.astype(np.int32)


def _read_pixels(path: Path) -> NDArray[np.uint8]:
    """Read an image as RGB (H, W, 3) uint8.

    The service scales odd depths, puts transparency on white and refuses what is cut short. OpenCV
    does none of that, so such files are refused: a model must not learn from, nor be measured on,
    other pixels than it is shown.
    """
    data = path.read_bytes()
    encoded = np.frombuffer(data, np.uint8)
    # Not imread: it fills the missing rest of a JPEG that was cut short with grey.
    bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise DatasetError(f"{path}: {_UNREADABLE}")
    stored: Any = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if stored.dtype == np.uint16:
        bits = int(stored[..., :3].max()).bit_length()
        if 0 < bits < _LEAST_FULL_BITS:
            raise DatasetError(
                f"{path}: {bits} bits in 16, nearly black when read as 16; save it with 8 bits"
            )
    opaque = np.iinfo(stored.dtype).max
    if stored.ndim == 3 and stored.shape[2] == 4 and (stored[..., 3] < opaque).any():
        raise DatasetError(
            f"{path}: partly transparent; save it without transparency, on white as the service "
            "would show it"
        )
    return np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8)


def _check_labels(path: Path, raw: NDArray[np.integer]) -> None:
    """Refuse a binary mask where instance labels should be: it is one nucleus all over."""
    values = np.unique(raw)
    if values[values > 0].size == 1:
        pieces = cv2.connectedComponents((raw > 0).astype(np.uint8), connectivity=8)[0] - 1
        if pieces > _MOST_PIECES:
            raise DatasetError(
                f"{path}: one number ({values[-1]}) for {pieces} separate nuclei, so it is a "
                "binary mask; rename the folder labels/ to masks/, or give each nucleus its number"
            )


def _check_mask(path: Path, raw: NDArray[np.integer]) -> None:
    """Refuse what is not two values, one of them 0: labels in masks/, smoothed edges, classes."""
    values = np.unique(raw)
    if values.size > 2:
        raise DatasetError(
            f"{path}: {values.size} different values, and a mask has two, 0 and 255; if each "
            "nucleus has its number rename masks/ to labels/, else save it without smoothing"
        )
    if values.size == 2 and values[0] != 0:
        raise DatasetError(
            f"{path}: the values are {values[0]} and {values[1]}, and background must be 0; save "
            "0 for background and 255 for nuclei"
        )


def read_dataset(root: Path, *, group_pattern: str = DEFAULT_GROUP_PATTERN) -> list[Sample]:
    """List the samples of a folder in either layout, sorted by stem.

    Args:
        root: the folder.
        group_pattern: regular expression whose first group, matched on the stem, names the
            patient; a stem that does not match is a group of its own.

    Raises:
        DatasetError: no folder, no known layout, no images, an image without annotation, or a
            pattern that is no regular expression with a group.
    """
    pattern = _compile(group_pattern)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    if (root / "images").is_dir():
        return _read_simple(root, pattern)
    slides = sorted(path for path in root.glob("Slide_*") if path.is_dir())
    if slides:
        return _read_tnbc(slides)
    raise DatasetError(
        f"{root}: neither images/ with labels/ or masks/, nor Slide_NN/ with GT_NN/ is in it"
    )


def _compile(group_pattern: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(group_pattern)
    except re.error as error:
        raise DatasetError(
            f"group_pattern {group_pattern!r} is no regular expression ({error}); "
            f"the usual one is {DEFAULT_GROUP_PATTERN!r}"
        ) from error
    if not pattern.groups:
        raise DatasetError(
            f"group_pattern {group_pattern!r} has no part in round brackets, which names the "
            f"patient; the usual one is {DEFAULT_GROUP_PATTERN!r}"
        )
    return pattern


def _read_simple(root: Path, group_pattern: re.Pattern[str]) -> list[Sample]:
    kind: Kind = "instances" if (root / "labels").is_dir() else "binary"
    folder = root / ("labels" if kind == "instances" else "masks")
    if not folder.is_dir():
        raise DatasetError(
            f"{root}: images/ is there, but neither labels/ nor masks/; labels/ takes one number a "
            "nucleus, masks/ black and white"
        )
    annotations = _by_stem(folder)
    images = _by_stem(root / "images")
    if not images:
        raise DatasetError(
            f"{root / 'images'}: no image; put the images there as {', '.join(IMAGE_SUFFIXES)}"
        )
    _check_pairs(images, annotations, folder)
    samples = []
    for stem, path in images.items():
        match = group_pattern.match(stem)
        group = match.group(1) if match and match.group(1) else stem
        samples.append(Sample(stem, group, path, annotations[stem], kind))
    return samples


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
        if path.stem in found:
            raise DatasetError(
                f"{folder}: {found[path.stem].name} and {path.name} differ in their ending alone, "
                "and annotations are found by the name before it; remove or rename one"
            )
        found[path.stem] = path
    return found


def _check_pairs(images: Mapping[str, Path], annotations: Mapping[str, Path], folder: Path) -> None:
    """Refuse images and annotations that do not belong together one by one."""
    missing = [path.name for stem, path in images.items() if stem not in annotations]
    spare = [path.name for stem, path in annotations.items() if stem not in images]
    if missing:
        hint = f" ({spare[0]} has no image)" if spare else ""
        raise DatasetError(
            f"{folder}: no annotation for {len(missing)} of {len(images)} images, first "
            f"{missing[0]}{hint}; annotation and image share their stem"
        )
    if spare:
        raise DatasetError(
            f"{folder}: {len(spare)} annotations without an image, first {spare[0]}; put the image "
            "into images/ under the same stem, or remove the annotation"
        )
    lossy = [path.name for path in annotations.values() if path.suffix.lower() in _LOSSY_SUFFIXES]
    if lossy:
        raise DatasetError(
            f"{folder}: {lossy[0]} is a JPEG, whose compression changes the values at every edge; "
            "export annotations as PNG (a JPEG saved again as PNG keeps the damage)"
        )


def _read_tnbc(slides: Sequence[Path]) -> list[Sample]:
    samples = []
    for slide in slides:
        number = slide.name.removeprefix("Slide_")
        truth = slide.parent / f"GT_{number}"
        for path in sorted(slide.glob("*.png")):
            label = truth / path.name
            if not label.is_file():
                raise DatasetError(f"{truth}: no annotation for {slide.name}/{path.name}")
            samples.append(Sample(path.stem, f"tnbc_p{number}", path, label, "binary"))
    if not samples:
        raise DatasetError(f"{slides[0].parent}: the Slide_NN folders hold no PNG")
    return samples


def select_groups(samples: Sequence[Sample], patterns: Sequence[str]) -> list[Sample]:
    """Select samples whose group matches any shell pattern (`tnbc_p0[78]`, `*liver*`).

    Raises:
        DatasetError: when a pattern matches no group, so that a typing error cannot pass for an
            empty split.
    """
    groups = sorted({sample.group for sample in samples})
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(group, pattern) for group in groups):
            raise DatasetError(f"no group matches {pattern!r}; there are {', '.join(groups)}")
    return [s for s in samples if any(fnmatch.fnmatchcase(s.group, p) for p in patterns)]


def split_by_group(
    samples: Sequence[Sample], validation: Sequence[str]
) -> tuple[list[Sample], list[Sample]]:
    """Split into training and validation so that no patient is in both.

    Args:
        samples: all samples of one data set.
        validation: shell patterns of the groups to hold out; empty for none.

    Returns:
        Training samples and validation samples.

    Raises:
        DatasetError: when a pattern matches nothing, or nothing is left to train on.
    """
    held_out = {sample.group for sample in select_groups(samples, validation)}
    train = [sample for sample in samples if sample.group not in held_out]
    if not train:
        raise DatasetError(
            "every group is held out for validation and nothing is left to train on; hold out "
            f"fewer than {', '.join(sorted(held_out))}"
        )
    return train, [sample for sample in samples if sample.group in held_out]


def check_splits(
    train: Mapping[str, Sequence[Sample]], validation: Mapping[str, Sequence[Sample]]
) -> None:
    """Refuse data in which a patient or an image that is held out is trained on in another source.

    Args:
        train: training samples by source name.
        validation: validation samples by source name.

    Raises:
        DatasetError: when two sources share a patient, or an image, byte by byte, on both sides.
    """
    for held_name, held_samples in validation.items():
        patients = {sample.group for sample in held_samples}
        for name, samples in train.items():
            both = sorted(patients & {sample.group for sample in samples})
            if both:
                raise DatasetError(
                    f"patient {both[0]} is held out in {held_name} and trained on in {name}; hold "
                    "it out in both, or, if they are two patients, rename the files of one"
                )
    held_out = {
        hashlib.sha256(sample.image_path.read_bytes()).digest(): (name, sample)
        for name, samples in validation.items()
        for sample in samples
    }
    for name, samples in train.items():
        for sample in samples:
            digest = hashlib.sha256(sample.image_path.read_bytes()).digest()
            if digest in held_out:
                source, held = held_out[digest]
                raise DatasetError(
                    f"{held.image_path.name} is held out in {source} and trained on in {name} as "
                    f"{sample.image_path.name}; leave it out of one, or hold its patient out in "
                    "both, or the run's figures mean nothing"
                )


def dataset_digest(samples: Sequence[Sample]) -> str:
    """SHA-256 over names and contents of all files, so that a run says what it was trained on."""
    digest = hashlib.sha256()
    for sample in sorted(samples, key=lambda s: s.stem):
        for path in (sample.image_path, sample.label_path):
            digest.update(path.name.encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()

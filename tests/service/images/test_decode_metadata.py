"""Orientation, scale and colour profile by the tags of each format."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.images.decode import DecodedImage


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn as EXIF 2.32 draws it, by the position of the stored first row and column."""
    return {
        1: pixels,
        2: np.fliplr(pixels),
        3: np.rot90(pixels, 2),
        4: np.flipud(pixels),
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels.transpose(1, 0, 2), 2),
        8: np.rot90(pixels, 1),
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "tiff_lzw", "tiff_lzw_16", "jpeg"])
def test_orientation_is_applied(
    kind: str,
    orientation: int,
    samples_of_each_kind: dict[str, bytes],
    rgb: NDArray[np.uint8],
    encoders: Any,
) -> None:
    block = encoders.orientation(orientation)
    if kind == "png":
        data = encoders.png(rgb, colour_type=2, extra=((b"eXIf", block),))
    elif kind == "webp":
        chunk = b"EXIF" + struct.pack("<I", len(block)) + block
        size = (rgb.shape[1], rgb.shape[0])
        data = encoders.webp_extended(samples_of_each_kind["webp_lossless"], size, 8, chunk)
    elif kind == "jpeg":
        data = encoders.segment(samples_of_each_kind["jpeg"], 0xE1, b"Exif\0\0" + block)
    else:
        data = _with_tiff_orientation(samples_of_each_kind[kind], orientation)
    image = encoders.decode(data)
    expected = _turned(encoders.decode(samples_of_each_kind[kind]).pixels, orientation)
    if kind == "webp":
        expected = _turned(rgb, orientation)
    assert np.array_equal(image.pixels, expected)
    assert (f"orientation tag {orientation} applied" in image.notes) == (orientation != 1)


def _with_tiff_orientation(data: bytes, orientation: int) -> bytes:
    """Add tag 274 to a little-endian TIFF by writing its only directory anew at the end."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = [data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
    entries = [entry for entry in entries if entry[:2] != struct.pack("<H", 274)]
    entries.append(struct.pack("<HHIHH", 274, 3, 1, orientation, 0))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry))
    data += b"\0" * (len(data) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


def _jpeg_density(jpeg: bytes, unit: int, density: int) -> bytes:
    at = jpeg.index(b"JFIF\0") + 7
    return jpeg[:at] + struct.pack(">BHH", unit, density, density) + jpeg[at + 5 :]


def _scaled(kind: str, mpp: float, rgb: NDArray[np.uint8], encoders: Any) -> DecodedImage:
    """Decode an image whose tags tell a scale, in each way that a file can."""
    per_cm = 10_000 / mpp
    if kind == "tiff_cm":
        data = encoders.tiff(rgb, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")
    elif kind == "tiff_inch":
        data = encoders.tiff(rgb, resolution=(per_cm * 2.54, per_cm * 2.54), resolutionunit="INCH")
    elif kind == "png":
        body = struct.pack(">IIB", round(per_cm * 100), round(per_cm * 100), 1)
        data = encoders.png(rgb, colour_type=2, extra=((b"pHYs", body),))
    elif kind == "bmp":
        bmp = encoders.opencv(".bmp", rgb)
        data = bmp[:38] + struct.pack("<ii", *(round(per_cm * 100),) * 2) + bmp[46:]
    elif kind == "jpeg_cm":
        data = _jpeg_density(encoders.opencv(".jpg", rgb), 2, round(per_cm))
    elif kind == "jpeg_exif":
        rational = struct.pack("<II", round(per_cm), 1)
        tags = {282: (5, 1, rational), 283: (5, 1, rational), 296: (3, 1, struct.pack("<H", 3))}
        plain = _jpeg_density(encoders.opencv(".jpg", rgb), 1, 72)
        data = encoders.segment(plain, 0xE1, b"Exif\0\0" + encoders.exif(tags))
    elif kind == "aperio":
        data = encoders.tiff(rgb, description=f"Aperio Leica|AppMag = 40|MPP = {mpp}")
    elif kind == "ome":
        data = encoders.tiff(rgb, description=f'<OME><Pixels PhysicalSizeX="{mpp}"/></OME>')
    else:
        data = encoders.tiff(
            rgb, description="ImageJ=1.54\nunit=micron\n", resolution=(1 / mpp, 1 / mpp)
        )
    decoded: DecodedImage = encoders.decode(data)
    return decoded


WAYS = {
    "tiff_cm": "tiff_resolution",
    "tiff_inch": "tiff_resolution",
    "png": "png_physical_size",
    "bmp": "bmp_resolution",
    "jpeg_cm": "jpeg_density",
    "jpeg_exif": "exif_resolution",
    "aperio": "aperio_description",
    "ome": "ome_description",
    "imagej": "imagej_description",
}


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_scale_of_a_microscope_is_believed(
    kind: str, mpp: float, rgb: NDArray[np.uint8], encoders: Any
) -> None:
    image = _scaled(kind, mpp, rgb, encoders)
    assert image.mpp == pytest.approx(mpp, rel=1e-3)
    assert image.mpp_source == WAYS[kind]


@pytest.mark.parametrize("dots_per_inch", [72, 96, 150, 300, 600, 2400])
@pytest.mark.parametrize("kind", ["tiff_inch", "png", "bmp", "jpeg_cm", "jpeg_exif"])
def test_print_resolutions_are_no_scale(
    kind: str, dots_per_inch: int, rgb: NDArray[np.uint8], encoders: Any
) -> None:
    image = _scaled(kind, 25_400 / dots_per_inch, rgb, encoders)
    assert image.mpp is None
    assert image.mpp_source is None
    assert any("no microscope's scale" in note for note in image.notes)


def test_resolution_without_a_unit_is_no_scale(rgb: NDArray[np.uint8], encoders: Any) -> None:
    tiff = encoders.tiff(rgb, resolution=(101_600, 101_600), resolutionunit="NONE")
    aspect = struct.pack(">IIB", 4_000_000, 4_000_000, 0)
    png = encoders.png(rgb, colour_type=2, extra=((b"pHYs", aspect),))
    for data in (tiff, png):
        assert encoders.decode(data).mpp is None


def test_oblong_pixels_are_no_scale(rgb: NDArray[np.uint8], encoders: Any) -> None:
    image = encoders.decode(
        encoders.tiff(rgb, resolution=(40_000, 20_000), resolutionunit="CENTIMETER")
    )
    assert image.mpp is None
    assert "tiff_resolution ignored: pixels are not square" in image.notes


def test_oblong_pixels_of_ome_are_no_scale(rgb: NDArray[np.uint8], encoders: Any) -> None:
    sizes = 'PhysicalSizeX="0.25" PhysicalSizeY="0.5"'
    image = encoders.decode(encoders.tiff(rgb, description=f"<OME><Pixels {sizes}/></OME>"))
    assert image.mpp is None
    assert "ome_description ignored: pixels are not square" in image.notes


@pytest.mark.parametrize("unit", ["&#181;m", "&#xB5;m", "\u00b5m"])
def test_micrometres_of_ome_in_any_spelling(
    unit: str, rgb: NDArray[np.uint8], encoders: Any
) -> None:
    text = f'<OME><Pixels PhysicalSizeX="0.25" PhysicalSizeXUnit="{unit}"/></OME>'
    assert encoders.decode(encoders.tiff(rgb, description=text.encode())).mpp == 0.25


def test_a_described_scale_that_is_not_believed_is_noted(
    rgb: NDArray[np.uint8], encoders: Any
) -> None:
    image = encoders.decode(encoders.tiff(rgb, description="Aperio Leica|MPP = 25.0"))
    assert image.mpp is None
    assert "aperio_description of 25 um/px ignored: no microscope's scale" in image.notes


def test_print_resolution_of_png_does_not_hide_the_scale_of_exif(
    rgb: NDArray[np.uint8], encoders: Any
) -> None:
    """As with JPEG, whose editors write 72 dpi beside the scanner's EXIF all the same."""
    rational = struct.pack("<II", 20_000, 1)
    exif = encoders.exif(
        {282: (5, 1, rational), 283: (5, 1, rational), 296: (3, 1, struct.pack("<H", 3))}
    )
    print_size = (b"pHYs", struct.pack(">IIB", 2_835, 2_835, 1))
    image = encoders.decode(encoders.png(rgb, colour_type=2, extra=(print_size, (b"eXIf", exif))))
    assert (image.mpp, image.mpp_source) == (0.5, "exif_resolution")


@pytest.mark.parametrize("tag", [274, 296])
def test_a_describing_tag_of_an_odd_type_costs_no_image(
    tag: int, rgb: NDArray[np.uint8], encoders: Any
) -> None:
    """Signed where unsigned is asked for: what it says is not used, the pixels are sound."""
    data = encoders.tiff(
        rgb,
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
        extratags=[(274, "H", 1, 6, True)],
    )
    at = data.index(struct.pack("<HHI", tag, 3, 1))
    image = encoders.decode(data[: at + 2] + struct.pack("<H", 8) + data[at + 4 :])
    if tag == 274:
        assert np.array_equal(image.pixels, rgb)
    else:
        assert image.mpp is None


def _profile(name: bytes) -> bytes:
    description = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + b"\0"
    head = bytes(128) + struct.pack(">I", 1) + b"desc" + struct.pack(">II", 144, len(description))
    return head + description


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp"])
def test_foreign_profile_is_noted_and_srgb_is_not(
    kind: str, rgb: NDArray[np.uint8], samples_of_each_kind: dict[str, bytes], encoders: Any
) -> None:
    for name, expected in ((b"Scanner RGB 7", True), (b"sRGB IEC61966-2.1", False)):
        profile = _profile(name)
        if kind == "png":
            body = b"profile\0\0" + zlib.compress(profile)
            data = encoders.png(rgb, colour_type=2, extra=((b"iCCP", body),))
        elif kind == "jpeg":
            body = b"ICC_PROFILE\0\x01\x01" + profile
            data = encoders.segment(samples_of_each_kind["jpeg"], 0xE2, body)
        elif kind == "tiff":
            data = encoders.tiff(rgb, iccprofile=profile)
        else:
            stored = profile + b"\0" * (len(profile) % 2)
            chunk = b"ICCP" + struct.pack("<I", len(profile)) + stored
            size = (rgb.shape[1], rgb.shape[0])
            data = encoders.webp_extended(samples_of_each_kind["webp_lossless"], size, 0x20, chunk)
        noted = "ICC profile 'Scanner RGB 7' ignored, colours taken as stored"
        assert (noted in encoders.decode(data).notes) == expected

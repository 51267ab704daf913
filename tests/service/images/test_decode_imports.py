"""The decoder needs OpenCV and NumPy only."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
for blocked in ("imagecodecs", "PIL", "scipy", "tifffile"):
    sys.modules[blocked] = None
from pathlib import Path
from service.images.decode import ImageLimits, decode_image
image = decode_image(Path(sys.argv[1]).read_bytes(), ImageLimits())
print(*image.pixels.shape)
"""


def test_decodes_without_optional_codecs(test_data: Path, repository: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(test_data / "images" / "tnbc_p08_2.png")],
        capture_output=True,
        text=True,
        check=True,
        cwd=repository,
        timeout=60,
    )
    assert finished.stdout.split() == ["512", "512", "3"]
    assert finished.stderr == ""

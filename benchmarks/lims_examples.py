"""Makes the examples of docs/lims.md and of the OpenAPI document, with the embedded model.

    python -m benchmarks.lims_examples

The guide's image is 160x160 px of a TNBC tile (Naylor et al., IEEE TMI 2019, CC BY 4.0; in
tests/data), the document's the whole tile; run `python -m service openapi` again after it. The
signing key is made for the occasion and thrown away; its public half stays beside the guide's
examples, so that `python -m service verify` and `replay` can be tried on them.
"""

import re
import tempfile
from pathlib import Path

import cv2
import orjson

from service.api.answer import make_result, to_json
from service.api.negotiation import MEDIA_TYPE_OF, Format
from service.api.parameters import SegmentParameters
from service.api.representation import represent, signed_document
from service.images.decode import ImageLimits
from service.inference.repository import ModelRepository, embedded_models_dir
from service.provenance.keys import Keyring, open_keyring
from service.segmenter import Segmenter

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "tests" / "data" / "images" / "tnbc_p08_2.png"
GUIDE = REPOSITORY / "docs" / "lims.md"
FOLDER = REPOSITORY / "docs" / "lims"
API_EXAMPLE = REPOSITORY / "service" / "api" / "example_answer.json"
IDENTITY = {"accession": "S26-1234", "specimen_id": "S26-1234-A1", "order_id": "ORD-778812"}
FILES: dict[Format, str] = {
    "json": "result.json",
    "geojson": "nuclei.geojson",
    "csv": "nuclei.csv",
    "coco": "coco.json",
    "fhir": "bundle.fhir.json",
    "hl7": "message.hl7",
}
_BLOCK = re.compile(
    r"(<!-- example (?P<name>\w+) -->\n```(?P<language>\w*)\n).*?(```\n<!-- end -->)", re.DOTALL
)


def excerpt(name: Format, folder: Path = FOLDER) -> str:
    """Return what the guide shows of an example, its long lists cut short."""
    data = (folder / FILES[name]).read_bytes()
    if name == "hl7":
        return data.decode().replace("\r", "\n")
    if name == "csv":
        return "".join(data.decode().splitlines(keepends=True)[:3]).replace("\r\n", "\n")
    document = orjson.loads(data)
    match name:
        case "geojson":
            document = document["features"][0]
            document["geometry"]["coordinates"] = [document["geometry"]["coordinates"][0][:3]]
        case "fhir":
            document = document["entry"][1]["resource"]
        case "coco":
            document = document["annotations"][0]
            document["segmentation"]["counts"] = document["segmentation"]["counts"][:4]
        case "json":
            document["provenance"]["payload"] = document["provenance"]["payload"][:24] + "..."
            document["quality"]["flags"] = document["quality"]["flags"][:1]
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def render(guide: str, folder: Path = FOLDER) -> str:
    """Return the guide with every example block made anew from the example files."""
    return _BLOCK.sub(lambda block: block[1] + excerpt(block["name"], folder) + block[4], guide)


def api_example(segmenter: Segmenter, keyring: Keyring) -> bytes:
    """Return the answer to the whole tile, its list of nuclei cut to the first."""
    parameters = SegmentParameters(mpp=0.25, include=["nuclei"], **IDENTITY)
    result = make_result(SOURCE.read_bytes(), segmenter, parameters, ImageLimits())
    result.timings_ms["queue"] = 0.0
    answer = orjson.loads(to_json(signed_document(result, parameters, keyring)))
    answer["nuclei"] = answer["nuclei"][:1]
    return orjson.dumps(answer, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def main() -> None:
    """Write the files and the guide."""
    FOLDER.mkdir(exist_ok=True)
    source = cv2.imread(str(SOURCE), cv2.IMREAD_COLOR)
    if source is None:
        raise SystemExit(f"{SOURCE} is missing")
    _, encoded = cv2.imencode(".png", source[128:288, 128:288])
    image = encoded.tobytes()
    (FOLDER / "tile.png").write_bytes(image)
    repository = ModelRepository.open(embedded_models_dir(), provider="cpu")
    segmenter = Segmenter(repository.get())
    parameters = SegmentParameters(mpp=0.25, **IDENTITY)
    result = make_result(image, segmenter, parameters, ImageLimits())
    with tempfile.TemporaryDirectory() as data_dir:
        keyring = open_keyring(Path(data_dir))
        for name, file in FILES.items():
            body, _ = represent(result, MEDIA_TYPE_OF[name], parameters, keyring=keyring)
            (FOLDER / file).write_bytes(body)
        API_EXAMPLE.write_bytes(api_example(segmenter, keyring))
    keys = orjson.dumps(keyring.to_jwks(), option=orjson.OPT_INDENT_2)
    (FOLDER / "karyon-keys.json").write_bytes(keys + b"\n")
    GUIDE.write_text(render(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{result.segmentation.count} nuclei; examples in {FOLDER.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()

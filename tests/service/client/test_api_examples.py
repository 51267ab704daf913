"""The example of every operation, in every language of the reference, sent to a running service."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.api.examples import SEGMENTATION_EXAMPLE
from service.api.order_answers import BUNDLE_EXAMPLE, ORDER_EXAMPLE
from service.records.outbox import delivery_id
from service.settings import Settings
from site_build.examples import ADDRESS, LANGUAGES, example_request, operations

SNAPSHOT = Path(__file__).resolve().parents[1] / "openapi.json"
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for method, path, operation in operations(json.loads(SNAPSHOT.read_bytes()))
}
FOR_OPERATORS = {"activateModelVersion", "rollBackModel"}
EXAMPLE_RESULT = "0f8c2f1e7b5d4c7f9a3a6a1f3f1f9a10"
DESTINATION = "lims"
FHIR = {"Content-Type": "application/fhir+json"}
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Service:
    """A running service, its OpenAPI document, and the folder where callers stand."""

    address: str
    document: dict[str, Any]
    folder: Path

    def example(self, operation: str) -> Callable[[str], str]:
        """Make what the example of an operation speaks of; return what puts it into a text."""
        with httpx2.Client(base_url=self.address, timeout=PATIENCE_S) as client:
            if operation == "activateModelVersion":
                client.post(
                    "/models/efficientnetv2b0_unet/versions/1.0.0/activate"
                ).raise_for_status()
            answer = client.post("/segment", content=(self.folder / "tile.png").read_bytes())
            result = answer.raise_for_status().json()["id"]
            order = ORDER_EXAMPLE["id"]
            if operation in ("getOrder", "getResult"):  # the latter's are shared by all that read
                client.post("/orders", json=BUNDLE_EXAMPLE, headers=FHIR).raise_for_status()
                order = client.get("/orders").raise_for_status().json()["orders"][0]["id"]

        def put(text: str) -> str:
            text = text.replace(ADDRESS, self.address)
            text = text.replace(
                delivery_id(EXAMPLE_RESULT, 1, DESTINATION), delivery_id(result, 1, DESTINATION)
            )
            return text.replace(EXAMPLE_RESULT, result).replace(ORDER_EXAMPLE["id"], order)

        return put

    def texts(self, language: str) -> Iterator[tuple[str, str]]:
        """Yield operation and example in a language, fit to be run."""
        _, write = LANGUAGES[language]
        shared = self.example("getResult")
        for method, path, operation in operations(self.document):
            name = operation["operationId"]
            # A reviewed result is another for those that come after.
            put = self.example(name) if method == "POST" else shared
            yield name, put(write(example_request(method, path, operation)))


@pytest.fixture(scope="module")
def service(
    serve: Any, tiny_model_factory: Any, test_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The tiny model under the name that the examples use, one destination, operators' routes."""
    models, folder = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("caller")
    for version in ("1.0.0", "1.1.0"):
        tiny_model_factory(
            models / "efficientnetv2b0_unet" / version / "model.onnx",
            name="efficientnetv2b0_unet",
            version=version,
        )
    shutil.copy(test_data / "images" / "nucls_test_1.png", folder / "tile.png")
    secret = "whsec_" + base64.b64encode(bytes(24)).decode()
    settings = Settings.model_validate(
        {
            "models_dir": models, "provider": "cpu", "threads": 1, "workers": 1,
            "data_dir": tmp_path_factory.mktemp("examples-data"), "admin_routes": True,
            # Nobody listens on port 9: deliveries stay pending, and can be resent.
            "deliveries": [
                {
                    "kind": "webhook", "name": DESTINATION, "url": "http://127.0.0.1:9/",
                    "secrets": [secret], "allow_private": True,
                }
            ],
        }
    )  # fmt: skip
    with serve(settings) as running:
        document = httpx2.get(f"{running.address}/openapi.json", timeout=PATIENCE_S).json()
        yield Service(running.address, document, folder)


def test_the_operations_are_those_of_the_document(service: Service) -> None:
    served = {operation["operationId"] for *_, operation in operations(service.document)}
    assert served == set(OPERATIONS) | FOR_OPERATORS
    assert SEGMENTATION_EXAMPLE["id"] != EXAMPLE_RESULT  # examples of answers are real ones


@pytest.mark.parametrize("operation", sorted({*OPERATIONS, *FOR_OPERATORS}))
def test_the_example_gets_the_documented_success(service: Service, operation: str) -> None:
    (found,) = (
        item for item in operations(service.document) if item[2]["operationId"] == operation
    )
    request = example_request(*found)
    put = service.example(operation)
    files = {key: (name, (service.folder / name).read_bytes()) for key, name in
             request.files.items()}  # fmt: skip
    headers = dict(request.headers)
    if request.media_type is not None:
        headers["Content-Type"] = request.media_type
    response = httpx2.request(
        request.method,
        put(request.url),
        headers=headers,
        content=put(request.body) or None,
        data=request.fields or None,
        files=files or None,
        timeout=PATIENCE_S,
    )
    successes = {status for status in found[2]["responses"] if status.startswith("2")}
    assert str(response.status_code) in successes, response.text


def run(command: list[str], folder: Path, text: str | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=text, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_curl(service: Service) -> None:
    for name, text in service.texts("curl"):
        assert run(["bash", "-e"], service.folder, text), name


def test_python(service: Service, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(service.folder)
    for name, text in service.texts("Python"):
        exec(compile(text, name, "exec"), {})  # noqa: S102  the example itself is under test
        assert capsys.readouterr().out.strip(), name


def test_javascript(service: Service) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node (Debian: apt-get install nodejs)")
    imports = []
    for name, text in service.texts("JavaScript"):
        (service.folder / f"{name}.mjs").write_text(text, "utf-8")
        imports.append(f'await import("./{name}.mjs"); console.log("done {name}");')
    (service.folder / "all.mjs").write_text("\n".join(imports), "utf-8")
    assert run([node, "all.mjs"], service.folder).count("done ") == len(imports)


def test_csharp(service: Service) -> None:
    compiler, runtime = shutil.which("mcs"), shutil.which("mono")
    if compiler is None or runtime is None:
        pytest.skip("needs Mono (Debian: mono-mcs mono-runtime libmono-system-net-http4.0-cil)")
    # Mono's compiler knows no top-level statements: each example becomes a method of its own.
    usings: set[str] = {"using System.Threading.Tasks;"}
    methods, calls = [], []
    for name, text in service.texts("C#"):
        lines = text.splitlines()
        usings.update(line for line in lines if line.startswith("using "))
        body = "\n".join(line for line in lines if not line.startswith("using "))
        methods.append(f"static async Task {name}() {{\n{body}\n}}")
        calls.append(f'{name}().Wait(); Console.WriteLine("done {name}");')
    program = "\n".join(
        [*sorted(usings), "class Examples {", *methods, "static void Main() {", *calls, "}}"]
    )
    (service.folder / "examples.cs").write_text(program, "utf-8")
    run([compiler, "-r:System.Net.Http.dll", "examples.cs"], service.folder)
    said = run([runtime, "examples.exe"], service.folder)
    assert said.count("done ") == len(methods)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_refused_example_is_a_failure(service: Service, language: str) -> None:
    """What the tests above rest on: an example does not pass over a refusal."""
    method, path, operation = OPERATIONS["getModel"]
    request = example_request(method, path.replace("{name}", "absent"), operation)
    text = LANGUAGES[language][1](request).replace(ADDRESS, service.address)
    if language == "Python":
        with pytest.raises(httpx2.HTTPStatusError):
            exec(compile(text, language, "exec"), {})  # noqa: S102  likewise
    elif language == "curl":
        with pytest.raises(AssertionError, match="404"):
            run(["bash", "-e"], service.folder, text)
    elif language == "JavaScript" and shutil.which("node"):
        with pytest.raises(AssertionError, match="unknown-model"):
            run(["node", "--input-type=module", "-"], service.folder, text)
    else:
        assert "EnsureSuccessStatusCode" in text or "response.ok" in text

"""The example requests of the OpenAPI document, written in four languages.

One source: a parameter that carries `example`, and the `example` of a body. Each rendering ends in
failure where the service refuses, so that a test can run it as it stands.
"""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

ADDRESS: Final = "http://127.0.0.1:8000"
"""Where `make serve` listens."""


@dataclass(frozen=True)
class ExampleRequest:
    """One request, independent of any language.

    Attributes:
        operation: The operationId.
        method: In capitals.
        path: With its parameters filled in.
        query: Query parameters.
        headers: Header fields, without Content-Type.
        fields: Text fields of a form.
        files: Files of a form: field and file name.
        media_type: Content-Type of a body that is no form; None where there is no such body.
        body: That body.
    """

    operation: str
    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    media_type: str | None = None
    body: str = ""

    @property
    def url(self) -> str:
        """The whole address."""
        query = "?" + urlencode(self.query, quote_via=quote) if self.query else ""
        return f"{ADDRESS}{self.path}{query}"


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method in capitals, path and operation of each operation of a document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def example_request(method: str, path: str, operation: Mapping[str, Any]) -> ExampleRequest:
    """Return the example request of an operation.

    Raises:
        LookupError: A required parameter, or a required body, has no example.
    """
    name = operation["operationId"]
    placed: dict[str, dict[str, Any]] = {"query": {}, "header": {}, "path": {}, "cookie": {}}
    for parameter in operation.get("parameters", ()):
        if "example" in parameter:
            placed[parameter["in"]][parameter["name"]] = parameter["example"]
        elif parameter["required"]:
            raise LookupError(f"{name}: the parameter {parameter['name']} has no example")
    filled = {key: quote(str(value), safe="") for key, value in placed["path"].items()}
    return ExampleRequest(
        operation=name,
        method=method,
        path=path.format(**filled),
        query=placed["query"],
        headers={key.title(): str(value) for key, value in placed["header"].items()},
        **_body(name, operation.get("requestBody")),
    )


def _body(name: str, described: Mapping[str, Any] | None) -> dict[str, Any]:
    if described is None:
        return {}
    for media_type, content in described["content"].items():
        if "example" not in content:
            continue
        example = content["example"]
        if media_type != "multipart/form-data":
            text = example if isinstance(example, str) else json.dumps(example)
            return {"media_type": media_type, "body": text}
        shapes = content["schema"]["properties"]
        binary = {key for key in example if shapes[key].get("format") == "binary"}
        return {
            "files": {key: value for key, value in example.items() if key in binary},
            "fields": {key: value for key, value in example.items() if key not in binary},
        }
    raise LookupError(f"{name}: the body has no example")


def to_curl(request: ExampleRequest) -> str:
    """Write a request as a command of the shell."""
    options = [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in request.headers.items()]
    options += [f"-F {shlex.quote(f'{key}=@{file}')}" for key, file in request.files.items()]
    options += [f"-F {shlex.quote(f'{key}={value}')}" for key, value in request.fields.items()]
    if request.media_type is not None:
        options.append(f"-H {shlex.quote(f'Content-Type: {request.media_type}')}")
        options.append(f"--data-binary {shlex.quote(request.body)}")
    if request.method != "GET" and not (request.files or request.media_type):
        options.append(f"-X {request.method}")
    pieces = ["curl --fail-with-body", *options, shlex.quote(request.url)]
    return (" \\\n  " if len(options) > 1 else " ").join(pieces)


def to_python(request: ExampleRequest) -> str:
    """Write a request in Python with httpx2, which the extra `client` brings."""
    arguments = [json.dumps(f"{ADDRESS}{request.path}")]
    if request.query:
        arguments.append(f"params={_python(request.query)}")
    headers = dict(request.headers)
    if request.media_type == "application/json":
        arguments.append(f"json={_python(json.loads(request.body))}")
    elif request.media_type is not None:
        headers["Content-Type"] = request.media_type
        arguments.append(f"content={json.dumps(request.body)}")
    if headers:
        arguments.append(f"headers={_python(headers)}")
    if request.files:
        read = ", ".join(
            f"{json.dumps(key)}: ({json.dumps(file)}, Path({json.dumps(file)}).read_bytes())"
            for key, file in request.files.items()
        )
        arguments.append(f"files={{{read}}}")
    if request.fields:
        arguments.append(f"data={_python(request.fields)}")
    if request.method == "POST":
        # Five seconds, its default, are short for a large image in a queue.
        arguments.append("timeout=60")
    lines = "".join(f"    {argument},\n" for argument in arguments)
    call = f"(\n{lines})" if len(arguments) > 1 else f"({arguments[0]})"
    imports = "from pathlib import Path\n\n" if request.files else ""
    return (
        f"{imports}import httpx2\n\n"
        f"response = httpx2.{request.method.lower()}{call}\n"
        "response.raise_for_status()\n"
        "print(response.text)"
    )


def _python(value: Any) -> str:
    """Write a JSON value as Python does, with double quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)}: {_python(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_python, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def to_javascript(request: ExampleRequest) -> str:
    """Write a request in JavaScript, as a module for Node 18 or newer."""
    lines: list[str] = []
    options: list[str] = []
    headers = dict(request.headers)
    if request.method != "GET":
        options.append(f'method: "{request.method}"')
    if request.files:
        lines += [
            'import { readFile } from "node:fs/promises";',
            "",
            "const form = new FormData();",
        ]
        lines += [
            f"form.set({json.dumps(key)}, new Blob([await readFile({json.dumps(file)})]),"
            f" {json.dumps(file)});"
            for key, file in request.files.items()
        ]
        lines += [f"form.set({json.dumps(k)}, {json.dumps(v)});" for k, v in request.fields.items()]
        options.append("body: form")
    if request.media_type is not None:
        headers["Content-Type"] = request.media_type
        options.append(
            f"body: JSON.stringify({request.body})"
            if request.media_type == "application/json"
            else f"body: {json.dumps(request.body)}"
        )
    if headers:
        options.append(f"headers: {json.dumps(headers)}")
    call = json.dumps(request.url)
    if options:
        call += ", {\n" + "".join(f"  {option},\n" for option in options) + "}"
    lines += [
        f"const response = await fetch({call});",
        "if (!response.ok) throw new Error(await response.text());",
        "console.log(await response.text());",
    ]
    return "\n".join(lines)


def to_csharp(request: ExampleRequest) -> str:
    """Write a request in C#, as a program of top-level statements (.NET 6 or newer)."""
    method = request.method.capitalize()
    lines = [
        "using System;",
        *(["using System.IO;"] if request.files else []),
        "using System.Net.Http;",
        *(["using System.Text;"] if request.media_type else []),
        "",
        "var client = new HttpClient();",
        f"var request = new HttpRequestMessage(HttpMethod.{method}, {json.dumps(request.url)});",
    ]
    lines += [
        f"request.Headers.Add({json.dumps(name)}, {json.dumps(value)});"
        for name, value in request.headers.items()
    ]
    if request.files:
        lines.append("var form = new MultipartFormDataContent();")
        lines += [
            f"form.Add(new ByteArrayContent(File.ReadAllBytes({json.dumps(file)})),"
            f" {json.dumps(key)}, {json.dumps(file)});"
            for key, file in request.files.items()
        ]
        lines += [
            f"form.Add(new StringContent({json.dumps(value)}), {json.dumps(key)});"
            for key, value in request.fields.items()
        ]
        lines.append("request.Content = form;")
    if request.media_type is not None:
        lines.append(
            f"request.Content = new StringContent({json.dumps(request.body)}, Encoding.UTF8,"
            f" {json.dumps(request.media_type)});"
        )
    lines += [
        "var response = await client.SendAsync(request);",
        "response.EnsureSuccessStatusCode();",
        "Console.WriteLine(await response.Content.ReadAsStringAsync());",
    ]
    return "\n".join(lines)


LANGUAGES: Final[Mapping[str, tuple[str, Callable[[ExampleRequest], str]]]] = {
    "curl": ("sh", to_curl),
    "Python": ("python", to_python),
    "JavaScript": ("javascript", to_javascript),
    "C#": ("csharp", to_csharp),
}
"""By name: the language as a highlighter knows it, and the function that writes it."""

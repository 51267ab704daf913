"""The page "API reference", made from the OpenAPI document."""

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, Final

from site_build.examples import LANGUAGES, example_request, operations

_PROBLEM: Final = "application/problem+json"
_MOST_ANSWER_LINES: Final = 60

_INTRODUCTION: Final = """# API reference

Made from the [OpenAPI document](source/tests/service/openapi.json) that the service serves at
`/openapi.json`; [the HTTP API](api.md) tells the same as a story. Each example is sent by a test,
in all four languages, as it stands here; `tile.png` is your image, `0f8c2f1e...` the `id` of one of
your results.

Where the service asks for a login (`KARYON_AUTH=required`), add the header `X-API-Key: KEY`, or
`Authorization: Bearer KEY`; each operation names the scope that the key needs
([logins](records.md#logins)). For Python there is [a client](client.md) that repeats safely.
"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _kind(schema: Mapping[str, Any]) -> str:
    """Say in a few words what a value may be."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " or ".join(_kind(choice) for choice in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    words = [str(schema.get("format") or schema.get("type", "any"))]
    bounds = {
        "minimum": "from {}", "exclusiveMinimum": "over {}", "maximum": "to {}",
        "exclusiveMaximum": "below {}", "maxLength": "at most {} characters",
    }  # fmt: skip
    words += [text.format(schema[key]) for key, text in bounds.items() if key in schema]
    return " ".join(words)


def _parameters(operation: Mapping[str, Any]) -> Iterator[str]:
    listed = operation.get("parameters", ())
    if not listed:
        return
    yield "\n| parameter | in | what it may be | meaning |\n|---|---|---|---|"
    for parameter in listed:
        schema = parameter["schema"]
        kind = _kind(schema)
        if schema.get("default") not in (None, []):
            kind += f"; default `{schema['default']}`"
        required = " (required)" if parameter["required"] else ""
        name = parameter["name"].title() if parameter["in"] == "header" else parameter["name"]
        yield (
            f"| `{name}`{required} | {parameter['in']} | {_cell(kind)} |"
            f" {_cell(parameter.get('description', ''))} |"
        )


def _resolve(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: Mapping[str, Any] = document["components"]["schemas"][reference.rpartition("/")[2]]
    return found


def _body(operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    body = operation.get("requestBody")
    if body is None:
        return
    kinds = ", ".join(f"`{media_type}`" for media_type in body["content"])
    yield f"\n**Body**: {kinds}. {body.get('description', '')}"
    for media_type, content in body["content"].items():
        schema = _resolve(content["schema"], document)
        if "properties" not in schema:
            continue
        yield f"\n| member of `{media_type}` | what it may be | meaning |\n|---|---|---|"
        for name, member in schema["properties"].items():
            required = " (required)" if name in schema.get("required", ()) else ""
            kind = _kind(_resolve(member, document)) if "$ref" in member else _kind(member)
            yield f"| `{name}`{required} | {_cell(kind)} | {_cell(member.get('description', ''))} |"


def _examples(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    request = example_request(method, path, operation)
    yield ""
    for name, (language, write) in LANGUAGES.items():
        yield f'=== "{name}"\n'
        code = f"```{language}\n{write(request)}\n```"
        yield "\n".join(f"    {line}".rstrip() for line in code.splitlines()) + "\n"


def _answers(operation: Mapping[str, Any]) -> Iterator[str]:
    yield "\n| status | answer |\n|---|---|"
    for status, answer in operation["responses"].items():
        shown = answer.get("content", {})
        if _PROBLEM in shown:
            names = ", ".join(f"[`{name}`](#{name})" for name in shown[_PROBLEM]["examples"])
            yield f"| {status} | {names} |"
        else:
            kinds = ", ".join(f"`{media_type}`" for media_type in shown)
            yield f"| {status} | {_cell(answer['description'])} {kinds} |"
    for status, answer in operation["responses"].items():
        for media_type, content in answer.get("content", {}).items():
            example = content.get("example")
            if media_type == _PROBLEM or example is None:
                continue
            text = example if isinstance(example, str) else json.dumps(example, indent=2)
            lines = text.replace("\r", "\n").strip().splitlines()
            if len(lines) > _MOST_ANSWER_LINES:
                lines = [*lines[:_MOST_ANSWER_LINES], "..."]
            language = "json" if "json" in media_type else "text"
            yield f'\n??? example "Answer {status}, {media_type}"\n'
            yield "\n".join(f"    {line}" for line in [f"```{language}", *lines, "```"])


def _problems(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a paragraph for every type of problem that any operation may answer with."""
    found: dict[str, Mapping[str, Any]] = {}
    for *_, operation in operations(document):
        for answer in operation["responses"].values():
            examples = answer.get("content", {}).get(_PROBLEM, {}).get("examples", {})
            found |= {name: example["value"] for name, example in examples.items()}
    yield "\n## Errors\n\nEvery error is a problem document (RFC 9457) of one of these types.\n"
    for name, problem in sorted(found.items(), key=lambda item: (item[1]["status"], item[0])):
        yield f"### {name} {{#{name}}}\n"
        yield f"{problem['status']}: {problem['title']}. {problem['remedy']}\n"


def build_reference(document: Mapping[str, Any]) -> str:
    """Return the page as Markdown.

    Args:
        document: The OpenAPI document.
    """
    pieces = [_INTRODUCTION]
    described = {tag["name"]: tag["description"] for tag in document["tags"]}
    by_tag = sorted(
        operations(document), key=lambda item: list(described).index(item[2]["tags"][0])
    )
    for tag, group in groupby(by_tag, key=lambda item: item[2]["tags"][0]):
        pieces.append(f"\n## {tag.capitalize()}\n\n{described[tag]}")
        for method, path, operation in group:
            pieces.append(f"\n### {method} {path} {{#{operation['operationId']}}}\n")
            pieces.append(f"**{operation['summary']}.** {operation['description']}")
            scopes = {
                scope
                for choice in operation.get("security", ())
                for needed in choice.values()
                for scope in needed
            }
            if scopes:
                pieces.append(f"\nScope: `{'`, `'.join(sorted(scopes))}`.")
            pieces += _parameters(operation)
            pieces += _body(operation, document)
            pieces += _examples(method, path, operation)
            pieces += _answers(operation)
    pieces += _problems(document)
    return "\n".join(pieces) + "\n"

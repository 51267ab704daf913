"""Puts a table into docs/performance.md, between the marks that carry its name."""

import json
import math
import re
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PERFORMANCE_PAGE = REPOSITORY / "docs" / "performance.md"


def replace_section(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME begin -->` and `<!-- NAME end -->`.

    Args:
        page: A Markdown file.
        name: Name of the section.
        text: What is to stand there.

    Raises:
        ValueError: The page has no such section, or several.
    """
    before = page.read_text(encoding="utf-8")
    pattern = re.compile(
        rf"(<!-- {re.escape(name)} begin -->\n).*?(<!-- {re.escape(name)} end -->)", re.DOTALL
    )
    after, replaced = pattern.subn(lambda match: f"{match[1]}{text.strip()}\n{match[2]}", before)
    if replaced != 1:
        raise ValueError(f"{page} has {replaced} sections named {name}")
    page.write_text(after, encoding="utf-8")


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; each row has as many cells as the header."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_figures(path: Path, document: dict[str, Any]) -> None:
    """Write raw figures as JSON; what could not be measured (NaN) becomes null."""
    path.write_text(json.dumps(_without_nan(document), indent=1) + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value

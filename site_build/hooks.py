"""MkDocs hooks: pages that are made, pages from outside docs/, and links that lead there."""

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from site_build.links import (
    PAGES,
    REPOSITORY,
    linked_files,
    repository_path,
    rewrite_links,
    site_place,
)
from site_build.reference import build_reference

REFERENCE = "api-reference.md"
OPENAPI = "tests/service/openapi.json"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every decision in the navigation, without a line for each."""
    pages = sorted(path.name for path in (REPOSITORY / "docs" / "adr").glob("0*.md"))
    for section in config.nav or []:
        for entries in section.values():
            for entry in entries:
                if isinstance(entry, dict) and "Decisions" in entry:
                    entry["Decisions"] += [f"adr/{name}" for name in pages]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what docs/ does not hold."""
    document = json.loads((REPOSITORY / OPENAPI).read_bytes())
    files.append(File.generated(config, REFERENCE, content=build_reference(document)))
    for path, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(REPOSITORY / path)))
    linked = {OPENAPI}
    for file in list(files.documentation_pages()):
        if file.src_uri != REFERENCE:
            path = repository_path(file.src_uri)
            linked |= linked_files((REPOSITORY / path).read_text("utf-8"), path)
    for path in sorted(linked):
        if site_place(path).startswith("source/"):
            source = str(REPOSITORY / path)
            files.append(File.generated(config, site_place(path), abs_src_path=source))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page lead to the same places on the site."""
    del config, files
    if page.file.src_uri == REFERENCE:
        return markdown
    return rewrite_links(markdown, repository_path(page.file.src_uri))


def on_post_build(*, config: MkDocsConfig) -> None:
    """Say where the site is, and how to read it; a browser searches only what a server serves."""
    folder = Path(config.site_dir).resolve()
    print(f"{folder}/index.html, or: python3 -m http.server --directory {folder} 8080")  # noqa: T201

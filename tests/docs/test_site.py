"""The documentation as a site: it builds strictly, and needs no network to be read."""

import html.parser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from site_build.examples import LANGUAGES, operations
from site_build.links import linked_files, rewrite_links

pytest.importorskip("material", reason="needs the extra `docs`")


class _Page(html.parser.HTMLParser):
    """Collects what a page loads, and what can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        of = dict(attributes)
        if of.get("id"):
            self.anchors.add(str(of["id"]))
        address = of.get("src") or (of.get("href") if tag == "link" else None)
        if address and of.get("rel") != "canonical":
            self.loaded.append(address)


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
        cwd=repository, env={**os.environ, "PYTHONPATH": ".", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        for address in _Page(page.read_text("utf-8")).loaded:
            assert not re.match(r"(https?:)?//", address), (page.name, address)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", style.read_text("utf-8")), style


def test_the_reference_has_every_operation_in_every_language(site: Path, repository: Path) -> None:
    document = json.loads((repository / "tests" / "service" / "openapi.json").read_bytes())
    text = (site / "api-reference.html").read_text("utf-8")
    named = {operation["operationId"] for *_, operation in operations(document)}
    assert named <= _Page(text).anchors
    for language in LANGUAGES:
        assert text.count(f">{language}</label>") == len(named)


def test_every_alert_leads_to_its_paragraph(site: Path, repository: Path) -> None:
    rules = yaml.safe_load((repository / "deploy" / "alerts.yml").read_text("utf-8"))
    anchors = _Page((site / "operations.html").read_text("utf-8")).anchors
    runbooks = [
        rule["annotations"]["runbook"] for group in rules["groups"] for rule in group["rules"]
    ]
    assert runbooks
    assert {runbook.partition("#")[2] for runbook in runbooks} <= anchors


def test_the_architecture_page_names_the_rooms_that_there_are(repository: Path) -> None:
    text = (repository / "docs" / "architecture.md").read_text("utf-8")
    told = set(re.findall(r"^\| `service/(\w+)` \|", text, re.MULTILINE))
    service = repository / "service"
    assert told == {path.parent.name for path in service.glob("*/__init__.py")}
    for module in re.findall(r"`(service/[\w/]+\.py)`", text):
        assert (repository / module).is_file(), module


def test_every_decision_is_listed_and_in_the_navigation(site: Path, repository: Path) -> None:
    decisions = {path.name for path in (repository / "docs" / "adr").glob("0*.md")}
    listed = (repository / "docs" / "adr" / "README.md").read_text("utf-8")
    assert set(re.findall(r"\((0[\w.-]+)\)", listed)) == decisions
    page = (site / "adr" / "index.html").read_text("utf-8")
    for name in decisions:
        assert f'href="{name.removesuffix(".md")}.html" class="md-nav__link"' in page


def test_links_are_led_to_where_the_site_has_the_file() -> None:
    text = "[a](docs/api.md#errors) ![b](docs/images/overview.jpg) [c](Makefile) [d](absent.md)"
    assert rewrite_links(text, "README.md") == (
        "[a](api.md#errors) ![b](images/overview.jpg) [c](source/Makefile) [d](absent.md)"
    )
    assert rewrite_links("[x](../../README.md)", "docs/adr/README.md") == "[x](../index.md)"
    assert linked_files(text, "README.md") == {
        "docs/api.md",
        "docs/images/overview.jpg",
        "Makefile",
    }
    untouched = "[w](https://www.rfc-editor.org/rfc/rfc9457) [h](#here)"
    assert rewrite_links(untouched, "README.md") == untouched


def test_a_broken_anchor_stops_the_build(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Here\n\n[there](#absent)\n", "utf-8")
    settings = yaml.safe_load(re.sub(r"!!\S+", "", (repository / "mkdocs.yml").read_text("utf-8")))
    kept = {key: settings[key] for key in ("site_name", "strict", "validation")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(kept), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-d", str(tmp_path / "site")],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "absent" in done.stdout + done.stderr

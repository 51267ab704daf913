"""Links of pages as they stand in the repository, made to lead to the same places on the site.

On the site stand the pages of `docs/`, those of the root that `PAGES` names, and, under `source/`,
every other file of the repository that a page links to.
"""

import posixpath
import re
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]


def newest_card() -> str:
    """Return the card of the embedded model's newest version, relative to the repository."""

    def version(card: Path) -> list[int]:
        return [int(number) for number in re.findall(r"[0-9]+", card.parent.name)]

    cards = (REPOSITORY / "models").glob("*/*/card.md")
    return max(cards, key=version).relative_to(REPOSITORY).as_posix()


PAGES: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    newest_card(): "model-card.md",
}
"""Files outside docs/ that are pages: their place in the repository, and on the site."""

_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def site_place(path: str) -> str:
    """Return where a file of the repository stands on the site."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}"


def repository_path(place: str) -> str:
    """Return the file of the repository that a page of the site is made from."""
    for path, page in PAGES.items():
        if page == place:
            return path
    return f"docs/{place}"


def linked_files(text: str, path: str) -> set[str]:
    """Return the files of the repository that a page links to, as far as they exist.

    Args:
        text: The page.
        path: Where it stands in the repository.
    """
    return {
        target
        for found in _LINK.finditer(text)
        if (REPOSITORY / (target := _target(found[1], path))).is_file()
    }


def rewrite_links(text: str, path: str) -> str:
    """Return a page with its links as the site needs them; one that leads nowhere stays broken.

    Args:
        text: The page.
        path: Where it stands in the repository.
    """
    folder = posixpath.dirname(site_place(path)) or "."

    def rewrite(found: re.Match[str]) -> str:
        target = _target(found[1], path)
        if not (REPOSITORY / target).is_file():
            return found[0]
        return posixpath.relpath(site_place(target), folder) + (found[2] or "")

    return _LINK.sub(rewrite, text)


def _target(link: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))

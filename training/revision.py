"""Which code made something; free of Keras."""

import subprocess
from pathlib import Path


def source_revision() -> str:
    """The git commit of this checkout, `-dirty` where code was changed since; else `unknown`."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return "unknown"
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run(  # noqa: S603  fixed arguments
            [*git, "rev-parse", "--verify", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(  # noqa: S603  fixed arguments
            [*git, "status", "--porcelain", "--", "training", "export", "service"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit

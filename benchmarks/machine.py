"""What a figure was measured on, and whether it may be published."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from service.inference.processors import usable_processors

# Half a processor busy with something else is enough to spoil a tail.
MOST_BACKGROUND_LOAD = 0.5


def background_load() -> float:
    """Return the mean number of processes that wanted a processor in the last minute."""
    return os.getloadavg()[0]


def is_contended() -> bool:
    """Say whether something else uses the machine now, before a measurement starts."""
    return background_load() > MOST_BACKGROUND_LOAD


def processor_name() -> str:
    """Return what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine_facts() -> dict[str, str | int | float]:
    """Return what has to stand beside every figure."""
    return {
        "processor": processor_name(),
        "processors": usable_processors(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "background_load": round(background_load(), 2),
        "command": " ".join(["python -m", *_command()]),
    }


def _command() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    # Where something lies on this machine is nobody else's business.
    arguments = [
        Path(item).name if item.startswith(("/", "../")) else item for item in sys.argv[1:]
    ]
    return [spec.name if spec else sys.argv[0], *arguments]


def facts_sentence(facts: dict[str, str | int | float]) -> str:
    """Return the facts as the sentence under a table."""
    return (
        f"{facts['processors']} processors of {facts['processor']}, Python {facts['python']}."
        f" Made by `{facts['command']}`."
    )

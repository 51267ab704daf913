"""What the machine has to run models with: processor, memory, NVIDIA driver."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.inference.precision import NOTED_FLAGS, processor_flags
from service.inference.processors import usable_processors

_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, as far as it decides how fast models run.

    Attributes:
        system: Operating system and architecture.
        python: Version of Python.
        processor: Name of the processor.
        instructions: Its instruction sets that matter; None where nobody tells them.
        processors: Processors that this process may use.
        memory_bytes: Memory that this process may use; None where nobody tells it.
    """

    system: str
    python: str
    processor: str
    instructions: tuple[str, ...] | None
    processors: int
    memory_bytes: int | None


def describe_machine() -> Machine:
    """Look at the machine that this process runs on."""
    flags = processor_flags()
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        processor=_processor_name(),
        instructions=None if flags is None else tuple(sorted(flags & NOTED_FLAGS)),
        processors=usable_processors(),
        memory_bytes=usable_memory_bytes(),
    )


def usable_memory_bytes(cgroup_root: Path = _CGROUP_ROOT) -> int | None:
    """Return the bytes of memory that the machine and the container leave to this process.

    Args:
        cgroup_root: Where the kernel mounts control groups (version 2, or 1 with `memory/`).

    Returns:
        None where nobody tells.
    """
    limits = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (cgroup_root / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():  # version 2 writes "max" for no limit
            limits.append(int(text))
    return min(limits) if limits else None


def _processor_name() -> str:
    try:
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or "unknown"

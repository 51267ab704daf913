"""How many processors this process may really use."""

import os
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")


def usable_processors(cgroup_root: Path = _CGROUP_ROOT) -> int:
    """Count the processors that affinity and the container's quota leave to this process.

    A container with a quota of two processors on a 64-core host sees 64; as many threads would
    only wait for each other.

    Args:
        cgroup_root: Where the kernel mounts control groups (version 2, or 1 with `cpu/`).

    Returns:
        At least 1; a quota of part of a processor counts as one.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:  # macOS and Windows have neither affinity nor control groups
        count = os.cpu_count() or 1
    quota = _cgroup_quota(cgroup_root)
    return count if quota is None else max(1, min(count, int(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """Return the quota in processors, None where there is none."""
    try:
        quota_us, period_us = (root / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota_us = (root / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period_us = (root / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    try:
        quota, period = float(quota_us), float(period_us)
    except ValueError:  # version 2 writes "max" for no quota
        return None
    # Version 1 writes -1 for no quota.
    return quota / period if quota > 0 and period > 0 else None

"""One virtual environment a peer: several of them pin versions that exclude each other."""

import subprocess
import sys
from pathlib import Path

from benchmarks.peers.table import Peer

# A Python that was built elsewhere has a library of its own, which a server that embeds Python,
# as Triton's does, would not find.
SYSTEM_PYTHON = "/usr/bin/python3"


class PeerInstallError(RuntimeError):
    """A peer's packages do not install here."""


def make_environment(root: Path, peer: Peer) -> Path:
    """Make or reuse the environment of a peer; return its Python.

    Args:
        root: Folder of all environments.
        peer: Whose `requirements` are installed; a changed list installs anew.

    Raises:
        PeerInstallError: There is no Python for it, or pip refuses; the message says why.
    """
    folder = root / peer.environment
    python = folder.resolve() / "bin" / "python"
    stamp = folder / "karyon-requirements.txt"
    wanted = "\n".join(peer.requirements)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {peer.name} into {folder}", flush=True)
    interpreter = SYSTEM_PYTHON if peer.system_python else sys.executable
    try:
        subprocess.run([interpreter, "-m", "venv", "--clear", str(folder)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerInstallError(
            f"{interpreter} makes no environment (Debian: apt-get install python3-venv"
            f" libpython3-dev): {error}"
        ) from error
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", *peer.requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PeerInstallError(" ".join(done.stderr.split()[-60:]))
    stamp.write_text(wanted, encoding="utf-8")
    return python

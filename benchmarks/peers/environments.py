"""One virtual environment a peer: several of them pin versions that exclude each other."""

import subprocess
import sys
from pathlib import Path

from benchmarks.peers.table import Peer


class PeerInstallError(RuntimeError):
    """A peer's packages do not install here."""


def make_environment(root: Path, peer: Peer) -> Path:
    """Make or reuse the environment of a peer; return its Python.

    Args:
        root: Folder of all environments.
        peer: Whose `requirements` are installed; a changed list installs anew.

    Raises:
        PeerInstallError: pip refuses; the message holds its last lines.
    """
    folder = root / peer.environment
    python = folder.resolve() / "bin" / "python"
    stamp = folder / "karyon-requirements.txt"
    wanted = "\n".join(peer.requirements)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {peer.name} into {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
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

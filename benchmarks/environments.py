"""A virtual environment for each peer, with the versions that its requirements.txt pins."""

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.catalogue import Peer
from tests.servers.process import ROOT

__all__ = ["prepare", "python_of"]

FOLDER = ROOT / ".bench" / "venvs"


def python_of(peer: Peer) -> Path:
    """The interpreter that runs a peer's scripts; those without requirements run in the environment that runs the benchmark."""
    if not _requirements(peer).exists():
        return Path(sys.executable)
    return FOLDER / peer.folder / "bin" / "python"


def prepare(peer: Peer) -> None:
    """Make a peer's environment, unless it is there with these very requirements."""
    if not _requirements(peer).exists():
        return
    wanted = _requirements(peer).read_text()
    home = FOLDER / peer.folder
    stamp = home / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {peer.folder} ...", flush=True)
    venv.create(home, with_pip=True, clear=True)
    install = [str(python_of(peer)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--requirement", str(_requirements(peer))], check=True)
    stamp.write_text(wanted)


def _requirements(peer: Peer) -> Path:
    return ROOT / "benchmarks" / "peers" / peer.folder / "requirements.txt"

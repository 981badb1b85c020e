"""Finds and runs the binaries that the package zerocast carries. Imports nothing of it: a command
starts without waiting for numpy."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import List, NoReturn, Optional


def _is_program(path: Path) -> bool:
    """A file that can be run and is no script: those named zerocast run this module."""
    try:
        if not os.access(path, os.X_OK) or not path.is_file():
            return False
        with open(path, "rb") as file:
            return file.read(2) != b"#!"
    except OSError:
        return False


def carried_folder() -> Optional[Path]:
    """The folder of the package's binaries; None where the package is not installed."""
    spec = importlib.util.find_spec("zerocast")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "_bin"


def find_binary(name: str) -> Path:
    """The program `name`: in ZEROCAST_BIN_DIR where that is set, else the one in the package, else
    that of PATH.

    Raises:
        FileNotFoundError: it names every place that was looked at.
    """
    given = os.environ.get("ZEROCAST_BIN_DIR")
    if given:
        candidate = Path(given) / name
        if os.access(candidate, os.X_OK) and candidate.is_file():
            return candidate
        raise FileNotFoundError(f"find {name}: no program {candidate}; ZEROCAST_BIN_DIR names the folder of zerocast's "
                                "binaries, or must not be set")
    folder = carried_folder()
    places: List[Path] = [] if folder is None else [folder]
    places += [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep) if place]
    for place in places:
        if _is_program(place / name):
            return place / name
    raise FileNotFoundError(f"find {name}: no program {folder / name if folder else name}, and none on PATH; install "
                            "the wheel that carries it (deploy/build_wheel.sh), or set ZEROCAST_BIN_DIR to the folder "
                            "of zerocast's binaries")


def _become(name: str) -> NoReturn:
    try:
        binary = str(find_binary(name))
        os.execv(binary, [binary, *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"{name}: {error}")


def zerocast() -> NoReturn:
    """The command zerocast."""
    _become("zerocast")


def server() -> NoReturn:
    """The command zerocast-server."""
    _become("zerocast-server")


def agent() -> NoReturn:
    """The command zerocast-agent."""
    _become("zerocast-agent")

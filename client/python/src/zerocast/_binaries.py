"""The binaries that the package carries, and where else they may be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from zerocast._errors import EmbeddedError

BINARIES = ("zerocast", "zerocast-server", "zerocast-agent")
_CARRIED = Path(__file__).parent / "_bin"


def find_binary(name: str, *, search_path: bool = True) -> Path:
    """The program `name`: in ZEROCAST_BIN_DIR where that is set, else the one in the package, else
    (with search_path) that of PATH.

    Raises:
        EmbeddedError: NOT_FOUND, which names every place that was looked at.
    """
    given = os.environ.get("ZEROCAST_BIN_DIR")
    if given:
        candidate = Path(given) / name
        if os.access(candidate, os.X_OK) and candidate.is_file():
            return candidate
        raise EmbeddedError("NOT_FOUND", f"find {name}: no program {candidate}; ZEROCAST_BIN_DIR names the folder of "
                            "zerocast's binaries, or must not be set", "NOT_FOUND")
    carried = _CARRIED / name
    if os.access(carried, os.X_OK) and carried.is_file():
        return carried
    found = shutil.which(name) if search_path else None
    if found:
        return Path(found)
    raise EmbeddedError("NOT_FOUND", f"find {name}: no program {carried}" + (", and none on PATH" if search_path else "")
                        + "; install the wheel, which carries it (deploy/build_wheel.sh), or set ZEROCAST_BIN_DIR to "
                        "the folder of zerocast's binaries", "NOT_FOUND")

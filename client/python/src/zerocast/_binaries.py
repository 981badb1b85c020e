"""The binaries that the package carries, and where else they may be."""

from __future__ import annotations

from pathlib import Path

import zerocast_launch
from zerocast._errors import EmbeddedError


def find_binary(name: str) -> Path:
    """The program `name`, as zerocast_launch.find_binary.

    Raises:
        EmbeddedError: NOT_FOUND, which names every place that was looked at.
    """
    try:
        return zerocast_launch.find_binary(name)
    except FileNotFoundError as error:
        raise EmbeddedError("NOT_FOUND", str(error), "NOT_FOUND") from error

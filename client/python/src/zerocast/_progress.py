"""How far a load is, for people: a bar on a terminal, else a line of the log every few seconds."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Optional

logger = logging.getLogger("zerocast")

_LINE_SECONDS = 5.0


class Progress:
    """Shows the bytes that all nodes have read, of those that they will read. One thread uses it."""

    def __init__(self, checkpoint: str) -> None:
        self._checkpoint = checkpoint
        self._bar: Optional[Any] = None
        self._has_bar = sys.stderr.isatty()
        self._next_line = time.monotonic() + _LINE_SECONDS

    def show(self, load: Any) -> None:
        """Takes a Load as it stands."""
        done = sum(node.bytes_read for node in load.nodes)
        total = sum(node.bytes_to_read for node in load.nodes)
        if total == 0:
            return
        if self._has_bar:
            self._show_bar(done, total)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            logger.info("%s: read %.2f of %.2f GB on %d nodes", self._checkpoint, done / 1e9, total / 1e9,
                        len(load.nodes))

    def _show_bar(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm
            self._bar = tqdm(total=total, unit="B", unit_scale=True, desc="Loading weights")
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

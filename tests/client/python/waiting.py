"""Waiting for processes, with a deadline."""

import pathlib
import time

WAIT_S = 60  # generous: sanitized binaries on a loaded machine


def wait_until(what, ready):
    deadline = time.monotonic() + WAIT_S
    while not ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.01)


def running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False

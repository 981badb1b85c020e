#!/usr/bin/env python3
"""Runs a command inside a virtual environment that holds the packages of a requirements file.

    in_venv.py VENV REQUIREMENTS COMMAND [ARG ...]

COMMAND is a program of the environment (a Python script is run by its python). The environment is
made on first use and made again when the requirements change; calls at the same time wait for
each other. Exits with the command's status, or 3 when the environment cannot be made.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PIP_SECONDS = 600


def ensure(venv: Path, requirements: Path) -> None:
    """Makes venv hold exactly what requirements asks for; raises CalledProcessError or OSError."""
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    stamp = venv / "requirements.sha256"
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{venv}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=PIP_SECONDS)
        subprocess.run(
            [str(venv / "bin/python"), "-m", "pip", "install", "--quiet",
             "--disable-pip-version-check", "--requirement", str(requirements)],
            check=True, timeout=PIP_SECONDS)
        stamp.write_text(wanted, encoding="utf-8")


def main() -> int:
    if len(sys.argv) < 4:
        print(__doc__, file=sys.stderr)
        return 2
    venv, requirements = Path(sys.argv[1]).absolute(), Path(sys.argv[2])
    command = sys.argv[3:]
    try:
        ensure(venv, requirements)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"in_venv.py: install {requirements} into {venv}: {error}; needs python3-venv and "
              "a reachable package index (pip's own settings apply)", file=sys.stderr)
        return 3
    if command[0].endswith(".py"):
        command.insert(0, str(venv / "bin/python"))
    else:
        command[0] = str(venv / "bin" / command[0])
    sys.stdout.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())

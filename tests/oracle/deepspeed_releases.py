"""DeepSpeed releases, each in a folder of its own, and the probe run on them."""

import json
import os
import subprocess
import sys
from pathlib import Path

VERSIONS = tuple(f"0.19.{patch}" for patch in range(9))
PROBE = Path(__file__).resolve().with_name("deepspeed_probe.py")
INSTALL_SECONDS = 900
PROBE_SECONDS = 900
# No kernels are built, and none is needed.
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "DS_BUILD_OPS": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def install(folder: Path, version: str) -> Path:
    """The folder of an installed release; installed from the package index where it is not there."""
    target = folder / version
    if not (target / "deepspeed" / "runtime" / "config.py").exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--no-build-isolation", "--no-compile", "--target", str(target), f"deepspeed=={version}"],
            check=True, timeout=INSTALL_SECONDS, env={**os.environ, **ENVIRONMENT})
    return target


def _probe(folder: Path, version: str, command: str, text: str) -> str:
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(install(folder, version))}
    done = subprocess.run([sys.executable, str(PROBE), command], input=text, capture_output=True, text=True,
                          timeout=PROBE_SECONDS, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ask DeepSpeed {version} ({command}): the probe ended with {done.returncode}:\n"
                           f"{done.stderr[-2000:]}")
    return done.stdout


def keys(folder: Path, version: str) -> dict:
    """The keys that a release knows."""
    return json.loads(_probe(folder, version, "keys", ""))


def ask(folder: Path, version: str, cases: list) -> list:
    """A release's answer to each case."""
    text = "".join(json.dumps(case) + "\n" for case in cases)
    answers = [json.loads(line) for line in _probe(folder, version, "ask", text).splitlines()]
    if len(answers) != len(cases):
        raise RuntimeError(f"ask DeepSpeed {version}: {len(cases)} cases, {len(answers)} answers")
    return answers

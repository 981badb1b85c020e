"""DeepSpeed releases, each in a folder of its own, and the probe run on them."""

import concurrent.futures
import json
import os
import subprocess
import sys
from pathlib import Path

VERSIONS = tuple(f"0.19.{patch}" for patch in range(9))
PROBE = Path(__file__).resolve().with_name("deepspeed_probe.py")
INSTALL_SECONDS = 900
PROBE_SECONDS = 1800
KEYS = "keys"  # the job of telling the keys
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


def _run(folder: Path, version: str, jobs: list) -> list:
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(install(folder, version))}
    done = subprocess.run([sys.executable, str(PROBE)], input=json.dumps(jobs), capture_output=True, text=True,
                          timeout=PROBE_SECONDS, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ask DeepSpeed {version}: the probe ended with {done.returncode}:\n{done.stderr[-2000:]}")
    results = json.loads(done.stdout)
    for job, result in zip(jobs, results):
        if job != KEYS and len(result) != len(job["ask"]):
            raise RuntimeError(f"ask DeepSpeed {version}: {len(job['ask'])} cases, {len(result)} answers")
    return results


def run(folder: Path, jobs: dict) -> dict:
    """What the jobs of each release give: {version: [result]} of {version: [KEYS or asking(cases)]}.

    As many releases at a time as there are processors; installed where they are not there."""
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        running = {version: pool.submit(_run, folder, version, todo) for version, todo in jobs.items()}
        return {version: future.result() for version, future in running.items()}


def asking(cases: list) -> dict:
    """The job of answering cases."""
    return {"ask": cases}


def keys(folder: Path) -> list:
    """The keys that each release knows."""
    return [known for known, in run(folder, {version: [KEYS] for version in VERSIONS}).values()]


def ask(folder: Path, cases: dict) -> dict:
    """{version: answers} of {version: cases}."""
    results = run(folder, {version: [asking(asked)] for version, asked in cases.items()})
    return {version: answers for version, (answers, ) in results.items()}


def by_version(rows: list) -> dict:
    """{version: its rows}, in their order."""
    return {version: [row for row in rows if row["version"] == version] for version in VERSIONS}

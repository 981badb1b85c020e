#!/usr/bin/env python3
"""Runs clang-tidy (.clang-tidy) over our sources in a build folder's compile commands.

    run_clang_tidy.py BUILD [--budget SECONDS] [--base COMMIT]

Files that differ from COMMIT (default: the last tag, else the first commit) come first, the
latest ones first. No file is started once the budget is spent; the files left out are counted. Exits 1 when a
file has findings, and when the budget did not even suffice for one file.
"""

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE_SECONDS = 300
# Not the tests: GoogleTest's macros cost most of the time and find little.
ROOMS = ("kernels/", "server/", "client/")


def git(*words):
    done = subprocess.run(["git", "-c", f"safe.directory={ROOT}", *words], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60,
                          check=False)
    return done.stdout.split() if done.returncode == 0 else []


def last_change(path, changed):
    """Sort key: changed files first, the most recently written first."""
    return (path not in changed, -(ROOT / path).stat().st_mtime, path)


def sources(build, base):
    commands = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    files = set()
    for entry in commands:
        file = Path(entry["file"]).resolve()
        if ROOT in file.parents and build.resolve() not in file.parents:
            path = file.relative_to(ROOT).as_posix()
            if path.startswith(ROOMS) and file.suffix == ".cc":
                files.add(path)
    base = base or (git("describe", "--tags", "--abbrev=0") or git("rev-list", "--max-parents=0",
                                                                   "HEAD") or [""])[0]
    changed = set(git("diff", "--name-only", base)) if base else set()
    return sorted(files, key=lambda p: last_change(p, changed))


def tidy(build, path):
    done = subprocess.run(["clang-tidy", "-quiet", "-p", str(build), str(ROOT / path)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=FILE_SECONDS, check=False)
    noise = ("warnings generated.", "warning generated.", "Suppressed ", "Use -header-filter")
    lines = [line for line in done.stdout.splitlines()
             if not any(n in line for n in noise)]
    return done.returncode, "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--budget", type=float, default=1200, help="seconds (default: 1200)")
    parser.add_argument("--base", help="commit whose changes come first")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    files = sources(args.build, args.base)
    if not files:
        print(f"run_clang_tidy.py: no source of ours in {args.build}", file=sys.stderr)
        return 1
    deadline = time.monotonic() + args.budget

    def work(path):
        if time.monotonic() > deadline:
            return path, None, ""
        try:
            return path, *tidy(args.build, path)
        except subprocess.TimeoutExpired:
            return path, 1, f"no answer in {FILE_SECONDS} s"

    checked = failed = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for path, status, output in pool.map(work, files):
            if status is None:
                continue
            checked += 1
            if status != 0:
                failed += 1
                print(f"{path}:\n{output}", flush=True)
    print(f"clang-tidy: {checked} of {len(files)} files checked, {failed} with findings"
          + (f", {len(files) - checked} left out (budget of {args.budget:.0f} s)"
             if checked < len(files) else ""))
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())

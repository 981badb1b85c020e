"""Rules that hold for every file of the repository."""

import re
import subprocess
from pathlib import Path

import arrows

MAX_LINES = 500
# Tables of a processor's instructions and of CUDA's functions: a file a table.
MAY_BE_LONG = ("tests/cuda_emu/emu/", "tests/cuda_emu/ptx/")
SOURCE_SUFFIXES = {".h", ".cc", ".cu", ".cuh", ".py", ".sh", ".proto"}
# Spelled so that this file keeps the rule it checks.
MACHINE_PATHS = re.compile(rb"(?<![\w.$}/-])/(?:%s)/" % b"|".join(
    [b"wo" b"rk", b"ro" b"ot", b"fa" b"rm", b"tm" b"p/b-[a-z]+"]))
UNFINISHED = re.compile(rb"\b(?:TO" rb"DO|FIX" rb"ME|XX" rb"X)\b")
SKIPPED = {".git", "build", "__pycache__"}
TOP_ROOMS = ["proto", "kernels", "server", "client", "deploy", "tests"]


def tracked(root: Path):
    """The paths of all files of the repository; of a copy without git, all but build folders."""
    if (root / ".git").exists():
        done = subprocess.run(
            ["git", "-c", f"safe.directory={root}", "ls-files", "-z", "--cached", "--others",
             "--exclude-standard"], cwd=root, stdout=subprocess.PIPE, check=True, timeout=60)
        names = [n.decode() for n in done.stdout.split(b"\0") if n]
    else:
        names = [f.relative_to(root).as_posix() for f in root.rglob("*")]
    return sorted(n for n in names if (root / n).is_file() and not SKIPPED & set(n.split("/")))


def rooms_without_readme(root: Path):
    rooms = ["."] + TOP_ROOMS + [r for r in arrows.MAY_INCLUDE if (root / r).is_dir() and any(
        f.is_file() for f in (root / r).iterdir())]
    return sorted({r for r in rooms if not (root / r / "README.md").is_file()})


def breaches(root: Path, path: str):
    """What one file does wrong, as lines."""
    content = (root / path).read_bytes()
    if b"\0" in content[:8192] or content[:2] == b"\x1f\x8b":
        return
    lines = content.split(b"\n")
    is_long = len(lines) - 1 > MAX_LINES and not path.startswith(MAY_BE_LONG)
    if Path(path).suffix in SOURCE_SUFFIXES and is_long:
        yield f"{path}: {len(lines) - 1} lines, more than {MAX_LINES}: split it"
    for number, line in enumerate(lines, 1):
        match = MACHINE_PATHS.search(line)
        if match:
            yield f"{path}:{number}: names a folder of one machine: {match.group().decode()}"
        if Path(path).suffix in SOURCE_SUFFIXES and UNFINISHED.search(line):
            yield f"{path}:{number}: announces unfinished work"

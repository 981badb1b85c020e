"""Which test sources of a build ctest runs."""

import json
import re
import subprocess
from pathlib import Path

TEST_FILE = re.compile(r".*_test\.(cc|cu|py)")


def ctest(build: Path):
    """The tests of a build folder, as the objects of ctest's own JSON list."""
    done = subprocess.run(["ctest", "--show-only=json-v1"], cwd=build, stdout=subprocess.PIPE,
                          check=True, text=True, timeout=120)
    return json.loads(done.stdout)["tests"]


def unbounded(tests):
    """The names of the tests that lack a TIMEOUT or LABELS."""
    return [t["name"] for t in tests
            if not {"TIMEOUT", "LABELS"} <= {p["name"] for p in t.get("properties", [])}]


def sources_by_target(compile_commands):
    """{CMake target: the sources it compiles}, from the entries of compile_commands.json."""
    found = {}
    for entry in compile_commands:
        output = entry.get("output") or re.search(r" -o (\S+)", entry["command"]).group(1)
        target = re.search(r"CMakeFiles/([^/]+)\.dir/", output)
        if target:
            found.setdefault(target.group(1), set()).add(str(Path(entry["file"]).resolve()))
    return found


def covered(tests, sources):
    """The absolute paths of all test sources that some ctest runs.

    A source is run when a test's command names it (scripts), or when it is compiled into the
    program that a test's command starts. ctest tells no command while the program is not built;
    zc_cc_test names both alike.
    """
    paths = set()
    for test in tests:
        for word in test.get("command", [test["name"]]):
            if TEST_FILE.fullmatch(word):
                paths.add(str(Path(word).resolve()))
            paths |= sources.get(Path(word).name, set())
    return paths


def needs_cuda(file: Path):
    """Whether a test exists only in builds with CUDA: device code, of CUDA's stand-ins, or named by
    its CMakeLists.txt below "if(ZEROCAST_HAVE_CUDA)"."""
    lists = file.parent / "CMakeLists.txt"
    text = lists.read_text(encoding="utf-8") if lists.is_file() else ""
    if file.suffix == ".cu" or "cuda_emu" in file.parts:
        return True
    return file.name in text.partition("if(ZEROCAST_HAVE_CUDA)")[2]


def unlisted(root: Path, build: Path):
    """The test files below root/tests that ctest does not run, and how many there are in all."""
    commands = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    run = covered(ctest(build), sources_by_target(commands))
    files = [f for f in sorted((root / "tests").rglob("*")) if TEST_FILE.fullmatch(f.name)
             and "data" not in f.relative_to(root).parts]
    # Device tests exist in a build only where there is a CUDA compiler.
    if not any(f.endswith(".cu") for f in sources_in(commands)):
        files = [f for f in files if not needs_cuda(f)]
    return [f.relative_to(root).as_posix() for f in files if str(f.resolve()) not in run], len(files)


def sources_in(commands):
    return {entry["file"] for entry in commands}

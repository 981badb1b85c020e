"""What the benchmarks in Python share: binaries, checkpoints, medians, tables. Only the standard library.

Importing it sets ZC_BIN_DIR and ZC_TEST_DATA, which tests/cluster.py wants, where they are not set.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parent.parent
SOURCE = TESTS.parent
for _folder in (TESTS, TESTS / "house"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))
BUILD = pathlib.Path(os.environ.get("ZC_BUILD_DIR", SOURCE / "build" / "release"))
os.environ.setdefault("ZC_BIN_DIR", str(BUILD / "bin"))
os.environ.setdefault("ZC_TEST_DATA", str(TESTS / "data"))
BIN = pathlib.Path(os.environ["ZC_BIN_DIR"])
TEST_BIN = BUILD / "test_bin"
THREADS = os.cpu_count()
RUN_TIMEOUT_S = 900


def parser(text):
    """A parser with the flags that all have."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--folder", default=str(BUILD / "bench"), help="the checkpoints, written once (default: %(default)s)")
    made.add_argument("--runs", type=int, default=7, help="each kind of run so often, in turn (default: %(default)s)")
    made.add_argument("--json", metavar="FILE", help="all figures")
    return made


def print_command():
    """Printed first: what made the table."""
    print("$ " + " ".join(["python3", os.path.relpath(sys.argv[0])] + sys.argv[1:]), flush=True)


def run(*args, **options):
    """Runs a program to its end; returns its stdout. RuntimeError with what it said where it fails."""
    command = [str(arg) for arg in args]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=options.pop("timeout", RUN_TIMEOUT_S), check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def checkpoint(folder, kind, gigabytes):
    """The folder of a checkpoint (tests/bench/bench_models.h), which is written where it is not there."""
    return pathlib.Path(run(TEST_BIN / "load_bench", "--write-only", "--folder", folder, "--kind", kind,
                            "--gb", gigabytes).strip())


def floor(ckpt, memory):
    """Seconds to read the files once into fresh memory: "memfd" or "anonymous"."""
    return float(run(TEST_BIN / "load_bench", "--floor", memory, "--checkpoint", ckpt, "--threads", THREADS))


def warm(ckpt):
    """Brings the files into the page cache."""
    floor(ckpt, "memfd")


def dtype_flags(kind):
    return ["--dtype", "bf16"] if kind == "fp32" else []


def file_bytes(ckpt):
    """Bytes of the weights' files, and of the tensors in them."""
    whole = data = 0
    for path in sorted(pathlib.Path(ckpt).glob("*.safetensors")):
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        whole += path.stat().st_size
        data += path.stat().st_size - 8 - header
    return whole, data


def environment(venv, requirements):
    """The python of an environment that holds what `requirements` asks for; ends the program where there is none."""
    import in_venv
    in_venv.PIP_SECONDS = 3600  # torch and what it brings are some GB
    try:
        in_venv.ensure(pathlib.Path(venv), requirements)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"install {requirements} into {venv}: {error}; needs python3-venv, a reachable package index and "
              "room on the disk", file=sys.stderr)
        sys.exit(3)
    return pathlib.Path(venv).absolute() / "bin" / "python"


def median(values):
    return statistics.median(values)


def rows(columns, table):
    """Prints a table: columns are (title, width, format), a negative width aligns left; None is a dash."""
    def line(cells):
        print(" ".join(f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}"
                       for cell, (_, width, _) in zip(cells, columns)).rstrip(), flush=True)
    line([title for title, _, _ in columns])
    for row in table:
        line(["-" if value is None else format(value, form) for value, (_, _, form) in zip(row, columns)])


def write_json(path, document):
    if path:
        pathlib.Path(path).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

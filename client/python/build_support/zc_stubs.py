"""Makes zerocast._proto: the messages of proto/zerocast/v1 as Python modules.

    python3 client/python/build_support/zc_stubs.py FOLDER

They are generated, never committed. protoc is ZEROCAST_PROTOC, else that of PATH, else grpcio-tools'.
What Debian's protoc (3.21) makes runs with the protobuf runtimes 4 to 7; a newer one's needs a
runtime of its own release or later.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parents[3] / "proto"
PROTOC_SECONDS = 120


class StubsError(RuntimeError):
    """The modules could not be generated."""


def protoc_command() -> list[str] | None:
    """The protoc to run; None where there is none."""
    given = os.environ.get("ZEROCAST_PROTOC") or shutil.which("protoc")
    if given:
        return [given]
    try:
        import grpc_tools  # noqa: F401
    except ImportError:
        return None
    return [sys.executable, "-m", "grpc_tools.protoc"]


def _within_package(text: str) -> str:
    """What protoc wrote, importing its neighbours from zerocast._proto: nothing outside the package
    is named zerocast.v1. google.rpc is that of googleapis-common-protos: a second definition of
    its messages in one process would be refused by protobuf."""
    text = re.sub(r"^from zerocast\.v1 import ", "from zerocast._proto import ", text, flags=re.MULTILINE)
    return re.sub(r"(BuildTopDescriptorsAndMessages\(DESCRIPTOR, ')zerocast\.v1\.", r"\1zerocast._proto.", text)


def _write(path: Path, text: str) -> None:
    """Writes the file unless it holds the text already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def generate(out: Path, protos: Path = PROTOS) -> None:
    """Makes the folder `out` the package zerocast._proto. Errors: StubsError."""
    files = sorted((protos / "zerocast" / "v1").glob("*.proto"))
    if not files:
        raise StubsError(f"generate zerocast._proto: no .proto files in {protos}/zerocast/v1; build from a "
                         "checkout of zerocast's repository")
    protoc = protoc_command()
    if protoc is None:
        raise StubsError("generate zerocast._proto: protoc was not found; install protobuf-compiler (Debian) "
                         "or grpcio-tools (PyPI), or set ZEROCAST_PROTOC")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [*protoc, f"-I{protos}", f"--python_out={folder}", f"--pyi_out={folder}", *map(str, files)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROTOC_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            raise StubsError(f"generate zerocast._proto: run {protoc[0]}: {error}") from error
        if done.returncode != 0:
            raise StubsError(f"generate zerocast._proto: {' '.join(command)}: exit {done.returncode}: "
                             f"{done.stderr.strip()}")
        made = sorted(Path(folder, "zerocast", "v1").iterdir())
        for path in made:
            _write(out / path.name, _within_package(path.read_text(encoding="utf-8")))
    _write(out / "__init__.py", '"""The messages of proto/zerocast/v1; generated."""\n')
    names = {path.name for path in made} | {"__init__.py"}
    for path in out.glob("*.py*"):
        if path.name not in names and path.is_file():
            path.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        generate(Path(sys.argv[1]))
    except StubsError as error:
        sys.exit(f"zc_stubs.py: {error}")

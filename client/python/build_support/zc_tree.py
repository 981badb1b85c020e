"""Assembles the package in a build folder, to run from the tree without installing it.

    python3 zc_tree.py FOLDER BIN_FOLDER

FOLDER gets links to the sources, and FOLDER/zerocast the generated _proto and _bin with links to
the binaries of BIN_FOLDER: PYTHONPATH=FOLDER is enough then.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import zc_stubs

SOURCES = Path(__file__).resolve().parents[1] / "src"
BINARIES = ("zerocast", "zerocast-server", "zerocast-agent")


def _link(path: Path, target: Path) -> None:
    if path.is_symlink() and path.readlink() == target:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.exists():
        path.unlink()
    path.symlink_to(target)


def assemble(folder: Path, bin_folder: Path) -> None:
    """Makes or renews the folder; what left the sources leaves it too."""
    package = folder / "zerocast"
    package.mkdir(parents=True, exist_ok=True)
    sources = {path.relative_to(SOURCES): path for path in SOURCES.rglob("*")
               if path.is_file() and path.suffix in (".py", ".typed") and "_proto" not in path.parts}
    for path in folder.rglob("*"):
        if path.is_symlink() and path.relative_to(folder) not in sources and path.parent.name != "_bin":
            path.unlink()
    for name, path in sources.items():
        _link(folder / name, path)
    for binary in BINARIES:
        _link(package / "_bin" / binary, bin_folder / binary)
    zc_stubs.generate(package / "_proto")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        assemble(Path(sys.argv[1]), Path(sys.argv[2]).absolute())
    except (OSError, zc_stubs.StubsError) as error:
        sys.exit(f"zc_tree.py: {error}")

"""Makes the folder that a wheel carries: the binaries, the libraries that they load, the licences.

    python3 zc_bundle.py FOLDER BIN_FOLDER

FOLDER gets the binaries, stripped; lib/ with every shared library that they load and that is not
glibc's; licenses/ with a text of each and LIBRARIES.txt. The binaries find lib/ by a DT_RPATH of
$ORIGIN/lib: unlike DT_RUNPATH it also holds for what the libraries load, and is searched before
LD_LIBRARY_PATH, whose libraries of the same name are others' and do not fit. NVIDIA's driver and
NCCL are opened at run time and stay out; the CUDA runtime of a build with CUDA comes with it.

Needs patchelf, strip, ldd and readelf on PATH; dpkg for the licences of Debian's libraries.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Tuple

BINARIES = ("zerocast", "zerocast-server", "zerocast-agent")
ROOT = Path(__file__).resolve().parents[3]
# The C library's; every Linux of the wheel's tag has them, and they cannot be mixed.
GLIBC = re.compile(r"^(linux-vdso|ld-linux-[\w-]+|libc|libm|libdl|libpthread|librt|libresolv|libutil|libanl)"
                   r"\.so(\.\d+)?$")
STAYS_OUT = re.compile(r"^(libcuda|libnccl)\.so")
TOOL_SECONDS = 120


class BundleError(RuntimeError):
    """The folder could not be made."""


def run(*command: object) -> str:
    """The standard output of a tool. Errors: BundleError."""
    line = [str(word) for word in command]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=TOOL_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise BundleError(f"run {' '.join(line)}: {error}") from error
    if done.returncode != 0:
        raise BundleError(f"run {' '.join(line)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def libraries_of(binary: Path) -> Dict[str, Path]:
    """{soname: file} of all shared libraries that a program loads at its start, glibc's left out."""
    found: Dict[str, Path] = {}
    for line in run("ldd", binary).splitlines():
        name = Path(line.split()[0]).name
        if GLIBC.match(name):
            continue
        match = re.search(r"=> (/\S+) \(", line)
        if match is None:
            raise BundleError(f"find the libraries of {binary}: {line.strip()}")
        if STAYS_OUT.match(name):
            raise BundleError(f"bundle {binary}: it loads {name}, which belongs to the machine that runs it")
        found[name] = Path(match.group(1))
    return found


def _debian_package(library: Path) -> Tuple[str, str]:
    """(package, version) of a file, by the path dpkg knows it under; ("", "") where none has it."""
    resolved = library.resolve()
    # Debian 12 has /lib as a link to /usr/lib, and packages that name either.
    for path in (resolved, Path("/") / resolved.relative_to("/usr") if resolved.is_relative_to("/usr") else resolved):
        done = subprocess.run(["dpkg-query", "--search", str(path)], capture_output=True, text=True,
                              timeout=TOOL_SECONDS, check=False) if shutil.which("dpkg-query") else None
        if done is not None and done.returncode == 0:
            package = done.stdout.split(": ")[0].split(",")[0]
            return package.split(":")[0], run("dpkg-query", "--show", "--showformat=${Version}", package)
    return "", ""


def _license(library: Path) -> Tuple[str, str, Path]:
    """(package, version, licence text) of a library. Errors: BundleError."""
    package, version = _debian_package(library)
    if package:
        text = Path("/usr/share/doc") / package / "copyright"
        if text.exists():
            return package, version, text
    if library.name.startswith("libcudart.so"):
        toolkit = library.resolve().parents[1]
        version = library.resolve().name.partition(".so.")[2]
        for place in (toolkit, *toolkit.parents[:2]):
            for pattern in ("EULA.txt", "dist-info/nvidia_cuda_runtime-*/licenses/License.txt",
                            "dist-info/nvidia_cuda_runtime-*/License.txt"):
                for text in sorted(place.glob(pattern)):
                    return "cuda-cudart", version, text
    raise BundleError(f"find the licence of {library}: no Debian package with a copyright file holds it; the text must "
                      "go with the library")


def bundle(folder: Path, bin_folder: Path) -> List[str]:
    """Makes the folder anew; returns the names of the libraries. Errors: BundleError, OSError."""
    shutil.rmtree(folder, ignore_errors=True)
    licenses = folder / "licenses"
    licenses.mkdir(parents=True)
    (folder / "lib").mkdir()
    libraries: Dict[str, Path] = {}
    for name in BINARIES:
        source = bin_folder / name
        if not source.exists():
            raise BundleError(f"bundle {source}: no such file; build it first")
        libraries.update(libraries_of(source))
        target = folder / name
        shutil.copyfile(source, target)
        target.chmod(0o755)
        run("strip", target)
        run("patchelf", "--force-rpath", "--set-rpath", "$ORIGIN/lib", target)
    rows = []
    for name, path in sorted(libraries.items()):
        target = folder / "lib" / name
        shutil.copyfile(path.resolve(), target)
        target.chmod(0o755)
        run("strip", "--strip-unneeded", target)
        # Its own would keep the program's from what it loads itself.
        if re.search(r"\((RUNPATH|RPATH)\)", run("readelf", "--dynamic", target)):
            run("patchelf", "--remove-rpath", target)
        package, version, text = _license(path)
        shutil.copyfile(text, licenses / f"{package}.txt")
        # Debian's texts name the licences that many packages share instead of repeating them.
        for shared in re.findall(r"/usr/share/common-licenses/([\w.+-]*\w)", text.read_text("utf-8", "replace")):
            common = Path("/usr/share/common-licenses") / shared
            if common.exists():
                (licenses / "common-licenses").mkdir(exist_ok=True)
                shutil.copyfile(common, licenses / "common-licenses" / shared)
        rows.append(f"{name}  {package} {version}  {package}.txt")
    for name in ("LICENSE", "NOTICE"):
        shutil.copyfile(ROOT / name, licenses / f"zerocast-{name}.txt")
    (licenses / "LIBRARIES.txt").write_text(
        "Shared libraries in ../lib: file, package and version that it is of, text of its licence.\n"
        "They are unchanged but for debug symbols, which are stripped.\n\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return sorted(libraries)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        bundle(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OSError, BundleError) as error:
        sys.exit(f"zc_bundle.py: {error}")

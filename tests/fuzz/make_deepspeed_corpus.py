#!/usr/bin/env python3
"""Makes corpus/deepspeed/recorded-* from tests/data/deepspeed/folders.tar.xz; deepspeed_fuzz.cc says in which form.

    tests/fuzz/make_deepspeed_corpus.py
"""

import io
import pathlib
import tarfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
# Each stage, the universal form of two, several groups, a legacy stream.
FOLDERS = ("c2", "keep_c1", "ernie-z1-w3-to-w1", "tiny-z1-w2-fp16", "tiny-z2-w4", "tiny-z2-w4-uni", "mixtral-z3-w2-uni")


def part(path: pathlib.PurePath, data: bytes) -> bytes:
    """One file: of a zip its pickle alone."""
    kind = "f"
    if zipfile.is_zipfile(io.BytesIO(data)):
        kind = "p"
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    return f"%%{kind} {path}\n".encode() + data + b"\n"


def without_zero(folder: bytes) -> bytes:
    """What an engine without ZeRO saves, near enough: no param_shapes, one file."""
    first = folder[: folder.index(b"\n%%", 2)] + b"\n"
    if b"param_shapes" not in first or b"model_states.pt" not in first:
        raise ValueError("the first file is not the model states")
    tag = first[len(b"%%p ") : first.index(b"/")]
    return first.replace(b"param_shapes", b"other_shapes") + b"%%f latest\n" + tag


def main() -> None:
    """One input a folder; the model states first."""
    parts: dict[str, list[tuple[bool, str, bytes]]] = {}
    with tarfile.open(HERE.parent / "data/deepspeed/folders.tar.xz") as files:
        for member in files.getmembers():
            path = pathlib.PurePath(member.name)
            stream = files.extractfile(member)
            if path.parts[0] not in FOLDERS or stream is None:
                continue
            inside = path.relative_to(path.parts[0])
            is_model = inside.name.endswith("_model_states.pt")
            parts.setdefault(path.parts[0], []).append((not is_model, str(inside), part(inside, stream.read())))
    corpus = HERE / "corpus" / "deepspeed"
    corpus.mkdir(parents=True, exist_ok=True)
    inputs = {name: b"".join(data for _, _, data in sorted(files)) for name, files in parts.items()}
    inputs["without-zero"] = without_zero(inputs["tiny-z1-w2-fp16"])
    for name, data in inputs.items():
        (corpus / f"recorded-{name}").write_bytes(data)
    print(f"{len(inputs)} inputs, {sum(map(len, inputs.values()))} bytes")


if __name__ == "__main__":
    main()

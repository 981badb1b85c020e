#!/usr/bin/env python3
"""Makes corpus/{torch,pickle,zip}/recorded-* from tests/data/torch/files.tar.xz: its small files.

    tests/fuzz/make_torch_corpus.py

The zip files of corpus/torch have no CRCs: with them, a changed byte would end every run early.
"""

import io
import pathlib
import tarfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
MOST_BYTES = 3000
# Pickles that no pickler writes.
HOSTILE = {
    "system": b"\x80\x02cos\nsystem\nX\x01\0\0\0:\x85R.",
    "laughs": b"\x80\x02]q\0" + b"".join(
        b"](" + b"h%c" % k * 10 + b"eq%c" % (k + 1) for k in range(30)) + b"\x87" * 10 + b".",
    "list-of-itself": b"\x80\x02]q\0h\0a.",
    "tuple-of-itself": b"\x80\x02]q\0h\0\x85q\1a0h\1.",
    "set-of-itself": b"\x80\x04\x8fq\0(h\0\x85\x90.",
    "object-in-its-argument": b"\x80\x02]q\0cm\nC\nh\0\x85Rq\1a0h\1.",
    "huge-text": b"\x80\x04\x8d\0\0\0\0\0\0\0\x10.",
    "huge-long": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "all-opcodes": b"\x80\x05\x95\1\0\0\0\0\0\0\0((NN201" b"(lq\0(d}K\1K\2s\x8f(K\1\x90(K\1\x91"
                   b"C\1xB\1\0\0\0x\x8e\1\0\0\0\0\0\0\0x\x96\1\0\0\0\0\0\0\0x\x8c\1xT\1\0\0\0xU\1x"
                   b"\x8c\1m\x8c\3A.B\x93)}\x92\x94NbNQM\1\1J\1\1\1\1\x8a\1\x80\x8b\1\0\0\0\1Gabcdefgh"
                   b"r\0\1\0\0j\0\1\0\0\x88\x89t.",
}


def without_crcs(data: bytes) -> bytes:
    """The zip file with 0 for every CRC, as after torch.serialization.set_crc32_options(False)."""
    out = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        at = archive.start_dir
        for info in archive.infolist():
            header = info.header_offset
            out[header + 14 : header + 18] = bytes(4)
            names = int.from_bytes(data[header + 26 : header + 28], "little")
            extra = int.from_bytes(data[header + 28 : header + 30], "little")
            end = header + 30 + names + extra + info.file_size
            if data[end : end + 4] == b"PK\7\10":
                out[end + 4 : end + 8] = bytes(4)
            out[at + 16 : at + 20] = bytes(4)
            at += 46 + sum(int.from_bytes(data[at + k : at + k + 2], "little")
                           for k in (28, 30, 32))
    return bytes(out)


def keep(kind: str, name: str, data: bytes) -> int:
    """Writes a seed, where it is small enough."""
    if len(data) > MOST_BYTES:
        return 0
    folder = HERE / "corpus" / kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"recorded-{name}").write_bytes(data)
    return 1


def main() -> None:
    """Takes one file of each name: the ranks of a checkpoint are much alike."""
    kept = 0
    for name, data in HOSTILE.items():
        (HERE / "corpus" / "pickle").mkdir(parents=True, exist_ok=True)
        (HERE / "corpus" / "pickle" / f"hostile-{name}").write_bytes(data)
    with tarfile.open(HERE.parent / "data/torch/files.tar.xz") as files:
        for member in files.getmembers():
            path = pathlib.PurePath(member.name)
            stream = files.extractfile(member)
            if path.suffix != ".pt" or stream is None:
                continue
            data, name = stream.read(), f"{path.parts[0]}-{path.stem}"
            if not zipfile.is_zipfile(io.BytesIO(data)):
                kept += keep("torch", name, data)
                continue
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                pickles = [entry for entry in archive.namelist() if entry.endswith("/data.pkl")]
                kept += keep("pickle", name, archive.read(pickles[0]))
            kept += keep("torch", name, without_crcs(data))
            if "-p" not in path.stem:  # the protocol is of no matter to a zip
                kept += keep("zip", name, data)
    print(f"{kept} files")


if __name__ == "__main__":
    main()

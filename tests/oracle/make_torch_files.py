#!/usr/bin/env python3
"""Makes tests/data/torch/files.tar.xz: files of torch.save and what torch loads from them.

    tests/oracle/make_torch_files.py FOLDER...

FOLDER: checkpoints of a DeepSpeed engine, taken as they are.  Needs torch and deepspeed
(requirements-training.txt).
"""

import http
import io
import json
import pathlib
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections import OrderedDict
from typing import Any

import torch

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "torch"


def odd_objects() -> dict[str, Any]:
    """Every form of tensor and container that is read."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    weight = torch.nn.Parameter(torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7)
    marked = torch.arange(5, dtype=torch.float32)
    vars(marked)["ds_tag"] = "kept"
    cycle: list[Any] = [1]
    cycle.append(cycle)
    module = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 3)
    types = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int16,
             torch.int32, torch.int64, torch.uint8, torch.bool]
    untyped = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
               torch.float8_e8m0fnu]
    return {
        "types": {str(dtype): torch.tensor([0, 1, 1, 0, 1]).to(dtype) for dtype in types},
        "untyped": {str(dtype): torch.tensor([0, 1, 1, 0, 1]).to(dtype) for dtype in untyped},
        "views": {"whole": base, "transposed": base.t(), "row": base[2], "inner": base[1:3, 2:5],
                  "step": base[::2, 1::3], "expanded": base[0, 0].expand(3, 2),
                  "empty": base[:0], "scalar": base[1, 1], "untied": base[1:3, 2:5].clone()},
        "wrapped": {"parameter": weight, "data": weight.data, "marked": marked,
                    "both": torch.nn.Parameter(marked.clone(), requires_grad=False),
                    "leaf": torch.arange(3.0, requires_grad=True)},
        "values": {"none": None, "flags": (True, False), "ints": [0, -1, 255, 65535, 2**31, -2**63],
                   "big": 2**100, "real": -1.5e300, "text": "h\u00e9\n\0", "bytes": b"\x00\xff",
                   "bytearray": bytearray(b"ab"), "set": {1}, "frozen": frozenset([2]),
                   "size": torch.Size([2, 3]), "dtype": torch.bfloat16, "level": http.HTTPStatus.OK,
                   3: "by number", "cycle": cycle, "ordered": OrderedDict(a=1, b=[2])},
        "module": module.state_dict(),
    }


def tensors(value: Any, path: list[Any], seen: set[int], out: list[dict[str, Any]]) -> None:
    """Adds every tensor that dicts, lists and tuples hold to `out`."""
    if isinstance(value, torch.Tensor):
        data = value.detach()
        flat = data.contiguous().reshape(-1)
        raw = flat.view(torch.uint8).numpy().tobytes() if data.numel() else b""
        out.append({"path": path, "dtype": str(data.dtype).removeprefix("torch."),
                    "shape": list(data.shape), "strides": list(data.stride()),
                    "parameter": isinstance(value, torch.nn.Parameter),
                    "requires_grad": value.requires_grad,
                    "crc32": zlib.crc32(raw)})
    elif id(value) not in seen and isinstance(value, (dict, list, tuple)):
        seen.add(id(value))
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if isinstance(key, (str, int)):
                tensors(item, [*path, key], seen, out)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        top = pathlib.Path(name)
        made = top / "made"
        made.mkdir()
        for stem, value in odd_objects().items():
            torch.save(value, made / f"{stem}.pt")
            if stem != "untyped":  # torch writes these as a legacy stream, but cannot load them
                torch.save(value, made / f"{stem}-legacy.pt", _use_new_zipfile_serialization=False)
            for protocol in (4, 5):
                torch.save(value, made / f"{stem}-p{protocol}.pt", pickle_protocol=protocol)
        for folder in map(pathlib.Path, sys.argv[1:]):
            shutil.copytree(folder, top / folder.name, copy_function=shutil.copyfile)
        expected = {}
        for path in sorted(top.rglob("*.pt")):
            out: list[dict[str, Any]] = []
            tensors(torch.load(path, weights_only=False), [], set(), out)
            expected[str(path.relative_to(top))] = out
        (top / "expected.json").write_text(json.dumps(expected))
        DATA.mkdir(exist_ok=True)
        with tarfile.open(DATA / "files.tar.xz", "w:xz", preset=9) as archive:
            for path in sorted(top.rglob("*")):
                if path.suffix in (".pt", ".json") or path.name == "latest":
                    info = tarfile.TarInfo(str(path.relative_to(top)))
                    info.size = path.stat().st_size
                    archive.addfile(info, io.BytesIO(path.read_bytes()))
    print(f"{len(expected)} files, torch {torch.__version__}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes the files corpus/config/recorded-* from recorded cases: the first of each kind.

    tests/fuzz/make_corpus.py
"""

import gzip
import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
CASES = ["config-odd.jsonl.gz", "config-made.jsonl.gz", "config.jsonl.gz"]
MOST_BYTES = 2000
MOST_FILES = 60


def main():
    seen = set()
    for name in CASES:
        with gzip.open(HERE.parent / "data" / "config" / name, "rt", encoding="utf-8",
                       newline="\n") as file:
            cases = [json.loads(line) for line in file.read().split("\n") if line]
        for case in cases:
            error = case["expect"].get("error", {"stage": "", "message": "none"})
            kind = (case.get("kind"), error["stage"] == "parse", error["message"][:6])
            config = next(case[key] for key in ("ds_config_text", "ds_config_base64", "ds_config")
                          if key in case)
            text = config if isinstance(config, str) else json.dumps(config)
            options = (1 | case["inference"] << 1 | case["auto_find_batch_size"] << 2 |
                       (len(seen) % 8) << 3)
            data = bytes([options]) + b"\xff".join(
                [text.encode(), json.dumps(case["args"]).encode(),
                 json.dumps(case["model_config"]).encode()])
            if kind in seen or len(data) > MOST_BYTES or len(seen) == MOST_FILES:
                continue
            seen.add(kind)
            (HERE / "corpus" / "config" / f"recorded-{len(seen):02}").write_bytes(data)
    print(f"{len(seen)} files")


if __name__ == "__main__":
    main()

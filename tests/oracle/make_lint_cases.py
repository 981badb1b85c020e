#!/usr/bin/env python3
"""Makes tests/data/config/lint.jsonl.gz: the cases of lint_cases.py with what DeepSpeed says about each.

    make_lint_cases.py RELEASES OUT.jsonl.gz

RELEASES holds (or gets) one folder a release. A case whose expected findings have an error although DeepSpeed does
not raise, or none although it does, must say why; else the script stops and nothing is written.
"""

import gzip
import json
import sys
from pathlib import Path

import deepspeed_releases as releases
import lint_cases


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    rows, unexplained = lint_cases.rows(), []
    asked = releases.by_version(rows)
    for version, answers in releases.ask(Path(sys.argv[1]), asked).items():
        for row, answer in zip(asked[version], answers):
            row["deepspeed"] = answer
            expects_error = any(severity == "error" for _, _, severity in row["findings"])
            if ("raises" in answer) != expects_error and "why" not in row:
                unexplained.append(f'{row["id"]}: {json.dumps(answer)}')
    if unexplained:
        print("findings and DeepSpeed differ, and no word why:", *unexplained, sep="\n", file=sys.stderr)
        return 1
    with open(sys.argv[2], "wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as out:
        for row in rows:
            out.write((json.dumps(row) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())

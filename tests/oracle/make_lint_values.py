#!/usr/bin/env python3
"""Makes tests/data/config/lint-values.jsonl.gz: every key with every kind of value, and whether DeepSpeed raises.

    make_lint_values.py RELEASES OUT.jsonl.gz

RELEASES holds (or gets) one folder a release. The first and the last release are asked about all keys of
server/config/deepspeed_keys.json, those between about the keys whose rule they changed, the last about the resolved golden configs too.
"""

import copy
import gzip
import json
import sys
from pathlib import Path

import deepspeed_releases as releases

ROOT = Path(__file__).resolve().parents[2]
KEYS = ROOT / "server/config/deepspeed_keys.json"
DATA = ROOT / "tests/data/config"
VALUES = [None, True, False, 0, 1, 2, 4, -1, 2**70, 2.5, 0.5, 1.0, 0.0, -0.5, 1e9, float("inf"), float("nan"), "x", "", "1",
          "3", "-1", " 2 ", "1.0", "1.5", "1_0", "1e3", "true", "No", "on", "fp16", "BF16", "auto", "cpu", "Warn", [], ["x"],
          [1], {}, {"x": 1}]
# Refused or not by the machine that is asked, or read when the section has other keys too.
LEFT_OUT = {"aio.use_gds", "optimizer.type", "optimizer.params", "scheduler.type", "scheduler.params"}


def place(path, key, value):
    """The smallest config with a value at a key."""
    config = {"train_micro_batch_size_per_gpu": 1}
    node = config
    for name in filter(None, path.split(".")):
        node = node.setdefault(name, {})
    node[key] = copy.deepcopy(value)
    return config


def cases(table, version):
    index = releases.VERSIONS.index(version)
    everything = index in (0, len(releases.VERSIONS) - 1)
    for path, section in table["sections"].items():
        if path in ("pipeline", "optimizer.params", "scheduler.params"):
            continue
        for key, rules in section["keys"].items():
            name = f"{path}.{key}" if path else key
            changed = any(rule.get("from") == version for rule in rules)
            known = any(releases.VERSIONS.index(rule.get("from", releases.VERSIONS[0])) <= index <=
                        releases.VERSIONS.index(rule.get("to", releases.VERSIONS[-1])) for rule in rules)
            parent = path.split(".")[0]
            parent_rules = table["sections"][""]["keys"].get(parent, []) if path else []
            if path and not any(releases.VERSIONS.index(rule.get("from", releases.VERSIONS[0])) <= index
                                for rule in parent_rules):
                continue
            if name in LEFT_OUT or not known or not (everything or changed):
                continue
            for value in VALUES:
                yield {"version": version, "config": place(path, key, value)}


def golden():
    """What the integration made of the golden configs, as DeepSpeed gets to see it."""
    for name in ("config.jsonl.gz", "config-odd.jsonl.gz"):
        with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if "resolved" in row["expect"]:
                    yield {"version": releases.VERSIONS[-1], "config": row["expect"]["resolved"],
                           "world_size": row["args"].get("world_size", 1)}


def asked(version):
    """Everything that a release is asked."""
    table = json.loads(KEYS.read_text(encoding="utf-8"))
    return list(cases(table, version)) + (list(golden()) if version == releases.VERSIONS[-1] else [])


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    rows = {version: asked(version) for version in releases.VERSIONS}
    answers = releases.ask(Path(sys.argv[1]), rows)
    with open(sys.argv[2], "wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as out:
        for version, cases_of in rows.items():
            for case, answer in zip(cases_of, answers[version]):
                case["raises"] = answer["raises"]["type"] if "raises" in answer else None
                out.write((json.dumps(case) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())

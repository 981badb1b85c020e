"""DeepSpeed's releases, installed from the package index, still say what tests/data/config and the lint's table record.

Wants ZC_SOURCE_DIR and ZC_BUILD_DIR; the releases are kept in the build folder.
"""

import gzip
import io
import json
import os
import unittest
from pathlib import Path

import deepspeed_releases as releases
import lint_cases
import make_deepspeed_keys
import make_lint_values

SOURCE = Path(os.environ["ZC_SOURCE_DIR"])
RELEASES = Path(os.environ["ZC_BUILD_DIR"]) / "oracle" / "deepspeed"
DATA = SOURCE / "tests/data/config"


def read(name):
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class Recorded(unittest.TestCase):
    maxDiff = None

    def test_cases_hold(self):
        """Each case gets the recorded answer, to the letter."""
        rows = read("lint.jsonl.gz")
        self.assertGreater(len(rows), 500)
        for version in releases.VERSIONS:
            asked = [row for row in rows if row["version"] == version]
            for row, answer in zip(asked, releases.ask(RELEASES, version, asked)):
                with self.subTest(row["id"]):
                    self.assertEqual(answer, row["deepspeed"])

    def test_cases_are_those_of_the_list(self):
        """The file was made from lint_cases.py as it is."""
        made = [{key: value for key, value in row.items() if key != "deepspeed"} for row in read("lint.jsonl.gz")]
        self.assertEqual(json.loads(json.dumps(made)), json.loads(json.dumps(lint_cases.rows())))

    def test_values_hold(self):
        """Each key refuses the values that it refused."""
        rows = read("lint-values.jsonl.gz")
        for version in releases.VERSIONS:
            asked = [row for row in rows if row["version"] == version]
            self.assertEqual(len(asked), len(make_lint_values.asked(version)))
            answers = releases.ask(RELEASES, version, asked)
            differ = [row for row, answer in zip(asked, answers)
                      if row["raises"] != answer.get("raises", {}).get("type")]
            self.assertEqual(differ, [])

    def test_the_table_is_that_of_the_releases(self):
        """deepspeed_keys.json is what make_deepspeed_keys.py makes."""
        out = io.StringIO()
        make_deepspeed_keys.write(make_deepspeed_keys.make(RELEASES), out)
        self.assertEqual(out.getvalue(), (SOURCE / "server/config/deepspeed_keys.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main(verbosity=2)

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


class Listed(unittest.TestCase):
    def test_cases_are_those_of_the_list(self):
        """The file was made from lint_cases.py as it is."""
        made = {row.pop("id"): {**row, "deepspeed": None} for row in read("lint.jsonl.gz")}
        # NaN is no value that equals itself.
        made = {name: json.dumps(row, sort_keys=True) for name, row in made.items()}
        listed = {row.pop("id"): json.dumps({**row, "deepspeed": None}, sort_keys=True) for row in lint_cases.rows()}
        self.assertEqual(list(made), list(listed))
        self.assertEqual([name for name, row in listed.items() if made[name] != row], [])


class Recorded(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        """Asks each release once: importing one takes as long as answering thousands of cases."""
        cls.cases = releases.by_version(read("lint.jsonl.gz"))
        cls.values = releases.by_version(read("lint-values.jsonl.gz"))
        jobs = {version: [releases.KEYS, releases.asking(cls.cases[version]), releases.asking(cls.values[version])]
                for version in releases.VERSIONS}
        cls.results = releases.run(RELEASES, jobs)

    def test_cases_hold(self):
        """Each case gets the recorded answer, to the letter."""
        count = differing = 0
        for version, rows in self.cases.items():
            for row, answer in zip(rows, self.results[version][1]):
                count += 1
                differing += answer != row["deepspeed"]
                with self.subTest(row["id"]):
                    self.assertEqual(answer, row["deepspeed"])
        print(f"{count} cases, {differing} differ")
        self.assertGreater(count, 500)

    def test_values_hold(self):
        """Each key refuses the values that it refused."""
        count, differ = 0, []
        for version, rows in self.values.items():
            self.assertEqual(len(rows), len(make_lint_values.asked(version)))
            count += len(rows)
            differ += [row for row, answer in zip(rows, self.results[version][2])
                       if row["raises"] != answer.get("raises", {}).get("type")]
        print(f"{count} values, {len(differ)} differ")
        self.assertGreater(count, 25000)
        self.assertEqual(differ, [])

    def test_the_table_is_that_of_the_releases(self):
        """deepspeed_keys.json is what make_deepspeed_keys.py makes."""
        out = io.StringIO()
        make_deepspeed_keys.write(make_deepspeed_keys.make([known for known, _, _ in self.results.values()]), out)
        self.assertEqual(out.getvalue(), (SOURCE / "server/config/deepspeed_keys.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main(verbosity=2)

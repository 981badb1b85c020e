#!/usr/bin/env python3
"""Fails when a test file is not in ctest's list: a test outside the build is decoration."""

import os
import unittest
from pathlib import Path

import listed

SOURCE = Path(os.environ["ZC_SOURCE_DIR"])
BUILD = Path(os.environ["ZC_BUILD_DIR"])


class CtestList(unittest.TestCase):
    def test_every_test_file_is_run(self):
        missing, count = listed.unlisted(SOURCE, BUILD)
        self.assertEqual(missing, [], "not run by ctest: name them in a CMakeLists.txt")
        self.assertGreater(count, 3, "found hardly any test files")

    def test_test_names_are_unique_and_bounded(self):
        names = [name for name, _ in listed.ctest(BUILD)]
        self.assertEqual(sorted(names), sorted(set(names)))

    def test_a_file_outside_the_build_is_found(self):
        tests = [("a_test", ["/b/test_bin/a_test"]),
                 ("s_test", ["/usr/bin/python3", "/s/tests/s_test.py", "-v"])]
        sources = listed.sources_by_target([
            {"file": "/s/tests/a_test.cc", "output": "tests/CMakeFiles/a_test.dir/a_test.cc.o"},
            {"file": "/s/tests/b_test.cc", "output": "tests/CMakeFiles/b_test.dir/b_test.cc.o"},
            {"file": "/s/tests/more_test.cc", "command":
             "g++ -o tests/CMakeFiles/a_test.dir/more_test.cc.o -c /s/tests/more_test.cc"}])
        self.assertEqual(listed.covered(tests, sources),
                         {"/s/tests/a_test.cc", "/s/tests/more_test.cc", "/s/tests/s_test.py"})
        self.assertEqual(listed.covered([], sources), set(), "compiled, but never run")


if __name__ == "__main__":
    unittest.main(verbosity=2)

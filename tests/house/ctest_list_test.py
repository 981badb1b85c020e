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
        tests = listed.ctest(BUILD)
        names = [t["name"] for t in tests]
        self.assertEqual(sorted(names), sorted(set(names)))
        self.assertEqual(listed.unbounded(tests), [], "without TIMEOUT or LABELS")

    def test_an_unbounded_test_is_found(self):
        labels, timeout = {"name": "LABELS", "value": ["unit"]}, {"name": "TIMEOUT", "value": 9.0}
        self.assertEqual(listed.unbounded([
            {"name": "bare"}, {"name": "endless", "properties": [labels]},
            {"name": "unlabelled", "properties": [timeout]},
            {"name": "good", "properties": [labels, timeout]}]), ["bare", "endless", "unlabelled"])

    def test_only_tests_of_cuda_may_be_missing_without_it(self):
        device = SOURCE / "tests/kernels/device"
        self.assertTrue(listed.needs_cuda(device / "device_test.cc"))
        self.assertFalse(listed.needs_cuda(device / "unique_handle_test.cc"))

    def test_a_file_outside_the_build_is_found(self):
        tests = [{"name": "a_test", "command": ["/b/test_bin/a_test"]},
                 {"name": "c_test"},  # not built
                 {"name": "s", "command": ["/usr/bin/python3", "/s/tests/s_test.py", "-v"]}]
        sources = listed.sources_by_target([
            {"file": "/s/tests/a_test.cc", "output": "tests/CMakeFiles/a_test.dir/a_test.cc.o"},
            {"file": "/s/tests/b_test.cc", "output": "tests/CMakeFiles/b_test.dir/b_test.cc.o"},
            {"file": "/s/tests/c_test.cc", "output": "tests/CMakeFiles/c_test.dir/c_test.cc.o"},
            {"file": "/s/tests/more_test.cc", "command":
             "g++ -o tests/CMakeFiles/a_test.dir/more_test.cc.o -c /s/tests/more_test.cc"}])
        self.assertEqual(listed.covered(tests, sources),
                         {"/s/tests/a_test.cc", "/s/tests/c_test.cc", "/s/tests/more_test.cc",
                          "/s/tests/s_test.py"})
        self.assertEqual(listed.covered([], sources), set(), "compiled, but never run")


if __name__ == "__main__":
    unittest.main(verbosity=2)

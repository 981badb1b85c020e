"""Each part of the matcher is needed: a test fails when it is taken out (mutants.py).

Compiles one file of server/conversion a mutant, beside the build: nothing of it changes. Needs a
build by Ninja of the tests named below. Words after the script name properties: only theirs run.
"""

import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from mutants import MUTANTS  # noqa: E402

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ZC_BUILD_DIR"])
ROOM = SOURCE / "server" / "conversion"

# Which executable holds the tests of a suite.
EXECUTABLES = {
    "PatternTest": "conversion_pattern_test", "NaturalKeyTest": "conversion_pattern_test",
    "RenamerTest": "conversion_rename_test", "ConvertTest": "conversion_convert_test",
    "SubModelRulesTest": "conversion_sub_model_rules_test",
    "DigitBlindTest": "conversion_table_rules_test"}

# A mutant may loop or match without end: that is seen, too.
TEST_TIMEOUT_S = 120
BUILD_TIMEOUT_S = 600


def run(command, timeout):
    return subprocess.run(command, cwd=BUILD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=timeout, check=False)


def compile_commands():
    with open(BUILD / "compile_commands.json", encoding="utf-8") as file:
        return {entry["file"]: shlex.split(entry["command"]) for entry in json.load(file)}


def link_command(executable):
    """What links the executable, as words; Ninja writes ': && c++ ... && :'."""
    listed = run(["ninja", "-t", "commands", executable], BUILD_TIMEOUT_S).stdout
    line = next(line for line in reversed(listed.splitlines()) if f"-o test_bin/{executable}" in line)
    return shlex.split(line.split(" && ")[-2] if line.endswith(" && :") else line)


def mutated(mutant):
    text = (ROOM / mutant.file).read_text(encoding="utf-8")
    count = text.count(mutant.find)
    if count != 1:
        raise AssertionError(f"the text occurs {count} times in {mutant.file}: {mutant.find}")
    return text.replace(mutant.find, mutant.put)


def replaced(words, flag, value):
    """The words, with another value behind the last such flag."""
    at = len(words) - 1 - words[::-1].index(flag)
    return words[:at + 1] + [value] + words[at + 2:]


class MutantsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.compile = compile_commands()
        cls.link = {name: link_command(name) for name in set(EXECUTABLES.values())}

    def executable_of(self, mutant):
        return EXECUTABLES[mutant.test.split(".")[0]]

    def build(self, mutant, folder):
        """The mutant's executable: its object comes before the library that has the original."""
        file = folder / mutant.file
        file.write_text(mutated(mutant), encoding="utf-8")
        command = self.compile[str(ROOM / mutant.file)]
        command = replaced(replaced(command, "-o", str(folder / "mutant.o")), "-c", str(file))
        # A mutant may leave something unused.
        done = run([word for word in command if word != "-Werror"], BUILD_TIMEOUT_S)
        self.assertEqual(done.returncode, 0, done.stdout)
        executable = self.executable_of(mutant)
        words = replaced(self.link[executable], "-o", str(folder / executable))
        at = words.index("-o")
        done = run(words[:at] + [str(folder / "mutant.o")] + words[at:], BUILD_TIMEOUT_S)
        self.assertEqual(done.returncode, 0, done.stdout)
        return folder / executable

    def fails(self, executable, test):
        """Whether the test ran and did not pass."""
        try:
            done = run([str(executable), f"--gtest_filter={test}"], TEST_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return True
        self.assertIn("[ RUN      ] " + test, done.stdout, f"there is no test {test}")
        return done.returncode != 0

    def test_the_tests_pass_without_a_mutant(self):
        for test in sorted({mutant.test for mutant in MUTANTS}):
            executable = BUILD / "test_bin" / EXECUTABLES[test.split(".")[0]]
            self.assertFalse(self.fails(executable, test), test)

    def test_no_mutant_survives(self):
        survivors, tried = [], 0
        for mutant in MUTANTS:
            if PROPERTIES and mutant.about not in PROPERTIES:
                continue
            tried += 1
            with tempfile.TemporaryDirectory(prefix="zc_mutant_") as folder, \
                    self.subTest(mutant.about, mutant=mutant.name):
                found = self.fails(self.build(mutant, pathlib.Path(folder)), mutant.test)
                print(f"{mutant.about}: {mutant.name}: "
                      f"{mutant.test + ' fails' if found else 'SURVIVES'}", flush=True)
                if not found:
                    survivors.append(f"{mutant.about}: {mutant.name}: {mutant.test} passes")
        print(f"{tried} mutants, {len(survivors)} survive")
        self.assertGreater(tried, 0)
        self.assertEqual(survivors, [])


PROPERTIES = sys.argv[1:]

if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)

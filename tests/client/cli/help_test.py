"""--help of every command fits a terminal of 80 columns and says what the command takes."""

import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402


def help_of(binary, *command):
    done = subprocess.run([str(cluster.BIN / binary), *command, "--help"], capture_output=True, text=True,
                          timeout=cluster.COMMAND_TIMEOUT_S, check=True)
    return done.stdout


def subcommands(text):
    """The names in the part of a help that lists them."""
    part = text.partition("Subcommands:\n")[2].partition("\n\n")[0]
    return [line.split()[0] for line in part.splitlines() if line.startswith("  ") and line[2] != " "]


class HelpTest(unittest.TestCase):

    def check(self, binary, *command):
        text = help_of(binary, *command)
        with self.subTest(command=(binary, *command)):
            self.assertEqual([line for line in text.splitlines() if len(line) > 80], [])
            self.assertNotIn(" \n", text.replace("[OPTIONS] \n", ""))
        for name in subcommands(text):
            self.check(binary, *command, name)

    def test_it_fits_a_terminal(self):
        self.assertIn("load", subcommands(help_of("zerocast")))
        self.assertIn("watch", subcommands(help_of("zerocast", "job")))
        for binary in ("zerocast", "zerocast-agent"):
            self.check(binary)

    def test_a_load_takes_the_flags_of_the_agents_in_its_process(self):
        for command in ("load", "plan"):
            part = help_of("zerocast", command).partition("Of the agents in this process, without --server:\n")[2]
            for flag in ("--threads", "--io", "--read-rate", "--send-rate"):
                self.assertIn(f"  {flag} ", part)
                self.assertIn(f"  {flag} ", help_of("zerocast-agent"))

    def test_it_names_the_codes_of_signals(self):
        self.assertIn("130 and 143", help_of("zerocast").replace("\n", " "))


if __name__ == "__main__":
    unittest.main()

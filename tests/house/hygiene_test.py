#!/usr/bin/env python3
"""Fails when a room has no README.md, or a file breaks a rule that holds for all files."""

import os
import shutil
import tempfile
import unittest
from pathlib import Path

import hygiene

SOURCE = Path(os.environ["ZC_SOURCE_DIR"])


class Hygiene(unittest.TestCase):
    def test_every_room_has_a_readme(self):
        self.assertEqual(hygiene.rooms_without_readme(SOURCE), [])

    def test_every_file_keeps_the_rules(self):
        files = hygiene.tracked(SOURCE)
        self.assertGreater(len(files), 20)
        found = [b for f in files for b in hygiene.breaches(SOURCE, f)]
        self.assertEqual(found, [], "\n" + "\n".join(found))

    def test_breaches_are_found(self):
        root = Path(tempfile.mkdtemp(prefix="zerocast-hygiene-"))
        self.addCleanup(shutil.rmtree, root)
        machine = "/ro" + "ot/data"
        planted = {
            "long.cc": "x\n" * (hygiene.MAX_LINES + 1),
            "path.txt": f"see\n{machine}/file\n",
            "quoted.md": f"`{machine}/file`\n",
            "unfinished.h": "// TO" + "DO: later\n",
        }
        fine = {
            "short.cc": "x\n" * hygiene.MAX_LINES,
            "data.json": "1\n" * (hygiene.MAX_LINES + 1),
            "relative.txt": "${HOME}" + machine + " src" + machine + "\n",
        }
        for name, text in {**planted, **fine}.items():
            (root / name).write_text(text, encoding="utf-8")
        self.assertEqual(hygiene.tracked(root), sorted([*planted, *fine]))
        found = [b for f in hygiene.tracked(root) for b in hygiene.breaches(root, f)]
        self.assertEqual(sorted({b.split(":")[0] for b in found}), sorted(planted))

    def test_a_room_without_readme_is_found(self):
        root = Path(tempfile.mkdtemp(prefix="zerocast-hygiene-"))
        self.addCleanup(shutil.rmtree, root)
        for room in (*hygiene.TOP_ROOMS, "server/plan", "server/base"):
            (root / room).mkdir(parents=True)
            (root / room / "README.md").touch()
        (root / "README.md").touch()
        self.assertEqual(hygiene.rooms_without_readme(root), [])
        (root / "server/plan/plan.h").touch()
        (root / "server/plan/README.md").unlink()
        (root / "deploy/README.md").unlink()
        self.assertEqual(hygiene.rooms_without_readme(root), ["deploy", "server/plan"])


if __name__ == "__main__":
    unittest.main(verbosity=2)

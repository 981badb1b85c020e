"""The commands of proto/README.md make stubs for other languages that hold what the protos say.

Each command is taken from the page. A part that needs a plugin which this machine lacks is left
out and named; where nothing of a command is left, its test is skipped.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
PAGE = SOURCE / "proto" / "README.md"
PROTOC_TIMEOUT_S = 120
# Generators that are programs of their own; the others are in protoc or in grpc_tools.
PLUGINS = {"go": "protoc-gen-go", "go-grpc": "protoc-gen-go-grpc", "grpc-java": "protoc-gen-grpc-java"}


def commands():
    """{language: command line} of the page's section on stubs."""
    section = re.search(r"^## Stubs for other languages\n(.*?)^## ", PAGE.read_text(encoding="utf-8"),
                        re.DOTALL | re.MULTILINE).group(1)
    found, language = {}, None
    for line in re.sub(r"\\\n\s*", "", section).splitlines():
        if line.startswith("    # "):
            language = line.removeprefix("    # ")
        elif line.startswith("    ") and language:
            found[language] = line.strip()
    return found


class StubsCase(unittest.TestCase):

    def setUp(self):
        # The commands run in the repository's root and write into out/: here both are apart.
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="zc_stubs_"))
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        (self.root / "proto").symlink_to(SOURCE / "proto")
        self.out = self.root / "out"
        self.out.mkdir()

    def generate(self, language):
        """Runs the page's command for a language, less the generators that are not installed."""
        words, kept, left_out = shlex.split(commands()[language]), [], []
        for word in words:
            option = re.match(r"--(.+)_(?:out|opt)=", word)
            plugin = PLUGINS.get(option.group(1)) if option else None
            if plugin and shutil.which(plugin) is None:
                left_out.append(plugin)
            else:
                kept.append(word)
        missing = ", ".join(sorted(set(left_out)))
        if missing:
            print(f"{language}: not installed, left out: {missing}")
        if not any("_out=" in word for word in kept):
            self.skipTest(f"{missing} not installed")
        if kept[0] == "python":
            kept[0] = sys.executable
        elif shutil.which(kept[0]) is None:
            self.skipTest(f"{kept[0]} not installed")
        files = [path for word in kept if "*" in word for path in sorted(self.root.glob(word))]
        line = [word for word in kept if "*" not in word]
        line += [str(path.relative_to(self.root)) for path in files]
        done = subprocess.run(line, cwd=self.root, capture_output=True, text=True,
                              timeout=PROTOC_TIMEOUT_S, check=False)
        self.assertEqual(done.returncode, 0, f"{shlex.join(line)}\n{done.stderr}")


class StubsTest(StubsCase):

    def test_the_page_names_three_languages(self):
        self.assertEqual(sorted(commands()), ["Go", "Java", "Python"])

    def test_python(self):
        self.generate("Python")
        services = sorted(path.stem for path in (SOURCE / "proto/zerocast/v1").glob("*.proto"))
        imports = "\n".join(f"from zerocast.v1 import {name}_pb2, {name}_pb2_grpc" for name in services)
        done = subprocess.run(
            [sys.executable, "-c", imports + """
from google.rpc import error_details_pb2, status_pb2
answer = config_pb2.BatchResolveConfigsResponse()
assert answer.DESCRIPTOR.file.dependencies, "no imports"
assert config_pb2_grpc.ConfigServiceStub and agent_pb2_grpc.AgentServiceServicer
assert status_pb2.Status(code=5).SerializeToString() == b"\\x08\\x05"
assert error_details_pb2.BadRequest
"""], env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.out)}, capture_output=True, text=True,
            timeout=PROTOC_TIMEOUT_S, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_java(self):
        self.generate("Java")
        made = {str(path.relative_to(self.out)) for path in self.out.rglob("*.java")}
        self.assertIn("dev/zerocast/v1/ResolveConfigRequest.java", made)
        # What they refer to of google.rpc is among them.
        used = {name for path in made
                for name in re.findall(r"\bgoogle\.rpc\.(\w+OuterClass)\.", (self.out / path).read_text("utf-8"))}
        self.assertIn("StatusOuterClass", used)
        self.assertEqual({f"google/rpc/{name}.java" for name in used} - made, set())


class GoStubsTest(StubsCase):

    def test_go(self):
        self.generate("Go")
        made = list(self.out.rglob("config.pb.go"))
        self.assertEqual([str(path.parent.relative_to(self.out)) for path in made],
                         ["zerocast.dev/api/zerocast/v1"])
        self.assertIn('"google.golang.org/genproto/googleapis/rpc/status"',
                      made[0].read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main(verbosity=2)

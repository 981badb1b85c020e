#!/usr/bin/env python3
"""Fails when a source file includes what its room may not see."""

import os
import shutil
import tempfile
import unittest
from pathlib import Path

import arrows

SOURCE = Path(os.environ["ZC_SOURCE_DIR"])


class IncludeArrows(unittest.TestCase):
    def test_no_forbidden_arrow(self):
        found, count = arrows.violations(SOURCE)
        self.assertEqual(found, [], "\n" + "\n".join(found))
        self.assertGreater(count, 10, "found hardly any source files")

    def test_the_table_has_no_cycle(self):
        done = set()
        while len(done) < len(arrows.MAY_INCLUDE):
            ready = {r for r, may in arrows.MAY_INCLUDE.items() if r not in done and may <= done}
            self.assertTrue(ready, f"a cycle among {set(arrows.MAY_INCLUDE) - done}")
            done |= ready

    def test_planted_violations_are_found(self):
        planted = {
            "kernels/copy/a.cc": '#include "server/base/errors.h"',
            "kernels/base/a.h": '#include "kernels/copy/box.h"',
            "kernels/comm/a.cc": '#include "zerocast/v1/load.pb.h"',
            "kernels/comm/b.cc": "#include <nlohmann/json.hpp>",
            "kernels/copy/b.cc": "#include <thread>",
            "kernels/copy/c.cu": "  #  include <fstream>",
            "server/base/a.cc": '#include "server/plan/plan.h"',
            "server/conversion/a.cc": '#include "server/config/resolve.h"',
            "server/conversion/b.cc": '#include "absl/time/clock.h"',
            "server/config/a.cc": "#include <unistd.h>",
            "server/plan/a.cc": '#include "server/base/clock.h"',
            "server/plan/b.cc": "#include <mutex>",
            "server/jobs/a.cc": "#include <grpcpp/grpcpp.h>",
            "server/jobs/b.cc": '#include "server/rpc/service.h"',
            "server/store/a.cc": '#include "client/formats/safetensors.h"',
            "server/wire/a.cc": '#include "server/rpc/service.h"',
            "server/base/b.cc": '#include "a.cc"',
            "server/base/c.cc": '#include "../plan/plan.h"',
            "server/base/d.cc": '#include "tests/status_matchers.h"',
            "server/server_main.cc": '#include "client/formats/safetensors.h"',
            "server/new_room/a.cc": "",
            "client/formats/a.cc": '#include "server/jobs/machine.h"',
            "client/agent/executor.cc": '#include "zerocast/v1/agent.pb.h"',
            "client/agent/reader.cc": '#include "client/cli/main.h"',
            "client/cli/job.cc": '#include "server/rpc/service.h"',
            "client/cli/load.cc": '#include "server/config/resolve.h"',
            "client/cpp/a.cc": '#include "client/agent/executor.h"',
            "client/verify/a.cc": '#include "kernels/copy/box.h"',
            "client/verify/b.cc": '#include "client/formats/safetensors.h"',
        }
        allowed = {
            "kernels/copy/z.cc": '#include "kernels/base/status_macros.h"\n#include <vector>',
            "server/plan/z.cc": '#include "kernels/copy/box.h"\n#include <nlohmann/json.hpp>',
            "server/wire/z.cc": '#include "zerocast/v1/load.pb.h"\n#include "server/jobs/load.h"',
            "client/agent/session.cc": '#include "zerocast/v1/agent.pb.h"',
            "client/agent/z.cc": '#include <thread>\n#include <unistd.h>\n#include "xxhash.h"',
            "client/cli/embedded.cc": '#include "server/rpc/service.h"',
            "client/cli/embedded_server.cc": '#include "server/store/store.h"',
            "client/verify/z.cc": '#include "kernels/copy/dtype.h"',
            "server/server_main.cc": '#include "server/rpc/service.h"',
        }
        root = Path(tempfile.mkdtemp(prefix="zerocast-arrows-"))
        self.addCleanup(shutil.rmtree, root)

        def violations(files):
            tree = Path(tempfile.mkdtemp(dir=root))
            for path, text in files.items():
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).write_text(f"// A file.\n{text}\n", encoding="utf-8")
            found, count = arrows.violations(tree)
            self.assertEqual(count, len(files))
            return found

        self.assertEqual(sorted(v.split(":")[0] for v in violations(planted)), sorted(planted))
        self.assertEqual(violations(allowed), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)

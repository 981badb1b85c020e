"""zerocast config resolve, lint and diff: the golden cases, every source, bad input."""

import base64
import gzip
import json
import os
import pathlib
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

GOLDEN = [cluster.DATA / "config" / name for name in ("config.jsonl.gz", "config-odd.jsonl.gz")]

CONFIG = {"train_batch_size": "auto", "bf16": {"enabled": "auto"},
          "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
          "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}}
ARGUMENTS = {"world_size": 8, "per_device_train_batch_size": 2, "learning_rate": 1e-4, "bf16": True}


def lines_of(path):
    # Values may hold other line ends than the line feed.
    return [line for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line]


run = cluster.zerocast


def one_line(text):
    """What was cut into lines, whole again."""
    return " ".join(text.split())


class ConfigTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_config_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.arguments = self.write("args.json", json.dumps(ARGUMENTS))
        self.model = self.write("model.json", json.dumps({"hidden_size": 64}))

    def write(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def resolve(self, config, *args, code=0, json_output=True):
        path = self.write("ds.json", config if isinstance(config, (str, bytes)) else json.dumps(config))
        result = run(*(["--output", "json"] if json_output else []), "config", "resolve", "--ds-config",
                     path, "--args", self.arguments, "--model-config", self.model,
                     "--num-training-steps", 100, *args)
        self.assertEqual(result.code, code, result)
        return result

    def fits_a_terminal(self, text):
        self.assertTrue(text)
        for line in text.split("\n"):
            self.assertLessEqual(len(line), 80, line)

    # The golden cases, byte for byte: types and the order of keys count.

    def check_golden(self, *server):
        for path in GOLDEN:
            lines = lines_of(path)
            result = run(*server, "config", "resolve", "--batch", path)
            self.assertEqual(result.code, 0, result.stderr)
            answers = [line for line in result.stdout.split("\n") if line]
            self.assertEqual(len(answers), len(lines))
            for line, answer in zip(lines, answers):
                case = json.loads(line)
                expected = {"id": case["id"]} | case["expect"]
                self.assertEqual(json.dumps(json.loads(answer)), json.dumps(expected))

    def test_golden_cases_embedded(self):
        self.check_golden()

    def test_golden_cases_with_a_server(self):
        with cluster.Cluster(num_agents=0) as servers:
            self.check_golden("--server", servers.address)

    # Batches.

    def test_a_batch_goes_on_after_what_it_cannot_read(self):
        cases = [b'{"id": "a", "ds_config": {}, "args": {}}',
                 b"not json",
                 b'{"id": 7, "ds_config": {"x": }, "args": {}}',
                 b'{"id": "bytes \xff"}',
                 b'{"id": "no config"}',
                 b'{"id": "steps", "ds_config": {}, "num_training_steps": "many"}',
                 b'{"id": "deep", "ds_config": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
                 b"",
                 b'{"id": "odd", "ds_config": {"a": 1e400, "b": NaN, "c": 123456789012345678901234567890, '
                 b'"d": 5e8, "e": "\\ud83d\\ude00\xe2\x80\xa8"}, "args": {"max_grad_norm": null}}']
        result = run("config", "resolve", "--batch", "-", stdin=b"\n".join(cases))
        self.assertEqual(result.code, 0, result)
        answers = [json.loads(line) for line in result.stdout.split("\n") if line]
        self.assertEqual([a.get("id") for a in answers],
                         ["a", None, 7, None, "no config", "steps", "deep", "odd"])
        self.assertEqual([a.get("line") for a in answers], [None, 2, 3, 4, 5, 6, 7, None])
        for answer in answers[1:7]:
            self.assertEqual(answer["error"]["stage"], "request")
            self.assertEqual(answer["error"]["type"], "INVALID_ARGUMENT")
        self.assertIn("num_training_steps", answers[5]["error"]["message"])
        self.assertIn('"a": Infinity, "b": NaN, "c": 123456789012345678901234567890, "d": 500000000.0, '
                      '"e": "\U0001F600\u2028"', result.stdout.split("\n")[7])

    def test_a_batch_file_that_is_damaged(self):
        result = run("config", "resolve", "--batch",
                     self.write("b.gz", gzip.compress(b'{"id": 1}\n' * 1000)[:40]))
        self.assertEqual(result.code, 2, result)
        self.assertIn("b.gz", result.stderr)
        result = run("config", "resolve", "--batch", self.folder / "none")
        self.assertEqual(result.code, 3, result)

    # Sources.

    def test_every_source_gives_the_same(self):
        text = json.dumps(CONFIG)
        expected = self.resolve(text).stdout
        common = ("--args", self.arguments, "--model-config", self.model, "--num-training-steps", 100)
        result = run("--output", "json", "config", "resolve", "--ds-config", "-", *common,
                     stdin=text.encode())
        self.assertEqual(result.stdout, expected, result)
        result = run("--output", "json", "config", "resolve", "--ds-config-base64",
                     base64.urlsafe_b64encode(text.encode()).decode(), *common)
        self.assertEqual(result.stdout, expected, result)

    def test_the_whole_answer(self):
        result = self.resolve(CONFIG, "--lint", "--estimate", "--num-parameters", 10**9).json()
        self.assertEqual(result["config"]["train_batch_size"], 16)
        self.assertEqual(list(result["config"]), list(CONFIG))
        kinds = {origin["path"]: origin["kind"] for origin in result["origins"]}
        self.assertEqual(kinds["optimizer.type"], "given")
        self.assertEqual(kinds["optimizer.params.lr"], "argument")
        self.assertEqual(kinds["zero_optimization.reduce_bucket_size"], "derived")
        self.assertEqual(result["dtype"], "bf16")
        self.assertEqual(result["zero_stage"], 3)
        self.assertEqual((result["optimizer"], result["lr_scheduler"]), ("deepspeed", "trainer"))
        self.assertEqual(len(result["content_hash"]), 32)
        self.assertGreater(result["memory"]["accelerator_bytes"], 0)
        self.assertIsInstance(result["findings"], list)

    def test_texts_fit_a_terminal(self):
        config = CONFIG | {"zero_optimisation": {}, "fp16": {"enabled": "auto", "loss_scale_windw": 3}}
        result = self.resolve(config, "--lint", "--deepspeed-version", "0.19.8", "--estimate",
                              "--num-parameters", 10**9, json_output=False)
        self.fits_a_terminal(result.stdout)
        self.assertIn("zero_optimisation", result.stdout)
        path = self.folder / "ds.json"
        result = run("config", "lint", path, "--world-size", 8)
        self.fits_a_terminal(result.stdout)
        result = run("config", "diff", path, self.write("b.json", json.dumps(CONFIG)))
        self.fits_a_terminal(result.stdout)

    def test_validate_only_prints_the_verdict(self):
        result = self.resolve(CONFIG, "--validate-only").json()
        self.assertNotIn("config", result)
        self.assertNotIn("origins", result)
        self.assertEqual(result["dtype"], "bf16")
        self.resolve(CONFIG | {"gradient_clipping": 7}, "--validate-only", code=4)

    def test_mismatches_are_whole(self):
        config = CONFIG | {f"key_{i}": 1 for i in range(2000)} | {"gradient_clipping": 7}
        config["optimizer"] = {"params": {"lr": 1, "eps": 2, "weight_decay": 3, "betas": [0] * 3000}}
        error = self.resolve(config, code=4).json()
        self.assertEqual((error["stage"], error["type"]), ("init", "ValueError"))
        error = error["error"]
        self.assertEqual(error["reason"], "CONFIG_MISMATCH")
        self.assertIn("- ds optimizer.params.betas=[0, 0, 0", error["message"])
        self.assertIn("to 'auto'.", error["message"])
        self.assertEqual([v["field"] for v in error["violations"]],
                         ["gradient_clipping", "optimizer.params.lr", "optimizer.params.betas",
                          "optimizer.params.eps", "optimizer.params.weight_decay"])

    # Lint and diff.

    def test_lint_exits_by_what_it_finds(self):
        good = self.write("good.json", json.dumps({"train_batch_size": 8}))
        result = run("--output", "json", "config", "lint", good)
        self.assertEqual(result.code, 0, result)
        self.assertEqual(result.json()["deepspeed_version"], "0.19.8")
        bad = self.write("bad.json", json.dumps({"train_batch_size": 8, "fp16": {"enabled": True},
                                                 "bf16": {"enabled": True}}))
        result = run("--output", "json", "config", "lint", bad, "--world-size", 8)
        self.assertEqual(result.code, 4, result)
        document = result.json()
        self.assertIn("error", [finding["severity"] for finding in document["findings"]])
        self.assertIn("error", document)
        result = run("config", "lint", "-", "--deepspeed-version", "0.19.3", stdin=bad.read_bytes())
        self.assertEqual(result.code, 4, result)
        result = run("config", "lint", good, "--deepspeed-version", "0.1")
        self.assertEqual(result.code, 2, result)
        self.assertIn("0.19.8", result.stderr)
        self.assertEqual(run("config", "lint").code, 2)

    def test_lint_looks_at_a_model(self):
        good = self.write("good.json", json.dumps({"train_batch_size": 8}))
        spec = self.write("spec.json", json.dumps({"params": {"w": [2, 3], "scale": []}}))
        result = run("--output", "json", "config", "lint", good, "--model-spec", spec)
        self.assertEqual(result.code, 4, result)
        self.assertEqual([f["rule"] for f in result.json()["findings"]], ["scalar-parameter"])
        result = run("config", "lint", good, "--model-spec", spec, "--deepspeed-version", "0.19.7")
        self.assertEqual(result.code, 0, result)
        result = run("config", "lint", "-", "--model-spec", "-", stdin=b"{}")
        self.assertEqual(result.code, 2, result)
        findings = self.resolve(CONFIG, "--lint", "--model-spec", spec).json()["findings"]
        self.assertIn("scalar-parameter", [f["rule"] for f in findings])

    def test_diff(self):
        a = self.write("a.json", '{"x": 1, "y": [1, 2], "z": 1e400}')
        b = self.write("b.json", '{"y": [1, 3], "x": 1.0, "w": {"v": null}}')
        result = run("--output", "json", "config", "diff", a, b)
        self.assertEqual(result.code, 0, result)
        kinds = {d["path"]: d["kind"] for d in result.json()["differences"]}
        self.assertEqual(kinds, {"x": "type_changed", "y[1]": "changed", "z": "removed", "w": "added"})
        result = run("config", "diff", a, "-", stdin=a.read_bytes())
        self.assertIn("mean the same", result.stdout)
        result = run("config", "diff", a, "jobs/1")
        self.assertEqual(result.code, 2, result)
        self.assertIn("--server", result.stderr)

    # Bad input: exit 2, the path named.

    def test_bad_input_names_its_path(self):
        path = str(self.folder / "ds.json")
        for config, says in (
                ("[" * 200_000, f"{path}: is nested deeper than 200 levels"),
                ("[" * 200_000 + "]" * 200_000, f"{path}: is nested deeper than 200 levels"),
                ('{"a": "' + "x" * (64 << 20) + '"}', f"--ds-config: {path} has more than"),
                ('{"a": "' + "x" * (2 << 20) + '"}', f"{path}: has 2097161 bytes"),
                (b'{"a": "\xff\xfe"}', f"--ds-config: {path} is not UTF-8 text"),
                ("[]", f"{path}: must be an object"),
                ("[1, ]", f"{path}: [1]: is not JSON: line 1, column 5: expected a value"),
                ({"fp16": True}, f"{path}: fp16: must be an object"),
                ({"zero_optimization": {"stage": 3, "offload_param": 5}},
                 f"{path}: zero_optimization.offload_param: must be"),
                ({"tensor_parallel": None}, f"{path}: tensor_parallel: must be"),
                ("{", f"{path}: is not JSON"),
                ("", f"{path}: is not JSON")):
            result = self.resolve(config, code=2, json_output=False)
            self.assertIn(f"zerocast: {says}", one_line(result.stderr))
            self.assertLess(len(result.stderr), 6000)
        path = self.folder / "lint.json"
        for config, says in (
                ("[" * 200_000, f"{path}: is nested deeper than 200 levels"),
                ('{"a": "' + "x" * (64 << 20) + '"}', f": {path} has more than"),
                (b"\xff", f": {path} is not UTF-8 text"),
                ("[]", f"{path}: must be JSON text of one object"),
                ('{"a": [1, ]}', f"{path}: a[1]: is not JSON: line 1, column 11"),
                ("{", f"{path}: is not JSON")):
            self.write("lint.json", config)
            for command in (("lint", path), ("diff", path, self.arguments), ("diff", self.arguments, path)):
                result = run("config", *command)
                self.assertEqual(result.code, 2, result)
                self.assertIn(says, one_line(result.stderr))

    def test_a_syntax_error_names_the_file_as_it_was_typed(self):
        bad = self.write("bad.json", '{"a": {"b": [1, 2, }}')
        where = "is not JSON: line 1, column 20: expected a value, found '}'"
        good = ("--ds-config", self.write("good.json", json.dumps(CONFIG)), "--args", self.arguments)
        resolve = ("config", "resolve", "--num-training-steps", 1)
        for args, integration in (
                ((*resolve, "--ds-config", bad, "--args", self.arguments), True),
                ((*resolve, *good[:2], "--args", bad), False),
                ((*resolve, *good, "--model-config", bad), False),
                ((*resolve, *good, "--lint", "--model-spec", bad), False),
                (("config", "lint", bad), False),
                (("config", "lint", good[1], "--model-spec", bad), False),
                (("config", "diff", bad, good[1]), False),
                (("config", "diff", good[1], bad), False)):
            result = run(*args)
            self.assertEqual(result.code, 2, result)
            self.assertIn(f"zerocast: {bad}: a.b[2]: {where}", one_line(result.stderr))
            self.assertEqual("Transformers says: Expected a string path" in one_line(result.stderr),
                             integration, result)
            error = run("--output", "json", *args).json()["error"]
            self.assertEqual(error["violations"], [{"field": f"{bad}: a.b[2]", "description": where}])
            self.assertEqual(error["message"].startswith("Expected a string path"), integration)
            if not integration:
                self.assertEqual(error["message"], f"{bad}: a.b[2]: {where}")
        result = run("config", "lint", "-", stdin=b'[{"x": }]')
        self.assertIn("zerocast: stdin: [0].x: is not JSON: line 1, column 8", one_line(result.stderr))
        result = run(*resolve, "--ds-config-base64", base64.b64encode(b'{"x": }').decode(), "--args",
                     self.arguments)
        self.assertIn("zerocast: --ds-config-base64: ", one_line(result.stderr))

    def test_each_mismatch_is_told_once_in_the_integrations_order(self):
        config = CONFIG | {"train_batch_size": 99, "gradient_clipping": 7,
                           "optimizer": {"params": {"lr": 1, "betas": [0] * 3000}}}
        lines = ["- ds train_batch_size=99 vs hf train_batch_size (calculated)=16",
                 "- ds gradient_clipping=7 vs hf max_grad_norm=1.0",
                 "- ds optimizer.params.lr=1 vs hf learning_rate=0.0001",
                 f"- ds optimizer.params.betas={[0] * 3000} vs hf adam_beta1+adam_beta2=[0.9, 0.999]"]
        head = ("Please correct the following DeepSpeed config values that mismatch TrainingArguments "
                "values:")
        tail = "The easiest method is to set these DeepSpeed config values to 'auto'."
        result = self.resolve(config, code=4, json_output=False)
        # What a temporary folder is called does not count.
        text = result.stderr.replace(str(self.folder) + "/", "")
        self.fits_a_terminal(text)
        said = one_line(text)
        self.assertTrue(said.startswith(f"zerocast: ds.json: {head} - ds"), said)
        at = [said.index(line[:60]) for line in lines]
        self.assertEqual(at, sorted(at))
        for line in lines[:3]:
            self.assertEqual(text.count(f"\n{line}\n"), 1, text)
        self.assertNotIn(", but ", said)  # as the violations have it
        self.assertIn("more bytes; --output json has all)", said)
        self.assertTrue(text.endswith(f"\n{tail}\n"), text)
        # The texts of programs are whole.
        result = self.resolve(config, code=4)
        error = result.json()["error"]
        self.assertEqual(error["message"], "\n".join([head, *lines, tail]))
        self.assertEqual([violation["field"] for violation in error["violations"]],
                         [line[5:].split("=")[0] for line in lines])
        self.assertEqual(error["violations"][0]["description"],
                         "is 99, but train_batch_size (calculated) is 16")
        self.assertEqual(result.stderr, run("config", "resolve", "--ds-config", self.folder / "ds.json",
                                            "--args", self.arguments, "--model-config", self.model,
                                            "--num-training-steps", 100).stderr)

    def test_errors_fit_a_terminal(self):
        for name, config in (("list.json", "[]"), ("bad.json", json.dumps(CONFIG, indent=2)[:-1] + ", }"),
                             ("fp16.json", '{"fp16": true, "bf16": 1, "zero_optimization": {"stage": 3}}')):
            self.write(name, config)
            for args in (("resolve", "--args", "args.json", "--ds-config"), ("lint", ), ("diff", "args.json")):
                result = run("config", *args, name, cwd=self.folder)
                if args[0] != "diff" or name != "fp16.json":
                    self.fits_a_terminal(result.stderr)

    def test_lint_reports_what_resolve_lets_through(self):
        config = self.write("odd.json", '{"train_batch_size": 8, "gradient_clipping": 1e400, "bf16": null, '
                                        '"zero_optimization": null, "inference": {"x": [NaN]}}')
        result = run("--output", "json", "config", "lint", config)
        self.assertEqual(result.code, 4, result)
        found = {finding["path"]: finding for finding in result.json()["findings"]}
        self.assertEqual({path: (finding["rule"], finding["severity"]) for path, finding in found.items()},
                         {"gradient_clipping": ("not-finite", "warning"), "bf16": ("null-section", "notice"),
                          "zero_optimization": ("wrong-type", "error"),
                          "inference.x[0]": ("not-finite", "warning")})
        for finding in found.values():
            self.assertIn("DeepSpeed ", finding["message"])

    def test_the_servers_memory_stays_flat(self):
        def peak(process):
            for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().split("\n"):
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
            raise AssertionError("no VmHWM")

        deep = self.write("deep.json", "[" * 200_000 + "]" * 200_000)
        large = self.write("large.json", '{"a": "' + "x" * (15 << 20) + '"}')
        with cluster.Cluster(num_agents=0) as servers:
            def ask():
                for path in (deep, large):
                    result = run("--server", servers.address, "config", "resolve", "--ds-config", path,
                                 "--args", self.arguments)
                    self.assertEqual(result.code, 2, result)
            # The allocator's arenas grow with the threads that happen to serve: let several.
            for _ in range(4):
                ask()
            before = peak(servers.processes["server"])
            for _ in range(5):
                ask()
            # A sanitizer keeps what is freed for a while.
            limit = (512 if os.environ.get("ZC_SANITIZED") else 40) << 20
            grown = peak(servers.processes["server"]) - before
            print(f"the server's peak grew by {grown / (1 << 20):.1f} MiB")
            self.assertLess(grown, limit)

    def test_odd_numbers_are_legal(self):
        result = self.resolve('{"a": 1e400, "b": -Infinity, "n": NaN, "zero_optimization": null}')
        self.assertIn('"a": Infinity, "b": -Infinity, "n": NaN', result.stdout)

    def test_flags_are_checked(self):
        for args, says in ((["--args", self.arguments], "--ds-config"),
                           (["--ds-config", self.arguments], "--args"),
                           (["--ds-config", "-", "--args", "-"], "stdin"),
                           (["--ds-config", self.arguments, "--args", self.arguments, "--estimate"],
                            "--num-parameters"),
                           (["--ds-config", self.arguments, "--args", self.arguments, "--model-spec",
                             self.model], "--lint"),
                           (["--batch", self.arguments, "--ds-config", self.arguments], "--batch"),
                           (["--batch", self.arguments, "--deepspeed-version", "0.19.8"], "--batch"),
                           (["--batch", self.arguments, "--model-spec", self.model], "--batch"),
                           (["--batch", self.arguments, "--num-parameters", "5"], "--batch")):
            result = run("config", "resolve", *args)
            self.assertEqual(result.code, 2, result)
            self.assertIn(says, result.stderr)


if __name__ == "__main__":
    unittest.main()

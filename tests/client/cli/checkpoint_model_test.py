"""checkpoint inspect, consolidate and export, as processes, on folders that real engines saved."""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import unittest
import zipfile

from checkpoint_case import MOST_BYTES, CheckpointCase, checkpoint

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402
import deepspeed_files  # noqa: E402

FOLDERS = ("c2", "ernie-z1-w3", "ernie-z1-w3-to-w1", "ernie-z1-w3-to-w2", "keep_c1", "mixtral-z3-w2", "mixtral-z3-w2-to-w1",
           "mixtral-z3-w2-to-w3", "mixtral-z3-w2-uni", "olmoe-z3-w2", "olmoe-z3-w2-to-w3", "qwen3moe-z2-w2",
           "qwen3moe-z2-w2-to-w1", "qwen3moe-z2-w2-to-w3", "tiny-z1-w2-fp16", "tiny-z1-w2-fp16-to-w3", "tiny-z2-w4",
           "tiny-z2-w4-to-w3", "tiny-z2-w4-uni")
NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "I64": "int64"}
def read_folder(folder):
    """{name: (dtype, shape, bytes)} of all files, by the index where there is one."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        held, metadata = cluster.read_safetensors(path)
        assert metadata == {"format": "pt"}, metadata
        assert not tensors.keys() & held.keys()
        tensors.update(held)
    return tensors


def digests(tensors):
    return {name: (NAMES[dtype], list(shape), hashlib.sha256(data).hexdigest()) for name, (dtype, shape, data) in tensors.items()}


def bf16_of(data):
    """float32 bytes rounded to nearest even; no NaN among them."""
    rounded = bytearray()
    for (bits,) in struct.iter_unpack("<I", data):
        rounded += struct.pack("<H", (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
    return bytes(rounded)


class CheckpointTest(CheckpointCase):

    def copied(self, name):
        """A copy of a folder, which may be damaged."""
        copy = self.top / name
        shutil.copytree(self.folders / name, copy)
        for path in [copy, *copy.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)
        return copy

    def expected(self, name):
        return {each["name"]: (each["dtype"], each["shape"], each["sha256"])
                for each in json.loads((self.folders / f"{name}.json").read_text())}

    def write(self, *args):
        """Runs a command that is to end well; what it says, and the tensors."""
        done = checkpoint(*args, "--out", self.out, "--output", "json")
        self.assertEqual(done.code, 0, done)
        tensors = read_folder(self.out)
        shutil.rmtree(self.out)
        return done.json(), tensors


class Consolidate(CheckpointTest):

    def test_equals_what_deepspeed_consolidates(self):
        compared = 0
        for name in FOLDERS:
            base = name.partition("-to-")[0].removesuffix("-uni")
            with self.subTest(name=name):
                told, tensors = self.write("consolidate", self.folders / name)
                found, wanted = digests(tensors), self.expected(f"{base}.fp32")
                for each in found.keys() - wanted.keys():
                    # DeepSpeed leaves those out; ours come from `module`, in the dtype of training.
                    self.assertEqual(told["stage"], 1)
                    self.assertIn(found.pop(each)[0], ("bfloat16", "float16"))
                self.assertEqual(found, wanted)
                self.assertEqual(told["tensors"], len(tensors))
                self.assertEqual(told["absent"], [])
                compared += len(wanted)
        self.assertGreater(compared, 300)

    def test_frozen_parameters_of_stage_1_are_those_of_every_world_size(self):
        frozen = []
        for name in ("ernie-z1-w3", "ernie-z1-w3-to-w1", "ernie-z1-w3-to-w2"):
            _, tensors = self.write("consolidate", self.folders / name)
            frozen.append({each: value for each, value in tensors.items() if value[0] == "BF16"})
        self.assertGreaterEqual(len(frozen[0]), 2)
        self.assertEqual(frozen[0], frozen[1])
        self.assertEqual(frozen[0], frozen[2])

    def test_says_where_frozen_parameters_were_left_out(self):
        for name, frozen_shapes in (("without", None), ("with", ())):
            deepspeed_files.write_stage_3(self.top / name, {"w": (8, 3)}, frozen_shapes=frozen_shapes)
            done = checkpoint("consolidate", self.top / name, "--out", self.out, "--output", "json")
            shutil.rmtree(self.out)
            shown = checkpoint("inspect", self.top / name, "--output", "json").json()["parameters"]
            text = checkpoint("inspect", self.top / name).stdout
            for told in (done.json(), shown):
                self.assertEqual(told["excludes_frozen"], frozen_shapes is None)
            for printed in (done.stderr, text):
                self.assertEqual("(exclude_frozen_parameters)" in printed, frozen_shapes is None, printed)
            planned = cluster.zerocast("--output", "json", "plan", self.top / name, "--world-size", 2).json()
            self.assertEqual("exclude_frozen_parameters" in planned["note"], frozen_shapes is None)

    def test_without_zero_names_of_the_same_bytes_are_one_weight(self):
        tied, other = deepspeed_files.Floats(12, bytes(range(64))), deepspeed_files.Floats(12, bytes(range(64)))
        deepspeed_files.write_stage_0(self.top / "plain", {"embed.weight": tied, "equal.weight": other, "head.weight": tied})
        told, tensors = self.write("consolidate", self.top / "plain")
        self.assertEqual(told["tied"], {"head.weight": "embed.weight"})
        self.assertEqual(sorted(tensors), ["embed.weight", "equal.weight", "head.weight"])
        self.assertEqual({data for _, _, data in tensors.values()}, {bytes(range(48))})
        _, tensors = self.write("consolidate", self.top / "plain", "--one-name-for-ties")
        self.assertEqual(sorted(tensors), ["embed.weight", "equal.weight"])
        planned = cluster.zerocast("--output", "json", "plan", self.top / "plain", "--world-size", 2).json()
        self.assertEqual(planned["num_targets"], 2)

    def test_dtypes(self):
        _, default = self.write("consolidate", self.folders / "keep_c1")
        self.assertEqual({dtype for dtype, *_ in default.values()}, {"F32", "BF16"})
        _, stored = self.write("consolidate", self.folders / "keep_c1", "--dtype", "stored")
        self.assertEqual(digests(stored), self.expected("keep_c1.gathered16"))
        _, bf16 = self.write("consolidate", self.folders / "keep_c1", "--dtype", "bf16")
        for name, (dtype, shape, data) in bf16.items():
            wanted = default[name]
            if name == "buf":  # a buffer keeps its own
                self.assertEqual((dtype, shape, data), wanted)
            else:
                self.assertEqual((dtype, shape), ("BF16", wanted[1]))
                self.assertEqual(data, bf16_of(wanted[2]) if wanted[0] == "F32" else wanted[2])
        _, fp32 = self.write("consolidate", self.folders / "keep_c1", "--dtype", "fp32")
        self.assertEqual({dtype for dtype, *_ in fp32.values()}, {"F32"})
        self.assertEqual(bf16_of(fp32["frozen.weight"][2]), default["frozen.weight"][2])
        _, fp16 = self.write("consolidate", self.folders / "tiny-z1-w2-fp16", "--dtype", "fp16")
        self.assertEqual({dtype for dtype, *_ in fp16.values()}, {"F16", "I64"})

    def test_ties(self):
        told, tensors = self.write("consolidate", self.folders / "keep_c1")
        self.assertEqual(told["tied"], {"head.weight": "embed.weight"})
        self.assertEqual(tensors["head.weight"], tensors["embed.weight"])
        told, one = self.write("consolidate", self.folders / "keep_c1", "--one-name-for-ties")
        self.assertEqual(tensors.keys() - one.keys(), {"head.weight"})
        self.assertEqual(told["tied"], {"head.weight": "embed.weight"})

    def test_shards(self):
        _, whole = self.write("consolidate", self.folders / "mixtral-z3-w2")
        done = checkpoint("consolidate", self.folders / "mixtral-z3-w2", "--out", self.out, "--max-shard-size", "20KB",
                          "--output", "json", "--threads", "3")
        self.assertEqual(done.code, 0, done)
        files = done.json()["files"]
        self.assertGreater(len(files), 3)
        self.assertEqual([each["name"] for each in files],
                         [f"model-{k + 1:05}-of-{len(files):05}.safetensors" for k in range(len(files))])
        index = json.loads((self.out / "model.safetensors.index.json").read_text())
        self.assertEqual(index["weight_map"].keys(), whole.keys())
        self.assertEqual(index["metadata"]["total_size"], sum(len(data) for *_, data in whole.values()))
        self.assertEqual(read_folder(self.out), whole)
        for each in files:
            held, _ = cluster.read_safetensors(self.out / each["name"])
            self.assertEqual({name for name, file in index["weight_map"].items() if file == each["name"]}, held.keys())
            self.assertEqual((self.out / each["name"]).stat().st_size, each["bytes"])
            self.assertTrue(len(held) == 1 or sum(len(data) for *_, data in held.values()) <= 20000)

    def test_takes_what_lies_beside(self):
        folder = self.copied("mixtral-z3-w2")
        for name in ("config.json", "tokenizer.json", "modeling_own.py"):
            (folder / name).write_text(name)
        (folder / "trainer_state.json").write_text("{}")
        told, _ = self.write("consolidate", folder)
        self.assertEqual(told["copied"], ["config.json", "modeling_own.py", "tokenizer.json"])

    def test_takes_a_tag_and_a_tags_own_folder(self):
        _, wanted = self.write("consolidate", self.folders / "keep_c1")
        _, found = self.write("consolidate", self.folders / "keep_c1" / "global_step2")
        self.assertEqual(found, wanted)
        _, found = self.write("consolidate", self.folders / "keep_c1", "--tag", "global_step2")
        self.assertEqual(found, wanted)
        done = checkpoint("consolidate", self.folders / "keep_c1", "--tag", "global_step9", "--out", self.out)
        self.assertEqual(done.code, 3, done)
        self.assertIn("global_step2", done.stderr)

    def test_says_in_80_columns_what_was_done(self):
        done = checkpoint("consolidate", self.folders / "keep_c1", "--out", "out", cwd=self.top)
        self.assertEqual((done.code, done.stderr), (0, ""), done)
        self.assertIn("ZeRO stage 3", done.stdout)
        self.assertEqual([line for line in done.stdout.splitlines() if len(line) > 80], [])

    def test_refuses_arguments(self):
        source = self.folders / "keep_c1"
        self.out.mkdir()
        (self.out / "mine").write_text("mine")
        for args, code, word in (([source, "--out", self.out], None, "exists"),
                                 ([source, "--out", self.top / "x", "--max-shard-size", "many"], 2, "not a size"),
                                 ([source, "--out", self.top / "x", "--dtype", "int8"], 2, "--dtype"),
                                 ([source, "--out", self.top / "no" / "x"], 3, "no"),
                                 ([source], 2, "--out"),
                                 ([self.top / "nothing", "--out", self.top / "x"], 3, "nothing"),
                                 ([self.top, "--out", self.top / "x"], 3, "latest")):
            with self.subTest(args=args):
                done = checkpoint("consolidate", *args)
                self.assertNotEqual(done.code, 0)
                self.assertEqual(done.code, done.code if code is None else code, done)
                self.assertIn(word, done.stderr)
        self.assertEqual((self.out / "mine").read_text(), "mine")
        self.check_nothing_left("out")


class Damage(CheckpointTest):

    def refused(self, folder, code, *words):
        """Both inspect and consolidate say so; nothing is left."""
        before = sorted(self.top.iterdir())
        done = checkpoint("consolidate", folder, "--out", self.out)
        # Of several problems the first decides.
        self.assertIn(done.code, code if isinstance(code, tuple) else (code,), done)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(sorted(self.top.iterdir()), before)
        return done

    def test_a_missing_file_and_a_torn_one_are_told_together(self):
        folder = self.copied("mixtral-z3-w2-to-w3")
        tag = folder / "global_step3"
        (tag / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
        torn = tag / "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt"
        torn.write_bytes(torn.read_bytes()[:-5000])
        names = ("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt", torn.name)
        done = self.refused(folder, (3, 6), *names)
        for output in ("text", "json"):
            done = checkpoint("inspect", folder, "--output", output)
            self.assertIn(done.code, (3, 6), done)
            for name in names:
                self.assertIn(name, done.stdout)
            self.assertIn("global_step3", done.stdout)
        told = done.json()
        self.assertFalse(told["complete"])
        self.assertEqual(len(told["problems"]), 2)
        self.assertEqual((told["world_size"], told["step"], told["latest"]), (3, 3, "global_step3"))
        self.assertEqual(len(told["files"]), 5)
        self.assertIn("error", told)

    def test_a_torn_file_is_corrupt(self):
        folder = self.copied("mixtral-z3-w2")
        torn = folder / "global_step3" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
        torn.write_bytes(torn.read_bytes()[:100000])
        self.refused(folder, 6, torn.name)
        self.assertEqual(checkpoint("inspect", folder).code, 6)

    def test_a_flipped_bit_of_a_master_is_found(self):
        folder = self.copied("mixtral-z3-w2")
        path = folder / "global_step3" / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
        with zipfile.ZipFile(path) as archive:
            largest = max(archive.infolist(), key=lambda each: each.file_size)
        data = bytearray(path.read_bytes())
        # Every large storage: one of them has the masters.
        with zipfile.ZipFile(path) as archive:
            for each in archive.infolist():
                if each.file_size == largest.file_size:
                    name_size, extra_size = struct.unpack_from("<HH", data, each.header_offset + 26)
                    data[each.header_offset + 30 + name_size + extra_size + each.file_size // 2] ^= 1
        path.write_bytes(data)
        self.refused(folder, 6, path.name, "CRC")

    def test_two_saves_in_one_folder(self):
        folder = self.copied("mixtral-z3-w2-to-w3")
        shutil.copy(self.folders / "c2" / "global_step2" / "zero_pp_rank_1_mp_rank_00_model_states.pt",
                    folder / "global_step3" / "zero_pp_rank_1_mp_rank_00_model_states.pt")
        self.refused(folder, 6, "zero_pp_rank_1_mp_rank_00_model_states.pt")

    def test_a_full_disk_leaves_nothing(self):
        # /dev/full takes no byte; a folder cannot lie there, so the limit of a file's size stands in.
        done = subprocess.run(
            ["bash", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$0" "$@"', str(cluster.BIN / "zerocast"), "checkpoint",
             "consolidate", str(self.folders / "mixtral-z3-w2"), "--out", str(self.out)], capture_output=True, text=True,
            timeout=cluster.COMMAND_TIMEOUT_S, check=False)
        self.assertNotIn(done.returncode, (0, -signal.SIGXFSZ), done)
        self.assertIn("model.safetensors", done.stderr)
        self.check_nothing_left()


class Inspect(CheckpointTest):

    def test_tells_what_is_there(self):
        told = checkpoint("inspect", self.folders / "keep_c1", "--output", "json").json()
        self.assertEqual((told["tag"], told["latest"], told["tags"]),
                         ("global_step2", "global_step2", [{"tag": "global_step2", "step": 2}]))
        self.assertEqual((told["step"], told["world_size"], told["stage"], told["precision"], told["universal"]),
                         (2, 2, 3, "bf16", False))
        self.assertEqual(told["deepspeed_version"], "0.19.8")
        self.assertTrue(told["complete"])
        self.assertEqual(told["problems"], [])
        parameters = told["parameters"]
        self.assertEqual((parameters["count"], parameters["trained"]["count"], parameters["frozen"]["count"],
                          parameters["absent"]["count"], parameters["tied"]), (6, 5, 1, 0, 1))
        self.assertEqual(parameters["elements"], sum(
            shape[0] * (shape[1] if len(shape) > 1 else 1)
            for name, (_, shape, _) in self.expected("keep_c1.fp32").items() if name not in ("buf", "head.weight")))
        self.assertEqual(parameters["bytes"], 2 * parameters["elements"])
        self.assertEqual([each["name"] for each in told["buffers"]], ["buf"])
        self.assertEqual(told["optimizer"]["states"], ["fp32", "exp_avg", "exp_avg_sq"])
        self.assertEqual(len(told["optimizer"]["groups"]), 2)
        self.assertEqual(sum(each["parameters"] for each in told["optimizer"]["groups"]), 5)
        self.assertEqual(told["bytes"], sum(each["bytes"] for each in told["files"]))
        self.assertEqual(len(told["files"]), 4)

    def test_tells_hyper_parameters(self):
        told = checkpoint("inspect", self.folders / "ernie-z1-w3", "--output", "json").json()
        groups = told["optimizer"]["groups"]
        self.assertEqual([(each["lr"], each["weight_decay"]) for each in groups],
                         [(0.002, 0.0), (0.001, 0.0), (0.001, 0.1)])
        self.assertEqual(groups[0]["betas"], [0.9, 0.999])
        self.assertEqual(told["optimizer"]["step"], 3)

    def test_every_folder_fits_a_terminal(self):
        for name in FOLDERS:
            with self.subTest(name=name):
                done = checkpoint("inspect", name, cwd=self.folders)
                self.assertEqual((done.code, done.stderr), (0, ""), done)
                self.assertEqual([line for line in done.stdout.splitlines() if len(line) > 80], [])
                told = checkpoint("inspect", self.folders / name, "--output", "json").json()
                self.assertEqual(told["universal"], name.endswith("-uni"))
                self.assertTrue(told["optimizer"]["groups"])
                for group in told["optimizer"]["groups"]:
                    self.assertIn("lr", group)

    def test_latest_that_is_not_there(self):
        folder = self.copied("keep_c1")
        (folder / "latest").write_text("global_step99")
        done = checkpoint("inspect", folder)
        self.assertEqual(done.code, 3, done)
        self.assertIn("global_step99", done.stdout)
        self.assertIn("global_step2", done.stdout)
        done = checkpoint("inspect", folder, "--tag", "global_step2", "--output", "json")
        self.assertEqual(done.code, 0, done)
        self.assertEqual((done.json()["latest"], done.json()["tag"]), ("global_step99", "global_step2"))


class Large(CheckpointTest):
    """Checkpoints that this test writes."""

    def test_memory_does_not_grow_with_the_model(self):
        most = {}
        # One tensor holds nearly all: more than a process may hold of its own, in the second.
        for megabytes in (64, 640):
            shapes = {"large.weight": (megabytes * 64, 4096), "odd.weight": (33, 7), "bias": (5,)}
            folder = self.top / f"of_{megabytes}"
            deepspeed_files.write_stage_3(folder, shapes)
            process = self.start("consolidate", folder, "--out", self.out, "--output", "json", "--max-shard-size", "5GB")
            most[megabytes], looks = self.most_of_its_own(process)
            out, errors = process.communicate(timeout=cluster.COMMAND_TIMEOUT_S)
            self.assertEqual(process.returncode, 0, (out, errors))
            self.assertGreater(looks, 2)
            self.assertEqual(json.loads(out)["bytes"], 4 * (megabytes * 64 * 4096 + 33 * 7 + 5))
            shutil.rmtree(self.out)
            shutil.rmtree(folder)
        if not os.environ.get("ZC_SANITIZED"):
            self.assertLess(most[640], MOST_BYTES)
            self.assertLess(most[640], most[64] + (16 << 20))

    def test_values_of_a_written_checkpoint(self):
        shapes = {"large.weight": (301, 1021), "odd.weight": (33, 7), "bias": (5,)}
        deepspeed_files.write_stage_3(self.top / "made", shapes)
        _, tensors = self.write("consolidate", self.top / "made")
        masters = []
        for rank in range(2):
            masters.append(deepspeed_files.rank_pattern(rank) * 5000)
        begin = 0
        for name, shape in shapes.items():
            count = shape[0] * (shape[1] if len(shape) > 1 else 1)
            part = -(-count // 2)
            wanted = b"".join(each[4 * begin:4 * (begin + part)] for each in masters)[:4 * count]
            self.assertEqual(tensors[name], ("F32", list(shape), wanted))
            begin += part

    def test_an_interrupted_command_leaves_nothing(self):
        folder = self.top / "made"
        deepspeed_files.write_stage_3(folder, {f"w{k}": (8192, 1024) for k in range(20)})
        for how, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            self.check_interrupted(how, code, "consolidate", folder)


class Export(CheckpointTest):
    """The names, shapes and values that the library would save."""

    def spec(self, name):
        folder = cluster.DATA / "checkpoints" / name
        return (folder if folder.exists() else cluster.DATA / "deepspeed" / "models" / name) / "expected.json"

    def test_has_the_names_and_shapes_of_the_checkpoint_it_began_with(self):
        for folder, model in (("mixtral-z3-w2", "mixtral"), ("mixtral-z3-w2-uni", "mixtral"), ("olmoe-z3-w2", "olmoe")):
            with self.subTest(folder=folder):
                told, tensors = self.write("export", self.folders / folder, "--model-spec", self.spec(model))
                began, _ = cluster.read_safetensors(cluster.DATA / "checkpoints" / model / "model.safetensors")
                self.assertEqual({name: shape for name, (_, shape, _) in tensors.items()},
                                 {name: shape for name, (_, shape, _) in began.items()})
                self.assertEqual(told["dtypes"], {"float32": len(tensors)})

    def test_loads_back(self):
        # By our own load, whose conversions are proved elsewhere; the oracle test asks the library.
        for folder, model in (("mixtral-z3-w2", "mixtral"), ("olmoe-z3-w2", "olmoe"),
                              ("qwen3moe-z2-w2", "qwen3_moe"), ("ernie-z1-w3", "ernie4_5_moe")):
            with self.subTest(folder=folder):
                _, wanted = self.write("consolidate", self.folders / folder, "--one-name-for-ties", "--dtype", "fp32")
                done = checkpoint("export", self.folders / folder, "--out", self.out, "--dtype", "fp32", "--model-spec",
                                  self.spec(model), "--max-shard-size", "30KB")
                self.assertEqual(done.code, 0, done)
                shutil.copy(self.spec(model).parent / "config.json", self.out)
                shards = self.top / "shards"
                done = cluster.zerocast("load", self.out, "--world-size", "1", "--model-spec", self.spec(model), "--out",
                                        shards, "--dtype", "stored", env={"XDG_RUNTIME_DIR": str(self.top)})
                self.assertEqual(done.code, 0, done)
                loaded, _ = cluster.read_safetensors(shards / "rank_00000.safetensors")
                buffers, _ = cluster.read_safetensors(shards / "buffers.safetensors")
                found = {name: data for name, (_, _, data) in (loaded | buffers).items()}
                self.assertEqual(found.keys(), wanted.keys())
                for name, (_, _, data) in wanted.items():
                    self.assertEqual(found[name], data, name)
                shutil.rmtree(self.out)
                shutil.rmtree(shards)

    def test_takes_the_rules_of_the_config_beside_it(self):
        folder = self.copied("mixtral-z3-w2")
        shutil.copy(cluster.DATA / "checkpoints" / "mixtral" / "config.json", folder)
        told, by_config = self.write("export", folder)
        self.assertEqual(told["copied"], ["config.json"])
        _, by_spec = self.write("export", folder, "--model-spec", self.spec("mixtral"))
        self.assertEqual(by_config, by_spec)
        self.assertTrue(any(".experts.0.w1.weight" in name for name in by_config))

    def test_takes_a_config_that_is_named(self):
        folder = self.copied("mixtral-z3-w2")
        (folder / "config.json").write_text('{"model_type": "llama"}')
        config = cluster.DATA / "checkpoints" / "mixtral" / "config.json"
        done = checkpoint("export", folder, "--model-config", config, "--out", self.out)
        self.assertEqual(done.code, 0, done)
        self.assertEqual((self.out / "config.json").read_bytes(), config.read_bytes())
        self.assertTrue(any(".experts.0.w1.weight" in name for name in read_folder(self.out)))

    def test_refuses_another_model(self):
        done = checkpoint("export", self.folders / "mixtral-z3-w2", "--model-spec", self.spec("olmoe"), "--out", self.out,
                          "--output", "json")
        self.assertEqual(done.code, 4, done)
        told = done.json()
        self.assertIn("model.layers.0.self_attn.q_norm.weight", told["missing"])
        self.assertEqual(told["error"]["reason"], "WEIGHTS_INCOMPLETE")
        self.check_nothing_left()

    def test_wants_to_know_the_model(self):
        done = checkpoint("export", self.folders / "mixtral-z3-w2", "--out", self.out)
        self.assertEqual(done.code, 2, done)
        self.assertIn("--model-spec", done.stderr)
        self.check_nothing_left()


if __name__ == "__main__":
    unittest.main()

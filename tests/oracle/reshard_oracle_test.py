"""What `zerocast checkpoint reshard` and `to-universal` write, loaded by real engines: they train on as one does that took
DeepSpeed's way, ds_to_universal and load_universal.

Wants ZC_BUILD_DIR.
"""

import json
import os
import pathlib
import tempfile
import unittest

import deepspeed_releases as releases
import ranks

BUILD = pathlib.Path(os.environ["ZC_BUILD_DIR"])
ZEROCAST = BUILD / "bin" / "zerocast"
RANK = pathlib.Path(__file__).with_name("reshard_rank.py")
ENVIRONMENT = ranks.environment(releases.install(BUILD / "oracle" / "deepspeed", "0.19.8"), RANK.parent)
SECONDS = 900
SEED, OTHER_SEED = 5, 6
BF16, FP16 = {"bf16": {"enabled": True}}, {"fp16": {"enabled": True, "initial_scale_power": 12, "loss_scale_window": 2}}
# Name: zero_optimization, the rest of the config, ranks that save, ranks that load.
CASES = {
    "stage3-one-group": ({"stage": 3}, BF16, 2, 3),
    "stage3": ({"stage": 3}, BF16, 2, 3),
    "stage3-sub-groups": ({"stage": 3, "sub_group_size": 40, "stage3_param_persistence_threshold": 8}, {}, 3, 2),
    "stage3-more-ranks-than-elements": ({"stage": 3, "sub_group_size": 3}, BF16, 1, 4),
    "stage2": ({"stage": 2}, BF16, 2, 3),
    "stage2-aligned-round-robin": ({"stage": 2, "parameter_alignment": True, "round_robin_gradients": True}, BF16, 4, 3),
    "stage1-fp16": ({"stage": 1}, FP16, 3, 2),
    "stage1-fp32": ({"stage": 1, "parameter_alignment": True}, {}, 2, 1),
}
# Ways from the first folder to an engine of the other world size.
WAYS = ("deepspeed", "reshard", "to-universal", "reshard-universal")
RATES = [2e-3, 5e-3]


def num_groups(case):
    """Of the optimizer. With one group nothing of a universal checkpoint has to be mended."""
    return 1 if case.endswith("one-group") else 2


def engine_config(zero, rest, groups, universal):
    """A DeepSpeed config for an optimizer of so many groups, whose learning rates differ."""
    return {"train_micro_batch_size_per_gpu": 2, "gradient_clipping": 1.0, "zero_optimization": zero,
            "checkpoint": {"load_universal": universal},
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
            "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": 1e-5, "warmup_max_lr": RATES[:groups],
                                                         "warmup_num_steps": 10}}, **rest}


def config_of(case, universal):
    """The DeepSpeed config of a case."""
    zero, rest, _, _ = CASES[case]
    return engine_config(zero, rest, num_groups(case), universal)


class Reshard(unittest.TestCase):
    """All cases, made once."""

    maxDiff = 2000
    told: dict

    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        top = pathlib.Path(holder.name)
        cls.run_jobs(top, {case: {"save": str(top / case)} for case in CASES}, CASES, 2)
        todo = {}
        for case, (zero, _, _, world_size) in CASES.items():
            saved, universal = top / case, top / f"{case}-uni"
            ranks.make_universal(saved, universal, ENVIRONMENT, SECONDS)
            folders = {"deepspeed": universal, **{way: top / f"{case}-{way}" for way in WAYS[1:]}}
            for way, source in (("reshard", saved), ("reshard-universal", universal)):
                ranks.check([ZEROCAST, "checkpoint", "reshard", source, "--world-size", world_size, "--out", folders[way]],
                            ENVIRONMENT, SECONDS)
            ranks.check([ZEROCAST, "checkpoint", "to-universal", saved, "--out", folders["to-universal"]], ENVIRONMENT,
                        SECONDS)
            for way, folder in folders.items():
                loads_universal = way in ("deepspeed", "to-universal")
                # An engine that loads a universal checkpoint of stages 1 and 2 reads no frozen parameters from it, so its model
                # must be the same from the start.
                todo[f"{case} {way}"] = {
                    "load": str(folder), "out": str(top / f"{case}-{way}.json"),
                    "config": config_of(case, loads_universal), "seed": SEED if loads_universal else OTHER_SEED,
                    "groups_of": str(saved) if loads_universal and zero["stage"] == 3 and num_groups(case) > 1 else None}
        cls.run_jobs(top, todo, CASES, 3)
        cls.told = {name: json.loads(pathlib.Path(job["out"]).read_text(encoding="utf-8")) for name, job in todo.items()}

    @classmethod
    def run_jobs(cls, top, jobs, cases, which):
        """Runs the jobs of each world size by ranks that live as long as they do."""
        for world_size in sorted({case[which] for case in cases.values()}):
            mine = [{"case": name.split()[0], "groups": num_groups(name.split()[0]),
                     "config": config_of(name.split()[0], False), "seed": SEED, **job}
                    for name, job in jobs.items() if cases[name.split()[0]][which] == world_size]
            path = top / f"jobs-{which}-{world_size}.json"
            path.write_text(json.dumps(mine), encoding="utf-8")
            for status, output in ranks.run(world_size, [RANK, path], ENVIRONMENT, SECONDS):
                if status != 0:
                    raise AssertionError(f"a rank of {world_size} ended with {status}\n{output[-6000:]}")

    def test_trains_on_as_deepspeeds_own_way(self):
        """Losses, parameters, masters and moments, on all ranks, bit for bit."""
        for case, (_, _, _, world_size) in CASES.items():
            want = self.told[f"{case} deepspeed"]
            self.assertEqual(len(want), world_size)
            for way in WAYS[1:]:
                with self.subTest(case=case, way=way):
                    got = self.told[f"{case} {way}"]
                    for here, there in zip(got, want, strict=True):
                        for what in there:
                            self.assertEqual(here[what], there[what], what)

    def test_the_cases_are_what_they_say(self):
        """Something was trained, scaled, skipped and kept."""
        for case in CASES:
            for told in self.told[f"{case} reshard"]:
                self.assertEqual(told["client"], {"epoch": 7, "name": case})
                self.assertEqual(told["steps"], 3)
                self.assertEqual(len(set(told["losses"])), 2)
                self.assertNotEqual(told["loaded"], told["trained"])
                self.assertEqual(len(set(told["rates"])), num_groups(case))
                self.assertEqual(told["loaded"]["frozen.weight"], told["trained"]["frozen.weight"])
        self.assertNotEqual(self.told["stage1-fp16 reshard"][0]["scale"], 1.0)


if __name__ == "__main__":
    unittest.main()

"""zerocast.load_checkpoint puts a DeepSpeed folder into real engines: at the same world size as engine.load_checkpoint does, at
another as DeepSpeed's universal way does, bit for bit, and they train on alike.

Wants ZC_BUILD_DIR (its python folder has the package).
"""

import json
import os
import pathlib
import shutil
import tempfile
import unittest

import deepspeed_releases as releases
import ranks
from reshard_oracle_test import BF16, FP16, OTHER_SEED, SEED, engine_config

BUILD = pathlib.Path(os.environ["ZC_BUILD_DIR"])
RANK = pathlib.Path(__file__).with_name("resume_rank.py")
ENVIRONMENT = ranks.environment(BUILD / "python", releases.install(BUILD / "oracle" / "deepspeed", "0.19.8"), RANK.parent)
SECONDS = 900
DIED = 9  # as in resume_rank
CPU = {"device": "cpu"}
# Name: zero_optimization, the rest of the config, groups, ranks that save, ranks that load.
CASES = {
    "stage3": ({"stage": 3}, BF16, 2, 2, 3),
    "stage3-offloaded": ({"stage": 3, "offload_optimizer": CPU, "offload_param": CPU}, BF16, 1, 2, 1),
    "stage3-sub-groups": ({"stage": 3, "sub_group_size": 40, "stage3_param_persistence_threshold": 8}, {}, 2, 2, 3),
    "stage3-fp16": ({"stage": 3}, FP16, 2, 2, 1),
    "stage2": ({"stage": 2}, BF16, 2, 2, 3),
    "stage2-offloaded": ({"stage": 2, "offload_optimizer": CPU}, BF16, 2, 2, 1),
    "stage2-aligned-round-robin": ({"stage": 2, "parameter_alignment": True, "round_robin_gradients": True}, BF16, 2, 3, 2),
    "stage1-fp16": ({"stage": 1}, FP16, 2, 2, 3),
    "stage1-fp32": ({"stage": 1}, {}, 2, 2, 1),
}
SGD = {"optimizer": {"type": "SGD", "params": {"lr": 1e-3, "momentum": 0.9}}, "zero_allow_untested_optimizer": True}
# Others, of two ranks, that are loaded at the same world size alone: zero_optimization, the rest of the config.
MORE = {
    "stage3-legacy-streams": ({"stage": 3}, {**BF16, "checkpoint": {"checkpoint_serialization": False}}),
    "stage3-cpu-adam": ({"stage": 3, "offload_optimizer": CPU}, {**BF16, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}),
    "stage2-cpu-adam": ({"stage": 2, "offload_optimizer": CPU}, {**BF16, "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}),
    "stage2-from-bit16": ({"stage": 2, "load_from_fp32_weights": False}, BF16),
    "stage3-sgd": ({"stage": 3}, {**BF16, **SGD}),
    "stage1-sgd": ({"stage": 1}, {**BF16, **SGD}),
}
SAVED, OTHER = 3, 4  # where CASES say the ranks
MOST_FLAGS = {"no-optimizer": {"load_optimizer_states": False}, "no-schedule": {"load_lr_scheduler_states": False},
              "module": {"load_module_only": True}}


def config_of(zero, rest, groups=2, universal=False):
    """A DeepSpeed config, also for an optimizer of torch beside offloading."""
    return engine_config(zero, {"zero_force_ds_cpu_optimizer": False, **rest}, groups, universal)


class Resume(unittest.TestCase):
    """All jobs, run once."""

    maxDiff = 2000
    told: dict

    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.top = pathlib.Path(holder.name)
        ranks.compile_operators(ENVIRONMENT, "CPUAdamBuilder")
        cls.run_jobs({case: {"case": case, "ranks": CASES[case][SAVED], "save": str(cls.top / case)} for case in CASES} |
                     {case: {"case": "stage3", "ranks": 2, "save": str(cls.top / case), "config": config_of(*MORE[case])}
                      for case in MORE} | {"noted": {"case": "stage3", "ranks": 2, "save": str(cls.top / "noted"), "note": True},
                      "without-zero": {"case": "stage1-fp32", "ranks": 2, "save": str(cls.top / "without-zero"),
                                       "config": config_of({"stage": 0}, {})}})
        for case in CASES:
            ranks.make_universal(cls.top / case, cls.top / f"{case}-uni", ENVIRONMENT, SECONDS)
        cls.damage()
        # The last job, for DeepSpeed's groups of secondary partitions stay with the process, and with all later engines.
        todo = {**cls.resumes(), **cls.flags(), **cls.failures(), **cls.between_stages(), "secondary": cls.job(
            "stage3", "zerocast", steps=2, config=config_of({"stage": 3, "zero_hpz_partition_size": 2}, BF16))}
        cls.run_jobs(todo)
        lost = {"fails lost": cls.job("stage3", "zerocast", dies=1, keywords={"timeout": 6.0})}
        cls.run_jobs(lost)
        todo |= lost
        cls.told = {name: json.loads(pathlib.Path(job["out"]).read_text(encoding="utf-8")) for name, job in todo.items()}

    @classmethod
    def run_jobs(cls, jobs):
        """Runs the jobs of each world size by ranks that live as long as they do."""
        for world_size in sorted({job["ranks"] for job in jobs.values()}):
            mine = []
            for name, job in jobs.items():
                if job["ranks"] == world_size:
                    zero, rest, groups, *_ = CASES[job["case"]]
                    mine.append({"groups": groups, "config": config_of(zero, rest, groups), "seed": SEED, **job})
                    if "load" in job:
                        job["out"] = mine[-1]["out"] = str(cls.top / f"{name}.json".replace(" ", "-"))
            path = cls.top / f"jobs-{world_size}.json"
            path.write_text(json.dumps(mine), encoding="utf-8")
            for rank, (status, output) in enumerate(ranks.run(world_size, [RANK, path], ENVIRONMENT, SECONDS)):
                if status != (DIED if mine[-1].get("dies") == rank else 0):
                    raise AssertionError(f"a rank of {world_size} ended with {status}\n{output[-6000:]}")

    @classmethod
    def job(cls, case, how, world_size=None, **more):
        """One that loads, into a model that was made otherwise than what was saved."""
        return {"case": case, "ranks": world_size or CASES[case][SAVED], "how": how, "load": str(cls.top / case),
                "seed": OTHER_SEED, **more}

    @classmethod
    def resumes(cls):
        """At the same and at another world size, by DeepSpeed and by zerocast."""
        todo = {}
        for case, (zero, rest, groups, _, other) in CASES.items():
            universal = str(cls.top / f"{case}-uni")
            for how in ("engine", "zerocast"):
                todo[f"{case} same {how}"] = cls.job(case, how, steps=2)
            todo[f"{case} other engine"] = cls.job(
                case, "engine", other, steps=2, load=universal, config=config_of(zero, rest, groups, True),
                seed=SEED,  # below stage 3 frozen parameters are not read from a universal checkpoint
                groups_of=str(cls.top / case) if zero["stage"] == 3 and groups > 1 else None)
            todo[f"{case} other zerocast"] = cls.job(case, "zerocast", other, steps=2)
            todo[f"{case} universal zerocast"] = cls.job(case, "zerocast", other, steps=2, load=universal)
        for case, what in MORE.items():
            for how in ("engine", "zerocast"):
                todo[f"{case} same {how}"] = cls.job("stage3", how, steps=2, load=str(cls.top / case), config=config_of(*what))
        for case in ("stage3", "stage3-sub-groups", "stage2"):
            todo[f"{case} trained zerocast"] = cls.job(case, "zerocast", steps=2, before=2)
        return todo

    @classmethod
    def flags(cls):
        """What can be left out, by DeepSpeed and by zerocast."""
        return {f"{case} {flag} {how}": cls.job(case, how, keywords=keywords, steps=2)
                for case in ("stage3", "stage2") for flag, keywords in MOST_FLAGS.items() for how in ("engine", "zerocast")}

    @classmethod
    def between_stages(cls):
        """Folders of one stage into engines of another."""
        zero = {stage: {"zero_optimization": {"stage": stage}} for stage in (0, 2, 3)}
        return {f"{case} stage{stage}": cls.job(case, "zerocast", ranks, steps=2,
                                                config=config_of(CASES[case][0], CASES[case][1] | zero[stage], 2))
                for case, stage, ranks in (("stage3", 2, 3), ("stage2", 3, 3), ("stage1-fp32", 0, 1), ("stage3-sub-groups", 0, 2))} | {
            f"without-zero {how} stage{stage}": cls.job(
                "stage1-fp32", how, 2, steps=2, load=str(cls.top / "without-zero"), keywords={"load_optimizer_states": False},
                config=config_of(zero[stage]["zero_optimization"], {}))
            for how, stage in (("engine", 0), ("zerocast", 0), ("zerocast", 3))}

    @classmethod
    def damage(cls):
        """Folders that cannot be resumed from."""
        for name in ("empty", "no-latest", "missing", "torn", "no-tag"):
            if name == "empty":
                (cls.top / name).mkdir()
            else:
                shutil.copytree(cls.top / "stage3", cls.top / name)
        (cls.top / "no-latest" / "latest").unlink()
        (cls.top / "no-tag" / "latest").write_text("global_step9", encoding="utf-8")
        for name, damage in (("missing", pathlib.Path.unlink), ("torn", lambda path: path.write_bytes(path.read_bytes()[:-200]))):
            damage(next((cls.top / name).glob("*/*zero_pp_rank_1_mp_rank_00_optim_states.pt")))

    @classmethod
    def failures(cls):
        """What must be refused, and what stands in for it."""
        def folder(name):
            return str(cls.top / name)
        sgd = {**config_of(*CASES["stage3"][:2]), **SGD}
        jobs = {"empty": {"how": "integration", "load": folder("empty")}, "nowhere": {"how": "integration", "load": folder("nowhere")},
                "no-latest": {"how": "integration", "load": folder("no-latest")}, "no-latest-none": {"load": folder("no-latest")},
                "no-tag": {"load": folder("no-tag")}, "missing": {"how": "integration", "load": folder("missing")},
                "torn": {"load": folder("torn")}, "wider": {"wider": 9}, "extra": {"extra": True},
                "extra-with-optimizer": {"extra": True, "keywords": {"load_module_strict": False}},
                "extra-left": {"extra": True, "keywords": {"load_module_strict": False, "load_optimizer_states": False}},
                "frozen": {"frozen": "norm.bias"}, "groups": {"groups": 1, "config": config_of(*CASES["stage3"][:2], 1)},
                "sgd": {"config": sgd}, "noted": {"load": folder("noted")},
                "noted-trusted": {"load": folder("noted"), "keywords": {"weights_only": False}},
                "without-zero": {"load": folder("without-zero")}, "differ": {"load": [folder("stage3"), folder("noted")]}, "noted-engine": {"how": "engine", "load": folder("noted")}, "integration": {"how": "integration"}}
        return {f"fails {name}": cls.job("stage3", more.pop("how", "zerocast"), **more) for name, more in jobs.items()} | {
            f"fails reversed-{case}": cls.job(case, "zerocast", reversed=True) for case in ("stage2", "stage3")}

    def alike(self, got, want, but=()):
        """Compares what all ranks tell."""
        self.assertEqual(len(got), len(want))
        for here, there in zip(got, want, strict=True):
            self.assertNotIn("text", here)
            for what in there:
                if what not in but:
                    self.assertEqual(here[what], there[what], what)

    def test_as_the_engine_at_the_same_world_size(self):
        """All that load_checkpoint returns and sets, and two steps."""
        for case in [*CASES, *MORE]:
            with self.subTest(case=case):
                self.alike(self.told[f"{case} same zerocast"], self.told[f"{case} same engine"])

    def test_into_an_engine_that_was_trained(self):
        """As the Trainer does when it takes the best model at the end."""
        for name in ("stage3", "stage3-sub-groups", "stage2"):
            self.alike(self.told[f"{name} trained zerocast"], self.told[f"{name} same zerocast"])

    def test_secondary_partitions_are_none_of_the_old_values(self):
        """Those of frozen parameters, too, which DeepSpeed's own load_checkpoint leaves as they were."""
        self.alike(self.told["secondary"], self.told["stage3 same engine"])

    def test_as_the_universal_way_at_another(self):
        """Masters, losses, parameters and moments."""
        for case in CASES:
            for way in ("other", "universal"):
                with self.subTest(case=case, way=way):
                    self.alike(self.told[f"{case} {way} zerocast"], self.told[f"{case} other engine"],
                               but=("path", "client") if way == "other" else ("path",))

    def test_what_is_left_out_stays(self):
        """Flags of load_checkpoint."""
        for case in ("stage3", "stage2"):
            for flag in MOST_FLAGS:
                if (case, flag) == ("stage3", "module"):
                    continue
                with self.subTest(case=case, flag=flag):
                    self.alike(self.told[f"{case} {flag} zerocast"], self.told[f"{case} {flag} engine"])
        # DeepSpeed leaves the weights as they are, too, as if nothing had been loaded.
        ours, none = self.told["stage3 module zerocast"], self.told["stage3 module engine"]
        for here, there, weights in zip(ours, none, self.told["stage3 no-optimizer engine"], strict=True):
            self.assertEqual({**here["own"]}, {**weights["own"]})
            self.assertTrue(there["untouched"])
            self.assertEqual((here["steps"], here["schedule"]), (there["steps"], there["schedule"]))

    def test_between_stages(self):
        """Masters are those that were saved; the rest trains on."""
        for job, case in (("stage3 stage2", "stage3"), ("stage2 stage3", "stage2")):
            for here, there in zip(self.told[job], self.told[f"{case} other zerocast"], strict=True):
                self.assertEqual(here["loaded"], there["loaded"])
                self.assertEqual(here["groups"], there["groups"])
        for here, there in zip(self.told["stage1-fp32 stage0"], self.told["stage1-fp32 other engine"], strict=True):
            self.assertEqual(here["losses"], there["losses"])
        for here, there in zip(self.told["stage3-sub-groups stage0"], self.told["stage3-sub-groups same engine"], strict=True):
            self.assertEqual(here["losses"], there["losses"])

    def test_weights_of_a_folder_without_zero(self):
        """As the engine loads them, and into an engine with ZeRO."""
        want = self.told["without-zero engine stage0"]
        self.alike(self.told["without-zero zerocast stage0"], want)
        for here, there in zip(self.told["without-zero zerocast stage3"], want, strict=True):
            self.assertEqual(here["losses"], there["losses"])
        self.failed("without-zero", "was saved without ZeRO", "load_optimizer_states=False")

    def failed(self, name, *words, kind="LoadError"):
        """A failure is the same on all ranks, and nothing was written."""
        told = self.told[f"fails {name}"]
        self.assertEqual(len({one.get("text") for one in told}), 1, told)
        for one in told:
            self.assertIn(kind, one["kinds"])
            self.assertTrue(one["untouched"])
            for word in words:
                self.assertIn(word, one["text"])
        return told[0]["text"]

    def test_what_cannot_be_resumed_from(self):
        """Folders and tags."""
        resume = "[deepspeed] failed to resume from checkpoint"
        for name in ("empty", "nowhere"):
            self.assertEqual(self.failed(name, kind="ValueError"), f"Can't find a valid checkpoint at {self.top / name}")
        self.assertEqual(self.failed("no-latest", kind="ValueError"), f"{resume} {self.top / 'no-latest'}")
        for told in self.told["fails no-latest-none"]:
            self.assertEqual((told["path"], told["client"], told["untouched"]), (None, None, True))
        self.failed("no-tag", resume, "global_step9", "global_step3")
        self.failed("missing", resume, "zero_pp_rank_1", kind="ValueError")
        self.failed("missing", kind="ResumeError")
        self.failed("torn", resume, "zero_pp_rank_1")

    def test_what_does_not_fit(self):
        """Models and optimizers."""
        self.failed("wider", "out.weight", "[6, 7]", "[9, 7]")
        self.failed("extra", "not in the checkpoint: extra")
        self.failed("extra-with-optimizer", "group 1 has in the engine alone: extra", "load_optimizer_states=False")
        for told in self.told["fails extra-left"]:
            self.assertEqual(told["path"].split("_mp_")[1], "rank_00_model_states.pt")
        self.failed("frozen", "norm.bias")
        self.failed("groups", "2 groups", "the engine has 1")
        self.failed("sgd", "SGD", "momentum")
        self.failed("reversed-stage2", "group 0 has its parameters in another order: scale, into.bias", "load_optimizer_states=False")
        self.assertEqual({one["path"] is None for one in self.told["fails reversed-stage3"]}, {False})
        self.failed("differ", "rank 1", "load_dir is", "noted")

    def test_a_rank_that_dies(self):
        """Is named, and nobody waits for it any longer."""
        self.failed("lost", "rank 1: said nothing for 6 s", "it died or hangs")

    def test_pickles_that_are_more_than_values(self):
        """Are refused, but where the caller trusts them."""
        self.failed("noted", "Note", "weights_only=False")
        for here, there in zip(self.told["fails noted-trusted"], self.told["fails noted-engine"], strict=True):
            self.assertEqual({**here, "client": None}, {**there, "client": None})
            self.assertIn("note", here["client"])

    def test_the_integrations_function(self):
        """Loads all."""
        for here, there in zip(self.told["fails integration"], self.told["stage3 same engine"], strict=True):
            for what in ("own", "schedule", "steps"):
                self.assertEqual(here[what], there[what])

    def test_the_cases_are_what_they_say(self):
        """Something was trained and kept."""
        for case in CASES:
            for told in self.told[f"{case} same zerocast"]:
                self.assertEqual(told["client"]["told"]["epoch"], 7)
                self.assertEqual(told["steps"], 3)
                self.assertEqual(len(set(told["losses"])), 2)
                self.assertFalse(told["untouched"])
                self.assertNotEqual(told["own"], told["trained"])
                self.assertEqual(len({group["lr"] for group in told["groups"]}), CASES[case][2])
        self.assertNotEqual(self.told["stage1-fp16 same zerocast"][0]["scale"], 1.0)


if __name__ == "__main__":
    unittest.main()

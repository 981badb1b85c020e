"""Each attribute of each parameter under ZeRO-3 after zerocast.from_pretrained is what the library's gives it, rank by rank.

Wants ZC_SOURCE_DIR and ZC_BUILD_DIR (its python folder has the package).
"""

import unittest

import torch
from engine_cases import CHECKPOINTS, Cases, config
from pretrained_rank import digest

FULL = config({"stage": 3})


class Zero3(Cases):

    def test_parameters(self):
        threshold = {"stage": 3, "stage3_param_persistence_threshold": 100, "stage3_model_persistence_threshold": 500}
        fp32 = {name: value for name, value in FULL.items() if name != "bf16"}
        mixtral, llama, deepseek = str(CHECKPOINTS / "mixtral"), str(self.models / "llama"), str(CHECKPOINTS / "deepseek_v3")
        made = self.compare(2, [
            {"name": "bf16", "checkpoint": mixtral, "config": FULL},
            {"name": "tied", "checkpoint": llama, "config": FULL, "steps": 3},
            {"name": "fp32", "checkpoint": mixtral, "config": fp32, "steps": 3},
            {"name": "fp16", "checkpoint": mixtral, "config": {**fp32, "fp16": {"enabled": True}}},
            {"name": "frozen", "checkpoint": llama, "config": FULL, "kind": "frozen", "steps": 3},
            {"name": "persistent", "checkpoint": llama, "config": config(threshold), "steps": 3},
            {"name": "cpu", "checkpoint": llama, "steps": 3,
             "config": config({"stage": 3, "offload_param": {"device": "cpu", "pin_memory": True}})},
            {"name": "nvme", "checkpoint": str(self.models / "wide"),
             "config": config({"stage": 3, "offload_param": {"device": "nvme", "nvme_path": str(self.models / "nvme"),
                                                             "buffer_size": 1000000, "buffer_count": 5}})},
            {"name": "keep-bf16", "checkpoint": deepseek, "config": FULL},
            {"name": "keep-fp16", "checkpoint": deepseek, "config": {**fp32, "fp16": {"enabled": True}}},
            {"name": "keep-nothing", "checkpoint": deepseek,
             "config": {**FULL, "data_types": {"keep_in_fp32_modules": []}}},
            {"name": "t5-fp16", "checkpoint": str(self.models / "t5"), "kind": "class", "class": "T5ForConditionalGeneration",
             "config": {**fp32, "fp16": {"enabled": True}}, "keywords": {"dtype": "float16"}},
            {"name": "empty", "checkpoint": str(self.models / "empty"), "config": FULL, "kind": "empty"},
            {"name": "nested", "checkpoint": llama, "config": FULL, "kind": "nested"},
            {"name": "within", "checkpoint": str(self.models / "outer"), "config": FULL, "kind": "within"},
        ])
        # That the cases are what their names say.
        self.assertIn("lm_head.weight", made["tied"][0]["parameters"])
        self.assertEqual(len({name for name, value in made["persistent"][0]["persistent"].items() if value}), 5)
        on_nvme = {name for name, told in made["nvme"][0]["parameters"].items() if "nvme" in told["ds_tensor"]["final_location"]}
        self.assertEqual(on_nvme, {"model.embed_tokens.weight", "lm_head.weight"})
        self.assertIn("float32", {dtype for _, dtype, *_ in _named(made["keep-bf16"], "buffers", "e_score_correction_bias")}.pop())
        self.assertIn("bfloat16",
                      {dtype for _, dtype, *_ in _named(made["keep-nothing"], "buffers", "e_score_correction_bias")}.pop())
        empty = made["empty"][0]["parameters"]
        self.assertEqual([empty[name]["ds_numel"] for name in ("empty", "missing", "missing_ones")], ["0", "0", "9"])
        self.assertIn("beside.weight", made["nested"][0]["parameters"])
        self.assertTrue(_named(made["within"], "parameters", "other."))

    def test_a_parameter_that_comes_late(self):
        # The library fills it on rank 0 alone.
        made = self.run_cases("zerocast", 2, [{"name": "late", "checkpoint": str(self.models / "late"), "config": FULL,
                                               "kind": "late"}])
        want = torch.ones(5, 7, dtype=torch.bfloat16)
        want[2] = 5
        for told in made["late"]:
            self.assertEqual(told["before"]["model.late"], digest(want))

    def test_what_is_left_to_the_library_when_the_model_is_made_already(self):
        self.compare(2, [{"name": "expanded", "checkpoint": str(self.models / "expanded"), "config": FULL, "steps": 3}],
                     how="installed")

    def test_weights_that_torch_saved(self):
        # Both names of the tied weight are in the file.
        self.compare(2, [{"name": "pickled", "checkpoint": str(self.models / "pickled"), "config": FULL, "steps": 3}])

    def test_secondary_partitions(self):
        made = self.compare(4, [{"name": "hpz", "checkpoint": str(CHECKPOINTS / "mixtral"),
                                 "config": config({"stage": 3, "zero_hpz_partition_size": 2})}])
        for told in made["hpz"]:
            for param in told["parameters"].values():
                # Half of a parameter, where a quarter is the primary one.
                self.assertEqual(param["ds_secondary_tensor"]["shape"][0], 2 * param["ds_tensor"]["shape"][0])


def _named(made, what, *parts):
    return [value for told in made for name, value in told[what].items() if any(part in name for part in parts)]


if __name__ == "__main__":
    unittest.main()

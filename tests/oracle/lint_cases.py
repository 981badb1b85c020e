"""The cases of the lint's table."""

from lint_case import ALL, NEWEST, batch, before, case, optimizer, rows, scheduler, since, zero  # noqa: F401: rows is for who imports this

# ---- Configs in order ----------------------------------------------------------------------------
case("plain", batch(), versions=ALL)
case("zero3", zero(stage=3, overlap_comm=True, reduce_bucket_size=5e8, stage3_prefetch_bucket_size=5e7,
                   stage3_max_live_parameters=1e9, offload_param={"device": "cpu", "pin_memory": True},
                   offload_optimizer={"device": "cpu"}), versions=ALL)
case("adamw", optimizer("AdamW", lr=5e-5, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01), versions=ALL)
case("warmup", scheduler("WarmupDecayLR", warmup_min_lr=0, warmup_max_lr=5e-5, warmup_num_steps=10,
                         total_num_steps=100), versions=ALL)
case("sections", batch(gradient_clipping=1.0, steps_per_print=2000, wall_clock_breakdown=False, bf16={"enabled": True},
                       activation_checkpointing={"partition_activations": True, "cpu_checkpointing": True},
                       checkpoint={"tag_validation": "warn", "load_universal": True,
                                   "parallel_write": {"pipeline_stage": True}},
                       flops_profiler={"enabled": True, "profile_step": 1}, timers={"throughput": {"enabled": False}},
                       tensorboard={"enabled": False, "job_name": "x"}, communication_data_type="BF16",
                       data_types={"grad_accum_dtype": "bf16"}, aio={"block_size": 262144}))
case("inference", batch(inference={"tensor_parallel": {"tp_size": 1}}))
case("pipeline", batch(pipeline={"stages": "auto", "partition": "uniform"}))
case("infinite-steps-per-print", batch(steps_per_print=float("inf")), "N not-finite steps_per_print")
case("torch-scheduler", scheduler("StepLR", step_size=3))
case("auto-filled-later", {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
                           "gradient_clipping": "auto", "fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"},
                           "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
                           "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}},
     resolved=False, why="the integration fills every auto before DeepSpeed sees the config")

# ---- Infinity, NaN and null sections, which the integration lets through -------------------------
INF, NAN = float("inf"), float("nan")
case("infinite-clipping", batch(gradient_clipping=INF), "W not-finite gradient_clipping", versions=(ALL[0], NEWEST))
case("clipping-beyond-a-double", '{"train_micro_batch_size_per_gpu": 1, "gradient_clipping": 1e400}',
     "W not-finite gradient_clipping", versions=(ALL[0], NEWEST),
     why="a file is read by hjson, which fails on it; Transformers hands over an object")
case("nan-clipping", batch(gradient_clipping=NAN), "W out-of-range gradient_clipping")
case("minus-infinite-clipping", batch(gradient_clipping=-INF), "W out-of-range gradient_clipping")
case("nan-steps-per-print", batch(steps_per_print=NAN), "W out-of-range steps_per_print")
case("infinite-bucket", zero(stage=3, reduce_bucket_size=INF), "E wrong-type zero_optimization.reduce_bucket_size")
case("nan-flag", zero(stage=3, overlap_comm=NAN), "E wrong-type zero_optimization.overlap_comm")
case("infinite-loss-scale", batch(fp16={"enabled": True, "loss_scale": INF}), "E out-of-range fp16.loss_scale")
case("infinite-eps", optimizer("AdamW", lr=1e-4, eps=INF), "W not-finite optimizer.params.eps")
case("nan-lr", optimizer("AdamW", lr=NAN), "W out-of-range optimizer.params.lr")
case("infinite-beta", optimizer("AdamW", lr=1e-4, betas=[INF, 0.9]), "W out-of-range optimizer.params.betas")
case("infinite-warmup-lr", scheduler("WarmupLR", warmup_max_lr=INF), "W not-finite scheduler.params.warmup_max_lr")
case("nan-elsewhere", batch(inference={"a": [1, {"b": NAN}]}), "W not-finite inference.a[1].b")
case("nan-unknown", batch(my_own_note=NAN), "W unknown-key my_own_note")
case("nan-below-unknown", batch(my_own_note={"x": NAN}), "W unknown-key my_own_note", "W not-finite my_own_note.x")
case("null-aio", batch(aio=None), "N null-section aio", versions=(ALL[0], NEWEST))
case("null-expert_parallel", batch(expert_parallel=None), "N null-section expert_parallel")
for name in ("offload_optimizer", "zenflow", "leaf_module"):
    case(f"null-{name}", zero(stage=2, **{name: None}), f"N null-section zero_optimization.{name}",
         versions=(ALL[0], NEWEST))
case("null-model-info", batch(autotuning={"model_info": None}), "N null-section autotuning.model_info")
case("null-writer", batch(checkpoint={"writer": None}), "N null-section checkpoint.writer")
case("null-inference", batch(inference=None), "N null-section inference")
for name in ("optimizer", "scheduler", "zero_optimization", "fp16", "tensor_parallel", "timers", "checkpoint", "data_types",
             "data_efficiency", "flops_profiler", "tensorboard", "comms_logger", "activation_checkpointing"):
    case(f"null-{name}", batch(**{name: None}), f"E wrong-type {name}", versions=(ALL[0], NEWEST))

# ---- Unknown keys --------------------------------------------------------------------------------
for wrong in ("zero_optimisation", "gradient_clip", "optimiser", "lr_scheduler", "fp_16", "train_batchsize",
              "train_micro_batch_size_per_cpu", "step_per_print", "activation_checkpoint", "flop_profiler"):
    case(f"unknown-top-{wrong}", batch(**{wrong: {} if wrong in ("zero_optimisation", "fp_16") else 1}),
         f"W unknown-key {wrong}", versions=(ALL[0], NEWEST))
case("unknown-top-case", batch(FP16={"enabled": True}), "W unknown-key FP16")
case("unknown-top-nested-key", batch(stage=3), "W unknown-key stage")
case("unknown-top-offload", batch(offload_optimizer={"device": "cpu"}), "W unknown-key offload_optimizer")
case("unknown-top-lr", batch(learning_rate=1e-4), "W unknown-key learning_rate")
case("unknown-top-anything", batch(my_own_note="x"), "W unknown-key my_own_note", versions=ALL)
case("unknown-zero", zero(stage=3, stage3_param_persistance_threshold=1),
     "E unknown-key zero_optimization.stage3_param_persistance_threshold", versions=ALL)
case("unknown-zero-auto", zero(stage=3, stage3_param_persistance_threshold="auto"),
     "W unknown-key zero_optimization.stage3_param_persistance_threshold")
case("unknown-zero-nested-key", zero(stage=3, device="cpu"), "E unknown-key zero_optimization.device")
case("unknown-offload", zero(stage=3, offload_param={"device": "cpu", "pin_memroy": True}),
     "E unknown-key zero_optimization.offload_param.pin_memroy", versions=(ALL[0], NEWEST))
case("unknown-offload-other", zero(stage=3, offload_param={"device": "cpu", "fast_init": True}),
     "E unknown-key zero_optimization.offload_param.fast_init")
case("unknown-fp16", batch(fp16={"enable": True}), "E unknown-key fp16.enable", versions=(ALL[0], "0.19.4", NEWEST))
case("unknown-bf16", batch(bf16={"enabled": True, "loss_scale": 0}), "E unknown-key bf16.loss_scale")
case("unknown-tensorboard", batch(tensorboard={"enabled": True, "path": "x"}), "E unknown-key tensorboard.path")
case("unknown-loose", batch(flops_profiler={"enable": True}), "W unknown-key flops_profiler.enable",
     versions=(ALL[0], NEWEST))
case("unknown-checkpoint", batch(checkpoint={"tag_validate": "Warn"}), "W unknown-key checkpoint.tag_validate")
case("unknown-activation", batch(activation_checkpointing={"partitioned_activations": True}),
     "W unknown-key activation_checkpointing.partitioned_activations")
case("unknown-aio", batch(aio={"thread_count": 1}), "W unknown-key aio.thread_count")
case("unknown-pipeline", batch(pipeline={"stage": 2}), "W unknown-key pipeline.stage")
case("unknown-optimizer", batch(optimizer={"type": "AdamW", "lr": 1e-4}), "W unknown-key optimizer.lr")
case("later-log-level", batch(log_level="info"), "W unknown-key log_level", versions=before("0.19.3"))
case("later-log-level", batch(log_level="info"), versions=since("0.19.3"))
case("later-managed", batch(managed_gradient_accumulation=True), "W unknown-key managed_gradient_accumulation",
     versions=before("0.19.4"))
case("later-managed", batch(managed_gradient_accumulation=True), versions=since("0.19.4"))
case("later-allreduce", batch(gradient_allreduce_op="sum"), "W unknown-key gradient_allreduce_op",
     versions=before("0.19.6"))
case("later-allreduce", batch(gradient_allreduce_op="Sum"), versions=since("0.19.6"))
case("later-grad-norm", zero(stage=2, compute_grad_norm=False), "E unknown-key zero_optimization.compute_grad_norm",
     versions=before("0.19.7"))
case("later-grad-norm", zero(stage=2, compute_grad_norm=False), versions=since("0.19.7"))
case("later-expert-parallel", batch(expert_parallel={"enabled": False}), "W unknown-key expert_parallel",
     versions=before("0.19.2"))
case("later-gc", batch(disable_python_gc=True), "W unknown-key disable_python_gc", versions=("0.19.7", ))

# ---- Types, values, ranges -----------------------------------------------------------------------
case("stage-text", zero(stage="3"), "W string-value zero_optimization.stage", versions=(ALL[0], NEWEST))
case("stage-true", zero(stage=True), "W wrong-type zero_optimization.stage")
case("stage-float", zero(stage=3.0))
case("stage-4", zero(stage=4), "E invalid-value zero_optimization.stage", versions=(ALL[0], NEWEST))
case("stage-negative", zero(stage=-1), "E invalid-value zero_optimization.stage")
case("stage-word", zero(stage="three"), "E invalid-value zero_optimization.stage")
case("stage-null", zero(stage=None), "E wrong-type zero_optimization.stage")
case("zero-true", batch(zero_optimization=True), "W deprecated-key zero_optimization", versions=(ALL[0], NEWEST))
case("zero-number", batch(zero_optimization=3), "E wrong-type zero_optimization")
case("zero-null", batch(zero_optimization=None), "E wrong-type zero_optimization")
case("zero-auto", batch(zero_optimization="auto"), "E leftover-auto zero_optimization")
case("fp16-true", batch(fp16=True), "E wrong-type fp16", versions=(ALL[0], NEWEST))
case("fp16-null", batch(fp16=None), "E wrong-type fp16")
case("bf16-null", batch(bf16=None), "N null-section bf16")
case("enabled-text", batch(fp16={"enabled": "true"}), "W string-value fp16.enabled", versions=(ALL[0], NEWEST))
case("enabled-text-false", batch(bf16={"enabled": "false"}), "W string-value bf16.enabled")
case("enabled-word", batch(bf16={"enabled": "maybe"}), "E wrong-type bf16.enabled")
case("enabled-number", batch(bf16={"enabled": 2}), "E wrong-type bf16.enabled")
case("enabled-null", batch(bf16={"enabled": None}), "E wrong-type bf16.enabled")
case("bucket-fraction", zero(stage=2, reduce_bucket_size=1.5), "E wrong-type zero_optimization.reduce_bucket_size",
     versions=(ALL[0], NEWEST))
case("bucket-text", zero(stage=2, reduce_bucket_size="500000000"), "W string-value zero_optimization.reduce_bucket_size")
case("bucket-words", zero(stage=2, reduce_bucket_size="5e8"), "E wrong-type zero_optimization.reduce_bucket_size")
case("bucket-zero", zero(stage=2, reduce_bucket_size=0), versions=before("0.19.6"))
case("bucket-zero", zero(stage=2, reduce_bucket_size=0), "E out-of-range zero_optimization.reduce_bucket_size",
     versions=since("0.19.6"))
case("bucket-negative", zero(stage=2, allgather_bucket_size=-1),
     "E out-of-range zero_optimization.allgather_bucket_size", versions=(ALL[0], NEWEST))
case("ratio-range", zero(stage=3, offload_optimizer={"device": "cpu", "ratio": 1.5}),
     "E out-of-range zero_optimization.offload_optimizer.ratio")
case("device-word", zero(stage=3, offload_param={"device": "gpu"}),
     "E invalid-value zero_optimization.offload_param.device", versions=(ALL[0], NEWEST))
case("offload-text", zero(stage=3, offload_param="cpu"), "E wrong-type zero_optimization.offload_param")
case("offload-null", zero(stage=3, offload_param=None), "N null-section zero_optimization.offload_param")
case("topk", zero(stage=2, zenflow={"topk_ratio": 1.0}), versions=before("0.19.6"))
case("topk", zero(stage=2, zenflow={"topk_ratio": 1.0}), "E out-of-range zero_optimization.zenflow.topk_ratio",
     versions=since("0.19.6"))
case("zenflow-strategy", zero(stage=2, zenflow={"select_strategy": "never"}),
     "E invalid-value zero_optimization.zenflow.select_strategy")
case("zenflow-interval", zero(stage=2, zenflow={"select_interval": "often"}),
     "E invalid-value zero_optimization.zenflow.select_interval")
case("zenflow-update", zero(stage=2, zenflow={"update_interval": 0}), versions=("0.19.5", ))
case("zenflow-update", zero(stage=2, zenflow={"update_interval": 0}),
     "E out-of-range zero_optimization.zenflow.update_interval", versions=since("0.19.6"))
case("loss-scale-negative", batch(fp16={"enabled": True, "loss_scale": -1}), "E out-of-range fp16.loss_scale",
     versions=(ALL[0], NEWEST))
case("loss-scale-true", batch(fp16={"enabled": True, "loss_scale": True}), "E wrong-type fp16.loss_scale")
case("loss-scale-infinite", batch(fp16={"enabled": True, "loss_scale": float("inf")}), "E out-of-range fp16.loss_scale")
case("window-zero", batch(fp16={"enabled": True, "loss_scale_window": 0}), versions=before("0.19.3"))
case("window-zero", batch(fp16={"enabled": True, "loss_scale_window": 0}), "E out-of-range fp16.loss_scale_window",
     versions=since("0.19.3"))
case("window-static", batch(fp16={"enabled": True, "loss_scale": 128, "loss_scale_window": 0}))
case("min-scale", batch(fp16={"enabled": True, "min_loss_scale": -1}), "E out-of-range fp16.min_loss_scale")
case("window-true", batch(fp16={"loss_scale_window": True}), "E wrong-type fp16.loss_scale_window")
case("hybrid-tokens", batch(hybrid_engine={"max_out_tokens": 0}), versions=("0.19.6", ))
case("hybrid-tokens", batch(hybrid_engine={"max_out_tokens": 0}), "E out-of-range hybrid_engine.max_out_tokens",
     versions=since("0.19.7"))
case("passes", batch(compile={"passes": ["z3", "autotp"]}), "E invalid-value compile.passes", versions=("0.19.5", ))
case("passes", batch(compile={"passes": ["z3", "autotp"]}), versions=since("0.19.6"))
case("tp-dtype", batch(tensor_parallel={"dtype": "bf16"}), "E wrong-type tensor_parallel.dtype")
case("comm-dtype", batch(communication_data_type="int8"), "E invalid-value communication_data_type",
     versions=(ALL[0], NEWEST))
case("comm-dtype-number", batch(communication_data_type=16), "E wrong-type communication_data_type")
case("allreduce-word", batch(gradient_allreduce_op="max"), "E invalid-value gradient_allreduce_op",
     versions=since("0.19.6"))
case("tag", batch(checkpoint={"tag_validation": "Maybe"}), "E invalid-value checkpoint.tag_validation",
     versions=(ALL[0], NEWEST))
case("tag-null", batch(checkpoint={"tag_validation": None}), "E wrong-type checkpoint.tag_validation")
case("writer", batch(checkpoint={"writer": {"type": "slow"}}), "E invalid-value checkpoint.writer.type")
case("writer-unit", batch(checkpoint={"writer": {"type": "fast", "data_parallel": "node"}}),
     "E invalid-value checkpoint.writer.data_parallel")
case("pipeline-stage", batch(checkpoint={"parallel_write": {"pipeline_stage": 2}}),
     "E wrong-type checkpoint.parallel_write.pipeline_stage")
case("autocast-dtype", batch(torch_autocast={"enabled": True, "dtype": "fp8"}), "E invalid-value torch_autocast.dtype")
case("autocast-modules", batch(torch_autocast={"lower_precision_safe_modules": [1]}),
     "E wrong-type torch_autocast.lower_precision_safe_modules")
case("param-dtype-word", batch(data_types={"param_dtype": "tf32"}), "E invalid-value data_types.param_dtype",
     versions=since("0.19.2"))
case("grad-dtype-word", batch(data_types={"grad_accum_dtype": "tf32"}), "E invalid-value data_types.grad_accum_dtype")
case("keep-fp32", batch(data_types={"keep_in_fp32_modules": "norm"}), "E invalid-value data_types.keep_in_fp32_modules")
case("keep-fp32-auto", batch(data_types={"keep_in_fp32_modules": "auto"}))
case("keep-fp32-items", batch(data_types={"keep_in_fp32_modules": ["norm", 1]}),
     "E wrong-type data_types.keep_in_fp32_modules")
case("balance", batch(expert_parallel={"load_balance_coeff": 0.1}), "E invalid-value expert_parallel.load_balance_coeff")
case("clipping-text", batch(gradient_clipping="1.0"), "W wrong-type gradient_clipping", versions=(ALL[0], NEWEST))
case("clipping-negative", batch(gradient_clipping=-1), "W out-of-range gradient_clipping")
case("clipping-null", batch(gradient_clipping=None), "W wrong-type gradient_clipping")
case("print-text", batch(steps_per_print="10"), "W wrong-type steps_per_print")
case("dump-text", batch(dump_state="false"), "W wrong-type dump_state")
case("clock-text", batch(wall_clock_breakdown="false"), "E wrong-type wall_clock_breakdown", versions=(ALL[0], NEWEST))
case("profiler-text", batch(flops_profiler={"enabled": "true"}), "E wrong-type flops_profiler.enabled")
case("tuner", batch(autotuning={"tuner_type": "guess"}), "W invalid-value autotuning.tuner_type")
case("tuner-dir", batch(autotuning={"results_dir": ""}), "E invalid-value autotuning.results_dir")
case("section-list", batch(checkpoint=[]), "E wrong-type checkpoint")
case("section-text", batch(optimizer="AdamW"), "E wrong-type optimizer", versions=(ALL[0], NEWEST))
case("vocabulary", batch(vocabulary_size=50257), "W alignment vocabulary_size", versions=(ALL[0], NEWEST))
case("vocabulary-text", batch(vocabulary_size="50256"), "E wrong-type vocabulary_size")
case("field-name", zero(stage=3, prefetch_bucket_size=1), "W field-name zero_optimization.prefetch_bucket_size",
     versions=(ALL[0], NEWEST))
case("field-twice", zero(stage=3, stage3_prefetch_bucket_size=1, prefetch_bucket_size=1),
     "W field-name zero_optimization.prefetch_bucket_size", "E conflict zero_optimization.prefetch_bucket_size")
case("leaf-module", zero(stage=3, leaf_module={"names": "mlp"}))

# ---- Removed and deprecated keys -----------------------------------------------------------------
for key, version in (("nebula", "0.19.7"), ("compression_training", "0.19.7"), ("sparse_attention", "0.19.7"),
                     ("elasticity", "0.19.8"), ("eigenvalue", "0.19.8")):
    value = {"mode": "fixed"} if key == "sparse_attention" else {"enabled": False}
    case(f"removed-{key}", batch(**{key: value}), f"E removed-key {key}", versions=since(version))
    case(f"removed-{key}", batch(**{key: value}), f"N removed-key {key}", versions=before(version)[-1:])
for key in ("amp", "curriculum_learning", "progressive_layer_drop"):
    case(f"removed-{key}", batch(**{key: {"enabled": False}}), f"E removed-key {key}")
    case(f"removed-{key}", batch(**{key: {"enabled": False}}), f"N removed-key {key}", versions=("0.19.7", ))
    case(f"removed-{key}-empty", batch(**{key: {}}), f"N removed-key {key}", f"E missing-key {key}.enabled",
         versions=("0.19.7", ))
case("removed-quantize", batch(quantize_training={"enabled": False}), "E removed-key quantize_training",
     versions=since("0.19.7"))
case("removed-graph", batch(graph_harvesting=False), "E removed-key graph_harvesting")
case("removed-graph", batch(graph_harvesting=False), "N removed-key graph_harvesting", versions=("0.19.7", ))
case("removed-sparse", batch(sparse_gradients=False), "E removed-key sparse_gradients")
case("removed-mics", zero(stage=3, mics_shard_size=-1), "N removed-key zero_optimization.mics_shard_size",
     versions=before("0.19.7"))
case("removed-mics", zero(stage=3, mics_shard_size=-1), "E removed-key zero_optimization.mics_shard_size",
     versions=since("0.19.7"))
case("removed-mics-gather", zero(stage=3, mics_hierarchical_params_gather=False),
     "E removed-key zero_optimization.mics_hierarchical_params_gather")
case("removed-loco", zero(stage=3, zeropp_loco_param=None), "E removed-key zero_optimization.zeropp_loco_param")
case("removed-loco", zero(stage=3, zeropp_loco_param=None), "N removed-key zero_optimization.zeropp_loco_param",
     versions=("0.19.7", ))
case("removed-onebit", optimizer("OneBitAdam", lr=1e-4), "E removed-key optimizer.type", versions=since("0.19.7"))
case("removed-onebit-zero", optimizer("OneBitAdam", {"zero_optimization": {"stage": 1}}, lr=1e-4),
     "N removed-key optimizer.type", "E conflict optimizer.type", versions=("0.19.6", ))
case("deprecated-cpu-offload", zero(stage=2, cpu_offload=True), "W deprecated-key zero_optimization.cpu_offload",
     versions=ALL)
case("deprecated-offload-param", zero(stage=3, cpu_offload_param=True),
     "W deprecated-key zero_optimization.cpu_offload_param")
case("deprecated-pin", zero(stage=3, cpu_offload_use_pin_memory=True),
     "W deprecated-key zero_optimization.cpu_offload_use_pin_memory")
case("deprecated-gather", zero(stage=3, stage3_gather_fp16_weights_on_model_save=True),
     "W deprecated-key zero_optimization.stage3_gather_fp16_weights_on_model_save", versions=(ALL[0], NEWEST))
case("deprecated-auto", zero(stage=3, cpu_offload="auto"), "W leftover-auto zero_optimization.cpu_offload")
case("deprecated-both", zero(stage=2, cpu_offload=True, offload_optimizer={"device": "cpu"}),
     "W deprecated-key zero_optimization.cpu_offload", "E conflict zero_optimization.cpu_offload",
     versions=(ALL[0], NEWEST))
case("deprecated-both-gather", zero(stage=3, stage3_gather_fp16_weights_on_model_save=True,
                                    stage3_gather_16bit_weights_on_model_save=True),
     "W deprecated-key zero_optimization.stage3_gather_fp16_weights_on_model_save",
     "E conflict zero_optimization.stage3_gather_fp16_weights_on_model_save")
case("bfloat16", batch(bfloat16={"enabled": True}), "W deprecated-key bfloat16", versions=(ALL[0], NEWEST))
case("bfloat16-unused", batch(bf16={"enabled": True}, bfloat16={"enabled": True}), "W no-effect bfloat16")
case("elastic-checkpoint", zero(stage=3, elastic_checkpoint=True),
     "W deprecated-key zero_optimization.elastic_checkpoint", versions=(ALL[0], "0.19.3", NEWEST))

# ---- Keys that do not go together ----------------------------------------------------------------
case("fp16-bf16", batch(fp16={"enabled": True}, bf16={"enabled": True}), "E conflict bf16.enabled", versions=ALL)
case("fp16-bfloat16", batch(fp16={"enabled": True}, bfloat16={"enabled": "yes"}), "W deprecated-key bfloat16",
     "W string-value bfloat16.enabled", "E conflict bfloat16.enabled")
case("ratio-stage", zero(stage=2, offload_optimizer={"device": "cpu", "ratio": 0.5}),
     "E conflict zero_optimization.offload_optimizer.ratio", versions=(ALL[0], NEWEST))
case("grad-norm-stage", zero(stage=3, compute_grad_norm=False), "E conflict zero_optimization.compute_grad_norm",
     versions=since("0.19.7"))
case("sum-stage3", batch(gradient_allreduce_op="sum", zero_optimization={"stage": 3}),
     "E conflict gradient_allreduce_op", versions=since("0.19.6"))
case("sum-zenflow", batch(gradient_allreduce_op="sum", zero_optimization={"stage": 2, "zenflow": {}}),
     "E conflict gradient_allreduce_op")
case("sum-deepcompile", batch(gradient_allreduce_op="sum", compile={"deepcompile": True}),
     "E conflict gradient_allreduce_op")
case("fp16-master", batch(fp16={"enabled": True, "fp16_master_weights_and_grads": True}),
     "E conflict fp16.fp16_master_weights_and_grads", versions=(ALL[0], NEWEST))
case("bf16-master", batch(bf16={"enabled": True, "bf16_master_weights_and_grads": True}),
     "E conflict bf16.bf16_master_weights_and_grads", versions=(ALL[0], NEWEST))
case("bf16-states", batch(bf16={"enabled": True, "bf16_optimizer_states": True}, zero_optimization={"stage": 1}),
     "E conflict bf16.bf16_optimizer_states", versions=(ALL[0], NEWEST))
case("param-dtype", batch(bf16={"enabled": True}, data_types={"param_dtype": "fp16"}),
     "E conflict data_types.param_dtype", versions=since("0.19.2"))
case("param-dtype", batch(bf16={"enabled": True}, data_types={"param_dtype": "fp16"}),
     "W unknown-key data_types.param_dtype", versions=before("0.19.2"))
case("grad-dtype", batch(bf16={"enabled": True}, data_types={"grad_accum_dtype": "fp32"}),
     "E conflict data_types.grad_accum_dtype", versions=(ALL[0], NEWEST))
case("grad-dtype-zero", batch(bf16={"enabled": True}, data_types={"grad_accum_dtype": "fp32"},
                              zero_optimization={"stage": 2}))
case("managed-overlap", batch(managed_gradient_accumulation=False, zero_optimization={"stage": 1, "overlap_comm": True}),
     "E conflict managed_gradient_accumulation", versions=since("0.19.4"))
case("managed-compile", batch(managed_gradient_accumulation=False, compile={"deepcompile": True}),
     "E conflict managed_gradient_accumulation")
case("amp-zero", batch(amp={"enabled": True}, zero_optimization={"stage": 1}), "N removed-key amp",
     "E conflict amp.enabled", versions=before("0.19.8"))
case("amp-fp16", batch(amp={"enabled": True}, fp16={"enabled": True}), "N removed-key amp", "E conflict amp.enabled",
     versions=(ALL[0], ))
case("curriculum", batch(data_efficiency={"data_sampling": {"curriculum_learning": {"enabled": True}}}),
     "E missing-key data_efficiency.data_sampling.curriculum_learning.curriculum_metrics", versions=(ALL[0], NEWEST))
case("dynamic-batching", batch(data_efficiency={"data_sampling": {"dynamic_batching": {"enabled": True}}}),
     "E missing-key data_efficiency.data_sampling.dynamic_batching.max_tokens")
case("dynamic-batching-text", batch(data_efficiency={"data_sampling": {"dynamic_batching": {"min_batch_size": "x"}}}),
     "E wrong-type data_efficiency.data_sampling.dynamic_batching.min_batch_size")
case("contiguous", batch(activation_checkpointing={"contiguous_memory_optimization": True}),
     "W missing-key activation_checkpointing.number_checkpoints",
     "W conflict activation_checkpointing.contiguous_memory_optimization")
case("nvme-param", zero(stage=3, offload_param={"device": "nvme"}),
     "E missing-key zero_optimization.offload_param.nvme_path", versions=(ALL[0], NEWEST))
case("nvme-optimizer", zero(stage=3, offload_optimizer={"device": "nvme", "nvme_path": None}),
     "E missing-key zero_optimization.offload_optimizer.nvme_path", versions=(ALL[0], NEWEST))
case("nvme-stage", zero(stage=2, offload_optimizer={"device": "nvme", "nvme_path": "/nvme"}),
     "W no-effect zero_optimization.offload_optimizer.device")
case("nvme-path-cpu", zero(stage=3, offload_param={"device": "cpu", "nvme_path": "/nvme"}),
     "N no-effect zero_optimization.offload_param.nvme_path")
case("offload-param-stage", zero(stage=2, offload_param={"device": "cpu"}),
     "W no-effect zero_optimization.offload_param", versions=(ALL[0], NEWEST))
case("offload-optimizer-stage", zero(stage=0, offload_optimizer={"device": "cpu"}),
     "W no-effect zero_optimization.offload_optimizer")
case("hpz-world", zero(stage=3, zero_hpz_partition_size=3), "E conflict zero_optimization.zero_hpz_partition_size",
     world_size=8, versions=(ALL[0], NEWEST))
case("hpz-stage", zero(stage=2, zero_hpz_partition_size=4), "W no-effect zero_optimization.zero_hpz_partition_size")
case("quantized-stage", zero(stage=1, zero_quantized_weights=True),
     "W no-effect zero_optimization.zero_quantized_weights")
case("stage3-key-stage", zero(stage=2, stage3_max_live_parameters=1),
     "N no-effect zero_optimization.stage3_max_live_parameters")

# ---- The batch triangle --------------------------------------------------------------------------
def sizes(total=None, micro=None, steps=None):
    keys = {"train_batch_size": total, "train_micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": steps}
    return {key: value for key, value in keys.items() if value is not None}


case("batch-none", {}, "E missing-key train_micro_batch_size_per_gpu", versions=ALL)
case("batch-steps-only", sizes(steps=2), "E missing-key train_micro_batch_size_per_gpu", world_size=4)
case("batch-all", sizes(32, 4, 2), world_size=4, versions=(ALL[0], NEWEST))
case("batch-all-wrong", sizes(32, 4, 2), "E batch-triangle train_batch_size", world_size=8,
     versions=(ALL[0], "0.19.5", NEWEST))
case("batch-total", sizes(32), world_size=4)
case("batch-total-small", sizes(4), "E batch-triangle train_batch_size", world_size=8)
case("batch-total-rest", sizes(10), "E batch-triangle train_batch_size", world_size=4)
case("batch-micro", sizes(micro=2), world_size=4)
case("batch-total-micro", sizes(16, 3), "E batch-triangle train_batch_size", world_size=2)
case("batch-total-micro-large", sizes(2, 4), "E batch-triangle train_batch_size", world_size=2)
case("batch-total-steps", sizes(16, steps=3), "E batch-triangle train_batch_size", world_size=2)
case("batch-micro-steps", sizes(micro=2, steps=3), world_size=5)
case("batch-micro-0", sizes(16, 0), "E out-of-range train_micro_batch_size_per_gpu", world_size=2,
     versions=(ALL[0], NEWEST))
case("batch-negative", sizes(-8), "E out-of-range train_batch_size", world_size=2)
case("batch-steps-0", sizes(micro=2, steps=0), "E out-of-range gradient_accumulation_steps", world_size=2)
case("batch-text", sizes("16"), "E wrong-type train_batch_size", world_size=2, versions=(ALL[0], NEWEST))
case("batch-float", sizes(16.0), "W wrong-type train_batch_size", world_size=2)
case("batch-auto", sizes("auto", 1), "E leftover-auto train_batch_size", world_size=2)
case("batch-null", {"train_batch_size": None, "train_micro_batch_size_per_gpu": 2}, world_size=2)
case("batch-no-world", sizes(16, 3), "E batch-triangle train_batch_size")
case("batch-no-world-fits", sizes(32, 4, 2), why="eight processes would do; this was asked with one")
case("batch-sequence", {**sizes(8, 4, 1), "sequence_parallel_size": 2}, world_size=4)
case("batch-sequence-wrong", {**sizes(16, 4, 1), "sequence_parallel_size": 2}, "E batch-triangle train_batch_size",
     world_size=4)
case("batch-sequence-0", {**sizes(micro=1), "sequence_parallel_size": 0}, "E out-of-range sequence_parallel_size",
     world_size=4, versions=since("0.19.3"))
case("batch-sequence-0", {**sizes(micro=1), "sequence_parallel_size": 0}, "W out-of-range sequence_parallel_size",
     world_size=4, versions=before("0.19.3"))

# ---- Leftover "auto" -----------------------------------------------------------------------------
case("auto-strict", zero(stage=2, stage3_prefetch_bucket_size="auto"),
     "W leftover-auto zero_optimization.stage3_prefetch_bucket_size", versions=(ALL[0], NEWEST))
case("auto-enabled", batch(fp16={"enabled": "auto"}), "W leftover-auto fp16.enabled")
case("auto-clipping", batch(gradient_clipping="auto"), "W leftover-auto gradient_clipping", versions=(ALL[0], NEWEST))
case("auto-comm", batch(communication_data_type="auto"), "E leftover-auto communication_data_type")
case("auto-type", optimizer("auto", lr=1e-4), "E leftover-auto optimizer.type")
case("auto-lr", optimizer("SGD", lr="auto"), "E leftover-auto optimizer.params.lr")
case("auto-warmup", scheduler("WarmupLR", warmup_num_steps="auto"), "E leftover-auto scheduler.params.warmup_num_steps",
     versions=(ALL[0], NEWEST))
case("auto-total", scheduler("WarmupDecayLR", total_num_steps="auto"),
     "E leftover-auto scheduler.params.total_num_steps")
case("auto-unresolved", scheduler("WarmupDecayLR", total_num_steps="auto", warmup_num_steps="auto"), resolved=False,
     why="the integration fills every auto before DeepSpeed sees the config")

# ---- Duplicate keys ------------------------------------------------------------------------------
case("duplicate", '{"train_batch_size": 8, "train_batch_size": 8}', "E duplicate-key train_batch_size", versions=ALL)
case("duplicate-nested", '{"train_batch_size": 8, "fp16": {"enabled": false, "enabled": true}}',
     "E duplicate-key fp16.enabled")

# ---- Optimizer and scheduler ---------------------------------------------------------------------
case("optimizer-unknown-parameter", optimizer("AdamW", lr=1e-4, weigth_decay=0.1),
     "E unknown-key optimizer.params.weigth_decay", versions=(ALL[0], "0.19.5", NEWEST))
case("optimizer-synonym", optimizer("Adam", learning_rate=1e-4), "E unknown-key optimizer.params.learning_rate")
case("optimizer-sgd-betas", optimizer("SGD", lr=1e-2, betas=[0.9, 0.999]), "E unknown-key optimizer.params.betas")
case("optimizer-grad-norm", optimizer("AdamW", lr=1e-4, max_grad_norm=1.0),
     "E removed-key optimizer.params.max_grad_norm", versions=ALL)
case("optimizer-type", optimizer("AdamWW", lr=1e-4), "E invalid-value optimizer.type", versions=(ALL[0], NEWEST))
case("optimizer-type-case", optimizer("sgd", lr=1e-4), "E invalid-value optimizer.type")
case("optimizer-lower", optimizer("adamw", lr=1e-4))
case("optimizer-no-type", batch(optimizer={"params": {"lr": 1e-4}}), "W missing-key optimizer.type")
case("optimizer-torch-adam", optimizer("Adam", lr=1e-4, torch_adam=True, adam_w_mode=False))
case("optimizer-untested", optimizer("SGD", {"zero_optimization": {"stage": 2}}, lr=1e-2), "E conflict optimizer.type",
     versions=(ALL[0], NEWEST))
case("optimizer-untested-allowed",
     optimizer("SGD", {"zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True}, lr=1e-2))
case("optimizer-lamb-static", optimizer("Lamb", {"fp16": {"enabled": True, "loss_scale": 128}}, lr=1e-3),
     "E conflict optimizer.type", versions=(ALL[0], NEWEST))
case("optimizer-lamb-zero", optimizer("Lamb", {"zero_optimization": {"stage": 1}}, lr=1e-3), "E conflict optimizer.type")
case("optimizer-lion", optimizer("Lion", {"zero_optimization": {"stage": 2}}, lr=1e-4, betas=[0.9, 0.99]))
case("optimizer-muon", optimizer("Muon", {"zero_optimization": {"stage": 2}}, lr=1e-3, momentum=0.9))
case("scheduler-type", scheduler("WarmupDecay", total_num_steps=10), "E invalid-value scheduler.type",
     versions=(ALL[0], NEWEST))
case("scheduler-type-case", scheduler("warmuplr"), "E invalid-value scheduler.type")
case("scheduler-no-params", batch(scheduler={"type": "WarmupLR"}), "E missing-key scheduler.params",
     versions=(ALL[0], NEWEST))
case("scheduler-no-type", batch(scheduler={"params": {}}), "W missing-key scheduler.type")
case("scheduler-required", scheduler("WarmupDecayLR", warmup_num_steps=10),
     "E missing-key scheduler.params.total_num_steps", versions=(ALL[0], NEWEST))
case("scheduler-required-cycle", scheduler("OneCycle", cycle_min_lr=1e-5),
     "E missing-key scheduler.params.cycle_max_lr")
case("scheduler-unknown-parameter", scheduler("WarmupLR", warmup_steps=10), "E unknown-key scheduler.params.warmup_steps",
     versions=(ALL[0], NEWEST))
case("scheduler-other-parameter", scheduler("WarmupLR", total_num_steps=10),
     "E unknown-key scheduler.params.total_num_steps")
case("warmup-0", scheduler("WarmupLR", warmup_num_steps=0), "W out-of-range scheduler.params.warmup_num_steps",
     versions=before("0.19.3"))
case("warmup-0", scheduler("WarmupLR", warmup_num_steps=0), "E out-of-range scheduler.params.warmup_num_steps",
     versions=since("0.19.3"))
case("warmup-float", scheduler("WarmupLR", warmup_num_steps=10.0), "W wrong-type scheduler.params.warmup_num_steps",
     versions=("0.19.2", ))
case("warmup-float", scheduler("WarmupLR", warmup_num_steps=10.0), "E wrong-type scheduler.params.warmup_num_steps",
     versions=("0.19.3", NEWEST))
case("warmup-cosine-0", scheduler("WarmupCosineLR", total_num_steps=10, warmup_num_steps=-1),
     "E out-of-range scheduler.params.warmup_num_steps")
case("warmup-text", scheduler("WarmupLR", warmup_max_lr="1e-4"), "E wrong-type scheduler.params.warmup_max_lr",
     versions=(ALL[0], NEWEST))
case("warmup-total", scheduler("WarmupDecayLR", total_num_steps=5, warmup_num_steps=10),
     "W conflict scheduler.params.total_num_steps", versions=(ALL[0], NEWEST))
case("warmup-kind", scheduler("WarmupLR", warmup_type="cosine"), "W invalid-value scheduler.params.warmup_type",
     versions=(ALL[0], NEWEST))
case("warmup-order", scheduler("WarmupLR", warmup_min_lr=1e-3, warmup_max_lr=1e-4),
     "W conflict scheduler.params.warmup_min_lr")
case("range-test", scheduler("LRRangeTest", lr_range_test_step_size=0), versions=("0.19.3", ))
case("range-test", scheduler("LRRangeTest", lr_range_test_step_size=0),
     "E out-of-range scheduler.params.lr_range_test_step_size", versions=("0.19.4", NEWEST))
case("cycle", scheduler("OneCycle", cycle_min_lr=1e-5, cycle_max_lr=1e-3, cycle_first_step_size=0),
     "E out-of-range scheduler.params.cycle_first_step_size", versions=("0.19.3", "0.19.4", NEWEST))

# The classes of torch.optim check their values, DeepSpeed's own do not.
BOTH = (ALL[0], NEWEST)
for key, value, rule in (("lr", -1, "out-of-range"), ("lr", "1e-3", "wrong-type"), ("weight_decay", None, "wrong-type"),
                         ("momentum", -0.5, "out-of-range")):
    case(f"sgd-{key}-{rule}", optimizer("SGD", **{"lr": 0.1, key: value}), f"E {rule} optimizer.params.{key}",
         versions=BOTH)
for name, betas, rule in (("short", [0.9], "wrong-type"), ("number", 0.9, "wrong-type"),
                          ("texts", ["0.9", "0.99"], "wrong-type"), ("one", [0.9, 1.0], "out-of-range"),
                          ("below", [-0.1, 0.9], "out-of-range")):
    case(f"torch-betas-{name}", optimizer("NAdam", betas=betas), f"E {rule} optimizer.params.betas")
    case(f"torch-adam-betas-{name}", optimizer("AdamW", torch_adam=True, betas=betas),
         f"E {rule} optimizer.params.betas", versions=BOTH)
    case(f"adam-betas-{name}", optimizer("AdamW", betas=betas), f"W {rule} optimizer.params.betas", versions=BOTH)
case("torch-betas-three", optimizer("NAdam", betas=[0.9, 0.9, "x"]))
case("torch-values", optimizer("NAdam", lr=0, betas=[0, False], eps=True, weight_decay=0.0))
case("rmsprop-alpha", optimizer("RMSprop", alpha="0.9"), "E wrong-type optimizer.params.alpha")
case("sparse-adam-0", optimizer("SparseAdam", lr=0), "E out-of-range optimizer.params.lr")
case("adafactor-eps", optimizer("Adafactor", eps=[None, 1e-3]))
case("adagrad-eps", optimizer("Adagrad", eps=-1), "E out-of-range optimizer.params.eps", versions=BOTH)
case("adagrad-eps-offloaded", optimizer("Adagrad", {"zero_optimization": {"stage": 2, "offload_optimizer":
                                                                          {"device": "cpu"}}}, eps=-1),
     "W out-of-range optimizer.params.eps")
case("adam-eps", optimizer("Adam", eps="1e-8", weight_decay=-0.1), "W wrong-type optimizer.params.eps",
     "W out-of-range optimizer.params.weight_decay", versions=BOTH)
case("adam-amsgrad", optimizer("AdamW", amsgrad=True), "E conflict optimizer.params.amsgrad", versions=BOTH,
     why="the stand-in for FusedAdam, which needs a GPU, does not look at it; FusedAdam.__init__ raises RuntimeError")
case("torch-adam-amsgrad", optimizer("AdamW", torch_adam=True, amsgrad=True), versions=BOTH)

# ---- What is no config ---------------------------------------------------------------------------
case("list", [1], "E wrong-type", why="DeepSpeedConfig is not asked about what is no dict")

# ---- The model -----------------------------------------------------------------------------------
for stage in (0, 3):
    case(f"scalar-stage-{stage}", zero(stage=stage), model_spec={"params": {"w": [2, 3], "scale": []}},
         versions=(ALL[0], "0.19.7"))
    case(f"scalar-stage-{stage}", zero(stage=stage), "E scalar-parameter", versions=since("0.19.8"),
         model_spec={"params": {"w": [2, 3], "scale": []}})
case("no-scalar", zero(stage=3), model_spec={"params": {"w": [2, 3], "b": [1], "none": [0]}})

"""Contents of DeepSpeed files for tests."""

from typing import Any

FP32: dict[str, Any] = {"bf16": {"enabled": False}}
AUTOCAST = {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
AUTOCAST_FP16 = {"torch_autocast": {"enabled": True, "dtype": "float16"}}
BF16 = {"bf16": {"enabled": True}}
FP16 = {"fp16": {"enabled": True, "initial_scale_power": 12, "loss_scale_window": 2}}
ADAMW = {"optimizer": {"type": "AdamW", "params": {"lr": 0.01, "betas": [0.8, 0.9], "weight_decay": 0.1}}}
SCHEDULE = {"scheduler": {"type": "StepLR", "params": {"step_size": 1, "gamma": 0.5}}}

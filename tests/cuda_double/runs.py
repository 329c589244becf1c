"""Small runs that between them take every way from a model on a GPU to bytes and back."""

from typing import Any

SMALL: dict[str, Any] = {
    **{"dataset": "digits", "model": "lenet5", "precision": "fp32", "threads": 1, "quiet": True, "eval_every": 2},
    **{"limit_train": 60, "limit_test": 20, "clients": 2, "rounds": 2, "local_steps": 2, "batch_size": 8, "lr": 0.02},
    **{"uplink": "none"},
}
RUNS: dict[str, dict[str, Any]] = {
    "codecs both ways": {
        "uplink": "topk:0.05+log3+zstd",
        "downlink": "int8",
        "augment": "crop:1+flip",
        "clip_norm": 1.0,
    },
    "low rank, adaptive server": {"uplink": "powersgd:2", "server": "fedyogi", "client_eval": 0.2},
    "hook": {"exchange": "hook", "uplink": "topk:0.05", "clients": 1},
    "hook, dense": {"exchange": "hook", "clients": 1},
    "step": {"mode": "step", "uplink": "topk:0.05", "clients": 1},
    "structured": {"prune": "structured:0.4", "uplink": "topk:0.1"},
    "structured by gradient": {"prune": "structured:0.4,score=gradient", "prune_schedule": "oneshot:1"},
    "structured by client": {"prune": "structured:0.4,by=client"},
    "width": {"prune": "width:0.5,shift=rolling", "capabilities": "groups:1.0x1+0.5x1"},
    "snip": {"prune": "snip:0.8", "uplink": "bf16"},
    "prunefl": {"prune": "prunefl:0.8,every=1,size=adaptive,min=0.02"},
    "masks": {"prune": "filters:0.5", "capabilities": "uniform:0.3,1.0"},
    "buffered": {"mode": "buffered:2", "profiles": "pr-fl", "uplink": "topk:0.1", "clients": 4, "clients_per_round": 3},
    "scaffold": {"algorithm": "scaffold", "momentum": 0.0, "uplink": "topk:0.1", "error_feedback": "none"},
    "feddyn": {"algorithm": "feddyn:0.1", "optimizer": "adam"},
    "low communication": {
        **{"optimizer": "adamw", "local_state": "keep", "lr_schedule": "cosine:warmup=2,floor=0.1", "accumulate": 2},
        **{"server": "nesterov", "prune": "magnitude:0.5"},
    },
    "low communication, momentum": {"local_state": "keep", "engine": "accelerate", "server": "sign"},
    "median": {"aggregate": "median", "clients": 3, "uplink": "topk:0.1"},
    "krum": {"aggregate": "krum:0", "clients": 3, "model": "tests.user_code:norm_model"},
    "clip": {"aggregate": "clip:0.1"},
    "qat": {"qat": 8},
}

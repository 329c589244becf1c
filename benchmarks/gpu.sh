#!/usr/bin/env bash
# For a machine with a CUDA GPU: the tests that need one, the benchmark with kernels on and off, and a short training on
# one NCCL rank. PYTHON names the interpreter of an environment with `pip install -e '.[dev]'`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}

"$python" benchmarks/gpu.py --check
"$python" -m pytest -rs tests -k "cuda or gpu"
"$python" benchmarks/gpu.py
"$python" -m torch.distributed.run --standalone --nproc-per-node 1 main.py --device cuda --dataset digits --model resnet18 \
    --clients 4 --rounds 3 --local-steps 8 --batch-size 32 --lr 0.01 --uplink topk:0.01+bf16

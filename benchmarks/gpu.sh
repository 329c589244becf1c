#!/usr/bin/env bash
# For a machine with a CUDA GPU. PYTHON names the interpreter of an environment with `pip install -e '.[dev]'`, or of any that
# has the packages that `benchmarks/gpu.py --check` asks for; a folder of them may be in PYTHONPATH.
#
#   benchmarks/gpu.sh                        tests that need a GPU, kernels on and off, short trainings on one NCCL rank
#   benchmarks/gpu.sh resnet18 [OPTIONS]     a slice of experiments/gpu_resnet18.yaml: ResNet-18 to 94 %, eight clients
#   benchmarks/gpu.sh adaptive [OPTIONS]     a slice of experiments/gpu_adaptive.yaml: FedYogi, FedAdam and FedAvg, 500 clients
#   benchmarks/gpu.sh lowcomm [OPTIONS]      a slice of experiments/gpu_lowcomm.yaml: a GPT of 10.7 million parameters, four clients
#   benchmarks/gpu.sh FILE.yaml [OPTIONS]    a slice of any experiment, on any machine
#
# A slice stops after GPU_SLICE_S seconds (480) and exits with 3, or 4 if it came to no checkpoint; the same command goes on from
# the last one, until all runs are finished: `until benchmarks/gpu.sh resnet18; do [ $? -eq 3 ] || break; done`. OPTIONS are those
# of the experiment runner (--only ARM, --seeds SEED). DATA is the folder of the data (data), GPU_OUT that of the runs (outputFolder);
# these and FILE.yaml are looked up from the project's folder. A checkpoint of `adaptive` takes some 140 MB, one of `resnet18` 45 MB
# and, with top 5 %, 45 MB more for each of the eight clients. Neither experiment's length has been measured: begin with one arm.
# Experiments gpu_resnet18, gpu_adaptive and gpu_lowcomm have not run on a GPU yet; slices were tried on a CPU with a small experiment.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} # so that the project need not be installed

if [ $# -gt 0 ]; then
    file=experiments/gpu_$1.yaml
    if [ -f "$1" ]; then
        file=$1
    elif [ -f "$file" ]; then
        "$python" benchmarks/gpu.py --check
    else
        echo "benchmarks/gpu.sh: there is no $file; give resnet18, adaptive, lowcomm, or the path of an experiment file" >&2
        exit 2
    fi
    name=$(sed -n 's/^name: *//p' "$file")
    runs=${GPU_OUT:-outputFolder}/$name
    kept() { find "$runs" -name 'manifest-*.json' -o -name summary.json 2>/dev/null | sort || true; }
    before=$(kept) status=0
    # A Python started in the background does not hear INT: then it is killed, which a checkpoint survives as well.
    timeout --signal=INT --kill-after=30 "${GPU_SLICE_S:-480}" "$python" -m fl.experiment "$file" --data-dir "${DATA:-data}" \
        --output-dir "${GPU_OUT:-outputFolder}" "${@:2}" || status=$?
    case $status in
        0) ;;
        124 | 137)
            if [ "$(kept)" = "$before" ]; then
                echo "$file: no checkpoint within a slice: GPU_SLICE_S ${GPU_SLICE_S:-480} must be longer" >&2
                exit 4
            fi
            echo "$file: slice over, not finished; the same command goes on"
            exit 3
            ;;
        *) exit "$status" ;;
    esac
    if [ "$name" = gpu-adaptive ]; then
        "$python" benchmarks/gpu/last_rounds.py "$runs"/*/
    fi
    exit 0
fi

"$python" benchmarks/gpu.py --check
"$python" -m pytest -rs tests/compression/kernels/test_kernels.py tests/compression/test_codec.py tests/end_to_end/test_gpu.py \
    -k "cuda or gpu"
"$python" benchmarks/gpu.py
train() {
    "$python" -m torch.distributed.run --standalone --nproc-per-node 1 main.py --device cuda --dataset digits --model resnet18 \
        --rounds 3 --local-steps 8 --batch-size 32 --lr 0.01 --uplink topk:0.01+bf16+zstd "$@"
}
train --clients 4
train --clients 1 --exchange hook
train --clients 1 --mode step

#!/usr/bin/env bash
# All that a first quarter of an hour on a GPU shall tell, the most valuable first.
#
#   bash benchmarks/gpu_all.sh [--dry] [FOLDER]
#
# Each step has a time limit and writes into a file of its own in FOLDER (gpu_results by default) as
# soon as it has something to say; a step that fails or runs out of time does not stop the next ones.
# --dry runs the same steps in tiny form on the CPU, so that no minute on a GPU is lost to a typo;
# it ends with code 1 if a step fails.
set -uo pipefail
cd "$(dirname "$0")/.."
dry=""
if [ "${1:-}" = --dry ]; then dry=--dry; shift; fi
folder=${1:-gpu_results}
python=${PYTHON:-python3}
mkdir -p "$folder"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
failed=0

# step NAME SECONDS COMMAND...
step() {
    local name=$1 limit=$2 start=$SECONDS code=0
    shift 2
    [ -z "$dry" ] || limit=600  # whatever else a small machine does
    timeout --kill-after=5 "$limit" "$@" >"$folder/$name.txt" 2>&1 || code=$?
    [ "$code" = 0 ] || failed=1
    echo "$name: exit code $code after $((SECONDS - start)) s" | tee -a "$folder/summary.txt"
    tail -n 40 "$folder/$name.txt"
}

rm -f "$folder/summary.txt"
if [ -n "$dry" ]; then
    kernel_tests=(-k portable_core_runs)
    run=(hardware=cpu trainer.max_steps=2 trainer.val_check_interval=2 schedule.batch_size=4
        +data.train_dataset.train_images=8 +data.train_dataset.val_images=4
        +data.val_dataset.train_images=8 +data.val_dataset.val_images=4
        "data.root=$folder/shapes" "hydra.run.dir=$folder/run")
else
    nvidia-smi >"$folder/card.txt" 2>&1
    kernel_tests=(-m gpu)
    run=(hardware=gpu1 trainer.max_steps=200 trainer.val_check_interval=200
        "data.root=$folder/shapes" "hydra.run.dir=$folder/run")
fi
"$python" -c "import platform, torch; print(platform.python_version(), torch.__version__)" \
    >"$folder/versions.txt" 2>&1

AXIALSEG_KERNEL_CASES=40 step a_kernel_tests 120 \
    "$python" -m pytest -q -x tests/layers/test_triton_attention.py "${kernel_tests[@]}"
step b_attention 120 "$python" benchmarks/gpu_quick.py attention $dry
step c_training_step 180 "$python" benchmarks/gpu_quick.py training $dry
step d_inference 60 "$python" benchmarks/gpu_quick.py inference $dry
step e_default_job 60 "$python" train.py "${run[@]}"
step f_planner 60 "$python" benchmarks/gpu_quick.py planner $dry
cat "$folder/summary.txt"
exit "$([ -n "$dry" ] && echo "$failed" || echo 0)"

#!/usr/bin/env bash
# Gathers the packages that a GPU machine without a network lacks, as wheels.
#
#   bash benchmarks/gpu_wheels.sh [FOLDER] [PYTHON_VERSION]
#
# Into FOLDER (.wheels by default), for the given Python (3.12 by default) on Linux x86-64, in the
# versions of constraints.txt. The machine is taken to have PyTorch for CUDA, Triton, Lightning,
# torchmetrics, OpenCV, SciPy, Matplotlib and what they need. There:
#
#   pip install --no-index --no-deps --target site FOLDER/*.whl && export PYTHONPATH=$PWD/site
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.wheels}
version=${2:-3.12}
packages=(hydra-core omegaconf antlr4-python3-runtime albumentations albucore stringzilla simsimd
    pydantic pydantic-core annotated-types typing-inspection wandb gitpython gitdb smmap sentry-sdk
    platformdirs pycocotools)
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done
mkdir -p "$folder"
for package in "${packages[@]}"; do
    pinned=$(grep -i "^${package//-/[-_]}==" constraints.txt || true)
    [ -n "$pinned" ] || continue
    if [ "$package" = antlr4-python3-runtime ]; then  # there is no wheel of it, so it is built
        python3 -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$pinned"
    else
        python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" \
            --implementation cp "${platforms[@]}" --dest "$folder" "$pinned"
    fi
done
du -sh "$folder"
ls "$folder"

#!/bin/sh
# Fills the environment UV_PROJECT_ENVIRONMENT from uv.lock, in two steps, so that an image can cache the first.
#
#   VARIANT=cuda|cpu sh install.sh dependencies|project
#
# cuda installs all packages as locked. cpu omits PyTorch and the CUDA libraries that its wheels from the registry
# need, and installs the same versions of torch and torchvision from PyTorch's index of CPU builds: both from there,
# because torchvision needs the build of torch that it was compiled for.
set -eu

step=${1:?which step: dependencies or project}
index=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

locked() { # version of package $1
    awk -v name="$1" '$0 == "name = \"" name "\"" { getline; gsub(/version = |"/, ""); print; exit }' uv.lock
}

case "$VARIANT" in
cuda) left_out="" ;;
cpu)
    left_out=$(sed -n 's/^name = "\(nvidia-.*\|cuda-.*\|triton\|torch\|torchvision\)"$/--no-install-package \1/p' uv.lock)
    ;;
*)
    echo "VARIANT is cuda or cpu, got '$VARIANT'" >&2
    exit 2
    ;;
esac

case "$step" in
dependencies)
    # shellcheck disable=SC2086 # the options are words
    uv sync --frozen --no-dev --extra grafana --extra karn --no-install-project --compile-bytecode $left_out
    if [ "$VARIANT" = cpu ]; then
        uv pip install --python "$UV_PROJECT_ENVIRONMENT/bin/python" --no-deps --compile-bytecode \
            --index-url "$index" "torch==$(locked torch)" "torchvision==$(locked torchvision)"
    fi
    ;;
project)
    # A wheel, not a link to the source, which is not in the image. --inexact preserves the packages of the first step.
    # shellcheck disable=SC2086
    uv sync --frozen --no-dev --extra grafana --extra karn --no-editable --inexact --compile-bytecode $left_out
    ;;
*)
    echo "the step is dependencies or project, got '$step'" >&2
    exit 2
    ;;
esac

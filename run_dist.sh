#!/usr/bin/env bash
# The same as run.sh on many processes or machines, under paddle.distributed.launch:
#   bash run_dist.sh train|eval|predict NAME CONFIG [flags...]
#   e.g. bash run_dist.sh train TSN ./configs/tsn_dist_and_dali.yaml
# Environment: everything of run.sh, and
#   NPROC         processes on this machine; default: one a visible GPU, or one on a CPU
#   LAUNCH_FLAGS  more for the launcher, e.g. "--nnodes 2 --master 192.168.0.16:8090"
# Each process writes ./log/workerlog.N. One that fails ends all; the exit code is the launcher's.
set -euo pipefail

case ${1:-} in
  train | eval | predict) ;;
  *) echo "usage: bash run_dist.sh train|eval|predict NAME CONFIG [flags...]" >&2; exit 2 ;;
esac

# The environment that run.sh made serves here too, unless the user has chosen one.
own=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/.venv/bin/python
if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}" ] && [ -x "$own" ]; then PYTHON=$own; fi
export PYTHON=${PYTHON:-$(command -v python || command -v python3 || echo python)}
gpus=$("$PYTHON" -c 'import paddle
print(paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0)' 2>/dev/null || echo 0)

launcher="-m paddle.distributed.launch --log_dir=log ${NPROC:+--nproc_per_node=$NPROC} ${LAUNCH_FLAGS:-}"
if [ "$gpus" = 0 ]; then
  # The launcher chooses gloo by itself on a CPU, unless this variable makes it count GPUs.
  unset CUDA_VISIBLE_DEVICES
elif [[ " --use_gpu=${use_gpu:-} $* " =~ --use_gpu[=\ ]([Ff]alse|0)\  ]]; then
  launcher+=" --backend gloo"
fi

# The launcher imports Paddle, which would pass "one thread" on as if the user had said so.
export ZOO_NUM_THREADS=${OMP_NUM_THREADS:-}
ZOO_LAUNCHER=$launcher exec bash "$(dirname -- "${BASH_SOURCE[0]}")/run.sh" "$@"

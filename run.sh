#!/usr/bin/env bash
# The zoo in one command, with the modes and names of 2019:
#   bash run.sh train|eval|predict|inference NAME CONFIG [flags...]
#   bash run.sh test [pytest flags...]
#
# What 2019 had as variables to edit in this file comes from the environment, all optional:
#   resume or pretrain, weights, use_gpu, save_dir, save_inference_dir, fix_random_seed,
#   log_interval, valid_interval      e.g. weights=TSN.pdparams bash run.sh eval TSN ./configs/tsn.yaml
#   PYTHON         the interpreter to use
#   REQUIREMENTS   test: a requirements file to use instead of requirements.txt, in its own .venv-...
# CUDA_VISIBLE_DEVICES is the user's (2019 set it to eight GPUs here). So are the FLAGS_... that 2019
# exported: today's Paddle accepts them, and they change no result.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
usage="usage: bash run.sh train|eval|predict|inference NAME CONFIG [flags...], or bash run.sh test [pytest flags...]"

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
    echo "usage: bash run.sh $1 NAME CONFIG [flags...], e.g. bash run.sh $1 TSN ./configs/tsn.yaml" >&2
    exit 2
  fi
  local mode=$1 script=$1.py flags=("--model_name=$2" "--config=$3") python
  shift 3
  local log_interval=${log_interval:-1}  # as in 2019's run.sh; train.py's own default is 10
  case $mode in
    train)
      from_environment log_interval valid_interval use_gpu save_dir fix_random_seed
      if [ -n "${resume:-}" ]; then from_environment resume; else from_environment pretrain; fi ;;
    eval | predict)
      from_environment log_interval weights use_gpu ;;
    inference)
      script=inference_model.py
      from_environment weights use_gpu
      flags+=("--save_dir=${save_inference_dir:-./data/inference_model}") ;;
  esac
  python=$(command -v "${PYTHON:-python}" || command -v "${PYTHON:-python3}") ||
    die "no ${PYTHON:-python or python3} on PATH. Set PYTHON=..."
  # No cd: relative paths are the user's. LAUNCHER is run_dist.sh's, several words on purpose.
  # shellcheck disable=SC2086
  exec "$python" ${LAUNCHER:-} "$root/$script" "${flags[@]}" "$@"
}

# ---- test, and the environment it runs in ----

# "3.11", then the folder of the virtual environment that $1 belongs to, if any; nothing if it fails.
describe_python() {
  "$1" -c 'import sys; base = getattr(sys, "base_prefix", sys.prefix)
print("%d.%d %s" % (sys.version_info[0], sys.version_info[1], sys.prefix if sys.prefix != base else ""))' 2>/dev/null
}

# Sets python, version and venv (empty outside a virtual environment).
find_python() {
  local candidate about unsuitable=""
  local candidates=(${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} python3 python python3.13 python3.12 python3.11 python3.10)
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    python=$(command -v "$candidate") && about=$(describe_python "$python") || continue
    read -r version venv <<<"$about"
    case $version in 3.10 | 3.11 | 3.12 | 3.13) return ;; esac
    unsuitable=${unsuitable:-"$version ($python)"}
  done
  die "needs Python 3.10 to 3.13; found ${unsuitable:-none${PYTHON:+ at $PYTHON}}. Set PYTHON=..."
}

check_disk() {
  local free_kb
  free_kb=$(df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print $4 }')
  if [[ $free_kb =~ ^[0-9]+$ ]] && [ "$free_kb" -lt $((3 * 1024 * 1024)) ]; then
    die "only $(awk "BEGIN { printf \"%.1f\", $free_kb / 1048576 }") GB free in $1; the environment needs about 3 GB"
  fi
}

# Makes the virtual environment $environment; run again, it completes one that was interrupted.
create_environment() {
  local output
  say "creating $environment with Python $version"
  if [ -n "$uv" ]; then
    output=$("$uv" venv --allow-existing --python "$python" "$environment" 2>&1) && return
  else
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
      die "$python has no venv module. On Debian or Ubuntu: apt-get install python$version-venv"
    output=$("$python" -m venv "$environment" 2>&1) && return
  fi
  die "could not create $environment: $(tail -n 1 <<<"$output"). Delete the folder and try again"
}

install_requirements() {
  local log=$environment/run-sh-install.log installer reason
  installer=("$environment/bin/python" -m pip install --disable-pip-version-check --progress-bar off)
  if [ -n "$uv" ]; then installer=("$uv" pip install --python "$environment/bin/python"); fi
  say "installing $requirements and requirements-dev.txt into $environment (about 1 GB)"
  if ! "${installer[@]}" -r "$requirements" -r requirements-dev.txt >"$log" 2>&1; then
    reason=$(grep -iE '^ *(error|caused by)' "$log" || grep -E '[^[:space:]]' "$log" || true)
    if grep -qiE 'connection (broken|refused|timed out|reset)|name resolution|unreachable|error sending request' "$log"; then
      die "could not install $requirements (no network?): $(tail -n 1 <<<"$reason"); see $log"
    fi
    die "could not install $requirements: $(tail -n 1 <<<"$reason"); see $log"
  fi
}

# Sets environment: the active virtual environment, or one of our own in the project's folder.
set_up() {
  trap 'exit 130' INT
  requirements=${REQUIREMENTS:-requirements.txt}
  [ -f "$requirements" ] || die "REQUIREMENTS=$requirements: no such file in $root"
  find_python
  local name=${requirements##*/}
  name=${name%.txt}
  environment=$root/.venv${name#requirements}
  # Other requirements always get their own folder: they must not change the user's environment.
  if [ -n "$venv" ] && [ "$requirements" = requirements.txt ]; then environment=$venv; fi
  # The stamp is written last, so that an interrupted installation is taken up again.
  local stamp=$environment/run-sh-stamp wanted
  wanted="Python $version, $(cat "$requirements" requirements-dev.txt | cksum)"
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
  check_disk "$root"
  uv=$(command -v uv || true)
  if [ "$environment" != "$venv" ]; then create_environment; fi
  install_requirements
  echo "$wanted" >"$stamp"
}

run_tests() {
  cd -- "$root"
  set_up
  exec "$environment/bin/python" -m pytest "$@"
}

# ---- one line a mode ----

case ${1:-} in
  train | eval | predict | inference) run_program "$@" ;;
  test) run_tests "${@:2}" ;;
  -h | --help) echo "$usage" ;;
  "") echo "$usage" >&2; exit 2 ;;
  *) die "unknown mode '$1'; expected train, eval, predict, inference, test" ;;  # 2019 exited 0
esac

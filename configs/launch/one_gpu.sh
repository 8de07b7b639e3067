#!/usr/bin/env bash
# One process: one GPU, or the CPU where there is none.
#
#     configs/launch/one_gpu.sh RUN.yaml [key=value ...]
#
# From the environment:
#     PYTHON   interpreter that has mmreason (default: python)
#     GPU      which one, by number (default: the first that is visible)
set -euo pipefail

fail() { echo "mmreason: $*" >&2; exit 2; }

PYTHON=${PYTHON:-python}
[ $# -ge 1 ] || fail "no config given; usage: $0 RUN.yaml [key=value ...]"
[ -f "$1" ] || fail "$1: no such config file"
command -v "$PYTHON" >/dev/null || fail "$PYTHON: not found; set PYTHON to the interpreter that has mmreason"
"$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("mmreason"))' ||
  fail "$PYTHON has no mmreason; install it there, or set PYTHON to the interpreter that has it"

[ -z "${GPU:-}" ] || export CUDA_VISIBLE_DEVICES=$GPU
exec "$PYTHON" -m mmreason.cli train "$@"

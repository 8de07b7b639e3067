#!/usr/bin/env bash
# All GPUs of one machine, a process each.
#
#     configs/launch/one_node.sh RUN.yaml [key=value ...]
#     configs/launch/one_node.sh RUN.yaml train.deepspeed=configs/deepspeed/zero2.json
#
# From the environment:
#     PROCESSES   how many processes (default: one per GPU; to be given where there is none)
#     DEEPSPEED   a JSON file of configs/deepspeed/; short for train.deepspeed=FILE (default: the config's)
#     RESTARTS    how often to start all processes again, from the last checkpoint, when one fails (default: 0)
#     SAVE_S      seconds that processes have to save after SIGTERM before they are killed (default: 600)
#     PYTHON      interpreter that has mmreason (default: python)
set -euo pipefail

fail() { echo "mmreason: $*" >&2; exit 2; }

PYTHON=${PYTHON:-python}
[ $# -ge 1 ] || fail "no config given; usage: $0 RUN.yaml [key=value ...]"
[ -f "$1" ] || fail "$1: no such config file"
command -v "$PYTHON" >/dev/null || fail "$PYTHON: not found; set PYTHON to the interpreter that has mmreason"
"$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("mmreason")))' ||
  fail "$PYTHON has no mmreason, or no torch; install them there, or set PYTHON to the interpreter that has them"
if [ -n "${DEEPSPEED:-}" ]; then
  [ -f "$DEEPSPEED" ] || fail "DEEPSPEED: $DEEPSPEED: no such file; configs/deepspeed/ has some"
  set -- "$@" "train.deepspeed=$DEEPSPEED"
fi

exec "$PYTHON" -m mmreason.launch --standalone --nproc-per-node "${PROCESSES:-gpu}" \
  --max-restarts "${RESTARTS:-0}" --shutdown-timeout "${SAVE_S:-600}" -m mmreason.cli train "$@"

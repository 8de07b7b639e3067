#!/usr/bin/env bash
# Several machines, all GPUs of each. Run it on every one of them, with the same MASTER_ADDR, within WAIT_S:
#
#     NODES=2 NODE_RANK=0 MASTER_ADDR=host0 configs/launch/nodes.sh RUN.yaml [key=value ...]     on host0
#     NODES=2 NODE_RANK=1 MASTER_ADDR=host0 configs/launch/nodes.sh RUN.yaml [key=value ...]     on host1
#
# run_dir must be a folder that all of them see. From the environment:
#     NODES         how many machines
#     NODE_RANK     which one this is: 0 on MASTER_ADDR, 1, 2, ... elsewhere
#     MASTER_ADDR   name or address of the first machine, as the others reach it
#     MASTER_PORT   a free port there (default: 29500)
#     WAIT_S        seconds to wait for the other machines (default: 300)
#     PROCESSES, DEEPSPEED, RESTARTS, SAVE_S, PYTHON   as in one_node.sh
set -euo pipefail

fail() { echo "mmreason: $*" >&2; exit 2; }

PYTHON=${PYTHON:-python}
[ $# -ge 1 ] || fail "no config given; usage: NODES=.. NODE_RANK=.. MASTER_ADDR=.. $0 RUN.yaml [key=value ...]"
[ -f "$1" ] || fail "$1: no such config file"
for name in NODES NODE_RANK MASTER_ADDR; do
  [ -n "${!name:-}" ] || fail "$name is not set; usage: NODES=.. NODE_RANK=.. MASTER_ADDR=.. $0 RUN.yaml [key=value ...]"
done
[ "$NODE_RANK" -lt "$NODES" ] || fail "NODE_RANK=$NODE_RANK, but with NODES=$NODES they are 0 to $((NODES - 1))"
command -v "$PYTHON" >/dev/null || fail "$PYTHON: not found; set PYTHON to the interpreter that has mmreason"
"$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("mmreason")))' ||
  fail "$PYTHON has no mmreason, or no torch; install them there, or set PYTHON to the interpreter that has them"
if [ -n "${DEEPSPEED:-}" ]; then
  [ -f "$DEEPSPEED" ] || fail "DEEPSPEED: $DEEPSPEED: no such file; configs/deepspeed/ has some"
  set -- "$@" "train.deepspeed=$DEEPSPEED"
fi

exec "$PYTHON" -m mmreason.launch --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "${PROCESSES:-gpu}" \
  --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" --rdzv-conf "timeout=${WAIT_S:-300}" \
  --max-restarts "${RESTARTS:-0}" --shutdown-timeout "${SAVE_S:-600}" -m mmreason.cli train "$@"

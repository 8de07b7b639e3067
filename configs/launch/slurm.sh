#!/usr/bin/env bash
# A SLURM job: one launcher per machine, a process per GPU. Edit the #SBATCH lines, then, where configs/ is:
#
#     sbatch configs/launch/slurm.sh RUN.yaml [key=value ...]
#
# Five minutes before the time limit SLURM sends SIGTERM: the run saves and stops, and the same command goes on.
# From the environment, or by `sbatch --export=ALL,NAME=VALUE`:
#     MASTER_PORT   a free port of the first machine (default: made from the job's number)
#     LAUNCH_DIR    folder of these scripts (default: configs/launch below the folder sbatch was called in)
#     WAIT_S, PROCESSES, DEEPSPEED, RESTARTS, SAVE_S, PYTHON   as in nodes.sh; SAVE_S here defaults to 270
#
#SBATCH --job-name=mmreason
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
set -euo pipefail

fail() { echo "mmreason: $*" >&2; exit 2; }

[ -n "${SLURM_JOB_ID:-}" ] || fail "not in a SLURM job; start with: sbatch $0 RUN.yaml [key=value ...]"
[ $# -ge 1 ] || fail "no config given; usage: sbatch slurm.sh RUN.yaml [key=value ...]"
command -v srun >/dev/null || fail "srun: not found; is this a SLURM machine?"
scripts=${LAUNCH_DIR:-${SLURM_SUBMIT_DIR:-.}/configs/launch}
[ -f "$scripts/nodes.sh" ] || fail "$scripts/nodes.sh: not found; set LAUNCH_DIR to the folder of these scripts"

export NODES=$SLURM_JOB_NUM_NODES SAVE_S=${SAVE_S:-270}
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
# Without scontrol the first name of the list must do: "gpu[03-05]" -> gpu03.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" 2>/dev/null | head -n 1 || true)
export MASTER_ADDR=${MASTER_ADDR:-$(sed -E 's/\[([0-9]+)[^]]*\]/\1/; s/,.*//' <<<"$SLURM_JOB_NODELIST")}
export LAUNCH_SCRIPT=$scripts/nodes.sh

# --kill-on-bad-exit: where one launcher fails, none waits for it (unless they are to start again). $SLURM_NODEID is each task's own.
# shellcheck disable=SC2016
exec srun --kill-on-bad-exit=$((${RESTARTS:-0} == 0)) bash -c 'NODE_RANK=$SLURM_NODEID exec bash "$LAUNCH_SCRIPT" "$@"' nodes.sh "$@"

"""`torchrun`, with its errors in one line: `python -m mmreason.launch [options of torchrun] -m mmreason.cli train ...`

The scripts in configs/launch/ start runs with it. What it adds: processes that outnumber the GPUs are refused, a
rendezvous that does not come about says what was tried, and where torchrun prints a page about a process that died,
this prints how it died (the others say where, mmreason/training/watch.py). The exit status is that of the process that
failed; 128 + signal for one that was killed, and after a signal to the launcher itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from mmreason.errors import ConfigError

PEER_FAILED = 3
"""Exit status of a process that stopped because of another one (mmreason/training/watch.py)."""

_LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"


def main(argv: Sequence[str]) -> int:
    """Run torchrun with these arguments; returns the exit status."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does, which warns about it
    wanted = os.environ.get(_LOG_LEVEL)
    os.environ[_LOG_LEVEL] = wanted or "FATAL"  # a connection that fails is our line, not a page of addresses
    # NCCL's own watchdog aborts a process whose peer has died, before it can be said which one; ours ends it.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    from torch.distributed import run  # takes seconds, and reads the environment

    os.environ[_LOG_LEVEL] = wanted or "ERROR"  # of the processes: lost connections are warnings there
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    arguments: argparse.Namespace = run.parse_args(list(argv))  # type: ignore[no-untyped-call]
    try:
        return _start_again(arguments)
    except ConfigError as error:
        print(f"mmreason: {error}", file=sys.stderr)
        return 2


def _start_again(arguments: argparse.Namespace) -> int:
    """`--max-restarts`, each with a new rendezvous: torchrun's own meet in a store that still has the old addresses."""
    restarts, arguments.max_restarts = arguments.max_restarts, 0
    for attempt in range(1, restarts + 1):
        status = _start(arguments)
        if status in (0, 2, 128 + signal.SIGTERM, 128 + signal.SIGINT):  # done, a user's mistake, or told to stop
            return status
        print(f"\nmmreason: all processes are started again ({attempt} of {restarts})", file=sys.stderr)
    return _start(arguments)


def _start(arguments: argparse.Namespace) -> int:
    """Raises ConfigError when the processes cannot be started."""
    from torch.distributed import DistError, run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    _require_devices(arguments.nproc_per_node)
    where = arguments.rdzv_endpoint or f"{arguments.master_addr}:{arguments.master_port or 29500}"
    try:
        run.run(arguments)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        return _status([(rank, failure.exitcode) for rank, failure in error.failures.items()])
    except SignalException as error:
        return 128 + error.sigval
    except (RendezvousError, DistError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"no rendezvous of {arguments.nnodes} nodes at {where} ({reason}); start the same command on every node, "
            "check that its first node is reachable there and that no other program uses the port"
        ) from error
    return 0


def _require_devices(asked: str) -> None:
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "gpu" and not there:
        raise ConfigError("all GPUs of this machine were asked for, and torch sees none; on CPUs give a number")
    if asked.isdigit() and 0 < there < int(asked):
        raise ConfigError(
            f"{asked} processes were asked for, one per GPU, and torch sees {there} GPUs; ask for as many, or check "
            "CUDA_VISIBLE_DEVICES"
        )


def _status(ends: Sequence[tuple[int, int]]) -> int:
    """Exit status for these (rank, exit status); says who was killed, which nobody can say of itself."""
    for rank, code in ends:
        if code < 0 and code != -signal.SIGTERM:  # SIGTERM is how torchrun ends the others
            name = signal.Signals(-code).name
            hint = " (out of memory, if nobody did it)" if name == "SIGKILL" else ""
            print(f"\nmmreason: rank {rank} was ended by {name}{hint}", file=sys.stderr)  # leaves the progress line
            return 128 - code
    codes = [code for _, code in ends]
    return next((code for code in codes if code not in (PEER_FAILED, -signal.SIGTERM)), PEER_FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

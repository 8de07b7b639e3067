"""The processes of a run: forward, backward, step and sums, over accelerate, with or without DeepSpeed.

Losses are weighted sums over the whole step (see `algorithms.aggregation`), so gradients are ADDED over micro-batches
and processes. DDP and DeepSpeed average over processes; `backward` multiplies by their number to undo that.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin, DistributedType, InitProcessGroupKwargs
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmreason.config import TrainConfig
from mmreason.config.extras import read_deepspeed
from mmreason.errors import CheckpointError, ConfigError


class Engine:
    """Model, optimizer and process group of one process."""

    def __init__(self, config: TrainConfig) -> None:
        require_devices(torch.cuda.device_count() if torch.cuda.is_available() else None)
        plugin = _deepspeed_plugin(config) if config.deepspeed else None
        precision = "bf16" if config.precision == "bf16" else "no"
        # Without cpu=True accelerate starts no process group on machines without a GPU; with it, it ignores DeepSpeed.
        cpu = plugin is None and not torch.cuda.is_available()
        AcceleratorState._reset_state()  # of an earlier run in this process, which may have had another precision
        # The watch ends a run whose processes wait for too long (watch.py), and says why; this is behind it.
        patience = InitProcessGroupKwargs(timeout=timedelta(seconds=config.timeout_s + 60))
        self.accelerator = Accelerator(
            mixed_precision=precision, deepspeed_plugin=plugin, cpu=cpu, kwargs_handlers=[patience]
        )
        self.deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        if plugin is not None and not self.deepspeed:
            raise ConfigError(
                "train.deepspeed is set, but accelerate started without DeepSpeed: unset ACCELERATE_USE_CPU, "
                "or remove train.deepspeed"
            )
        self.max_grad_norm = config.max_grad_norm
        # Asked of torch, not of accelerate: DeepSpeed on CPUs has several processes where accelerate counts one.
        self.rank, self.world = _place()
        self.device = self.accelerator.device
        self.model: Any = None
        self.optimizer: Any = None
        self._names: list[list[str]] = []

    def prepare(self, model: nn.Module, groups: list[dict[str, Any]]) -> None:
        """Wrap the model and make its AdamW; `groups` as torch's optimizers take them, with `lr` and `weight_decay`."""
        names = {parameter: name for name, parameter in model.named_parameters()}
        self._names = [[names[parameter] for parameter in group["params"]] for group in groups]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    def describe(self) -> str:
        """How the run is distributed. Example: "DeepSpeed ZeRO-3, 2 processes"."""
        stage = self.accelerator.state.deepspeed_plugin.zero_stage if self.deepspeed else 0
        method = f"DeepSpeed ZeRO-{stage}" if self.deepspeed else "DDP"
        return f"{method}, {self.world} processes" if self.deepspeed or self.world > 1 else "one process"

    @property
    def is_main(self) -> bool:
        """The one process that writes logs and checkpoints."""
        return self.rank == 0

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add this micro-batch's gradients. `last` is the one that syncs processes; DeepSpeed steps there, too."""
        if self.deepspeed:
            self.accelerator.deepspeed_engine_wrapped.backward(loss * self.world, sync_gradients=last)
            return
        torch.autograd.backward(loss * self.world)

    @contextlib.contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Around forward AND backward of one micro-batch: no gradient traffic before the last one."""
        quiet = not last and self.accelerator.distributed_type == DistributedType.MULTI_GPU
        quiet = quiet or (not last and self.accelerator.distributed_type == DistributedType.MULTI_CPU)
        with self.model.no_sync() if quiet else contextlib.nullcontext():
            yield

    def set_learning_rate(self, factor: float) -> None:
        """Set every group to `factor` x its peak learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def step(self) -> float:
        """Clip, step, zero. Returns the gradient norm before clipping; a non-finite one skips the step."""
        if self.deepspeed:
            norm = self.accelerator.deepspeed_engine_wrapped.get_global_grad_norm()
            return float("nan") if norm is None else float(norm)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        if norm == norm and norm != float("inf"):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def move_optimizer_state(self, device: torch.device) -> None:
        """Where AdamW's two moments are kept: on the host while something else needs the GPU, back before `step`."""
        inner = self.optimizer
        while not isinstance(inner, torch.optim.AdamW):  # accelerate's and DeepSpeed's wrappers
            inner = inner.optimizer
        for state in inner.state.values():
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    state[key] = state[key].to(device)

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add up each value over all processes. Every process must give the same keys."""
        if self.world == 1:
            return dict(values)
        names = sorted(values)
        total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def gather(self, value: Any) -> list[Any]:
        """One small object from every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        everyone: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(everyone, value)
        return everyone

    def random_state(self) -> dict[str, list[int]]:
        """Torch's generators of this process: of the CPU and, where there is one, of its GPU."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return {name: state.tolist() for name, state in states.items()}

    def set_random_state(self, states: Mapping[str, list[int]]) -> None:
        """Undo `random_state`."""
        torch.set_rng_state(torch.tensor(states["cpu"], dtype=torch.uint8))
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(torch.tensor(states["cuda"], dtype=torch.uint8), self.device)

    @property
    def partitioned(self) -> bool:
        """ZeRO-3: no process has whole parameters outside the forward."""
        return bool(self.deepspeed and self.accelerator.state.deepspeed_plugin.zero_stage == 3)

    @contextlib.contextmanager
    def whole_parameters(self) -> Iterator[None]:
        """Inside, parameters are whole on every process (ZeRO-3 gathers them; elsewhere nothing happens).

        ZeRO-3's forward hooks are off meanwhile: they wait for the other processes, which decode other numbers of
        tokens.
        """
        if not self.partitioned:
            yield
            return
        import deepspeed

        parameters = list(self.model.module.parameters())
        offload = self.model.optimizer.parameter_offload
        with deepspeed.zero.GatheredParameters(parameters):
            for parameter in parameters:
                parameter.ds_active_sub_modules.clear()
            offload._remove_module_hooks()
            offload.forward_hooks.clear()
            offload.backward_hooks.clear()
            try:
                yield
            finally:
                offload.setup_zero_stage3_hooks()

    def frozen(self, model: nn.Module) -> Any:
        """What forwards a model that is never trained, in the arithmetic of the trained one (and split by ZeRO-3)."""
        if not self.deepspeed:
            return self.accelerator.prepare_model(model, evaluation_mode=True)
        import deepspeed

        settings = dict(self.accelerator.state.deepspeed_plugin.deepspeed_config)
        if not self.partitioned:  # stages 1 and 2 split what only an optimizer needs
            settings["zero_optimization"] = {"stage": 0}
        return deepspeed.initialize(model=model, config=settings)[0]

    def whole(self, parameter: Tensor) -> Tensor:
        """The values of a frozen parameter; a copy where ZeRO-3 has split it up (all processes call this together)."""
        if not hasattr(parameter, "ds_id"):
            return parameter.detach()
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    def state_dict(self) -> dict[str, Tensor] | None:
        """Whole weights, on the CPU of the main process; None where the inner model already has them."""
        if not self.partitioned:
            return None
        state: dict[str, Tensor] = self.accelerator.get_state_dict(self.model)
        return state

    def save_optimizer(self, folder: Path) -> None:
        """Tensors only (safetensors) - except under DeepSpeed, whose partitioned state DeepSpeed itself must write."""
        if self.deepspeed:
            self.model.save_checkpoint(str(folder / "deepspeed"), tag="state", exclude_frozen_parameters=True)
        elif self.is_main:
            save_file(self._optimizer_tensors(), folder / "optimizer.safetensors")

    def load_optimizer(self, folder: Path) -> None:
        """Undo `save_optimizer`. Raises CheckpointError when the parameters are not the same ones."""
        if self.deepspeed:
            # Not strict: frozen parameters are not in it; they were loaded with the model.
            path, _ = self.model.load_checkpoint(str(folder / "deepspeed"), tag="state", load_module_strict=False)
            if path is None:
                raise CheckpointError(f"{folder}: DeepSpeed found no state in it; was it written without DeepSpeed?")
            return
        file = folder / "optimizer.safetensors"
        if not file.exists():
            raise CheckpointError(f"{folder}: no optimizer.safetensors; was it written with DeepSpeed?")
        stored = load_file(file)
        for name, parameter in self._named_parameters():
            found = {key: stored[f"{name}/{key}"] for key in _ADAM_KEYS if f"{name}/{key}" in stored}
            if found and found["exp_avg"].shape != parameter.shape:
                shapes = f"{tuple(found['exp_avg'].shape)}, not {tuple(parameter.shape)}"
                raise CheckpointError(f"{folder}: optimizer state of {name} is {shapes}: another model's checkpoint")
            if found:
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in found.items()
                }
        strangers = {key.rsplit("/", 1)[0] for key in stored} - {name for name, _ in self._named_parameters()}
        if strangers:
            raise CheckpointError(f"{folder}: optimizer state of {sorted(strangers)[0]}, which this run does not train")

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{name}/{key}"] = value.detach().cpu().contiguous()
        return tensors

    def _named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for names, group in zip(self._names, self.optimizer.param_groups, strict=True):
            yield from zip(names, group["params"], strict=True)


def require_devices(count: int | None) -> None:
    """Raises ConfigError when this node has fewer devices than processes of the run. `count`: None without GPUs."""
    wanted = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if count is not None and wanted > count:
        raise ConfigError(
            f"{wanted} processes were started on {socket.gethostname()}, which has {count} GPUs to use; start "
            f"{count} (--nproc-per-node, PROCESSES), or check CUDA_VISIBLE_DEVICES"
        )


def _place() -> tuple[int, int]:
    """This process's rank, and how many processes there are."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


_ADAM_KEYS = ("step", "exp_avg", "exp_avg_sq")


def _deepspeed_plugin(config: TrainConfig) -> DeepSpeedPlugin:
    """The user's JSON with our settings filled in where it says "auto". Raises ConfigError on a bad file."""
    assert config.deepspeed is not None
    settings = read_deepspeed(config.deepspeed)
    # One row is one micro-batch; how many rows make a step changes from step to step, so accumulation is ours.
    settings |= {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_force_ds_cpu_optimizer": False,
    }
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    return DeepSpeedPlugin(hf_ds_config=settings)

"""The processes of a run: who this one is, and what all of them agree on.

Started by torchrun, or alone. accelerate sets up the processes and wraps for DDP; FSDP2 shares the
layers of the language model among the processes, and everything else of the model is on each.
"""

import contextlib
import datetime
import gc
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
)
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from video_llama.checkpoints.load import choose_device
from video_llama.errors import OptionError, TrainingError
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.training.recipe import Recipe
from video_llama.training.step import TrainingStep

T = TypeVar("T")

# What one process does while the others wait (looking through a cache, writing a model) may take
# so long. They wait over the CPU, where a process that is gone is noticed at once; one that hangs
# is not, so all else has the timeout of the recipe.
PATIENCE = datetime.timedelta(hours=2)
# How gloo and NCCL say that another process does not answer.
LOST = ("gloo", "nccl", "connection", "timed out", "timeout", "watchdog", "socket")


def _require_device(wanted: str, given: torch.device) -> None:
    """Refuse a device that is not there; accelerate takes another one without a word."""
    if wanted == "auto":
        return
    chosen = choose_device(wanted)
    if chosen.index is not None:
        raise OptionError(
            f"device {wanted!r} names one of several; give {chosen.type!r} and let torchrun share "
            "them out, or show this process only one, as CUDA_VISIBLE_DEVICES=1 does"
        )
    if chosen.type != given.type:
        raise OptionError(
            f"device {wanted!r} cannot train, {given.type!r} can; give 'auto' or that"
        )


class Processes:
    """All processes of a run.

    Attributes:
        rank, world_size: of this one.
        device: where it computes.

    Raises:
        OptionError: the device of the recipe is not there.
        TrainingError: the processes do not find one another.
    """

    def __init__(self, recipe: Recipe) -> None:
        wait = datetime.timedelta(seconds=recipe.timeout)
        try:
            self._accelerator = Accelerator(
                cpu=recipe.device == "cpu",
                mixed_precision="no",  # `TrainingStep` does it, for what it wraps alone
                kwargs_handlers=[
                    InitProcessGroupKwargs(timeout=wait),
                    DistributedDataParallelKwargs(
                        broadcast_buffers=False, gradient_as_bucket_view=True
                    ),
                ],
            )
        except (RuntimeError, ValueError) as error:
            raise TrainingError(f"the processes did not find one another: {error}") from error
        self.rank = self._accelerator.process_index
        self.world_size = self._accelerator.num_processes
        self.device = self._accelerator.device
        _require_device(recipe.device, self.device)
        self._host: dist.ProcessGroup | None = None
        if self.world_size > 1:
            group = dist.new_group(backend="gloo", timeout=PATIENCE)
            self._host = cast("dist.ProcessGroup", group)
        self.shares_layers = recipe.parallel == "fsdp" and self.world_size > 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and tells how it goes."""
        return self.rank == 0

    def micro_batch(self, recipe: Recipe) -> int:
        """Samples this process runs at once.

        Raises:
            OptionError: the batch cannot be shared out evenly.
        """
        parts = self.world_size * recipe.accumulation
        if recipe.batch % parts:
            raise OptionError(
                f"batch {recipe.batch} cannot be shared by {self.world_size} processes in "
                f"accumulation {recipe.accumulation}; give a multiple of {parts}"
            )
        return recipe.batch // parts

    def wrap(self, step: TrainingStep) -> nn.Module:
        """The step with its model on the device, ready for several processes."""
        if self.shares_layers:
            self._share_layers(step.model)
            return step
        step.to(self.device)
        if self.world_size == 1:
            return step
        return self._accelerator.prepare_model(step, device_placement=False)

    def accumulating(self, wrapped: nn.Module, last: bool) -> contextlib.AbstractContextManager:
        """For a micro-step: gradients are exchanged with the last one of a step only."""
        return contextlib.nullcontext() if last else self._accelerator.no_sync(wrapped)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """The mean over all processes, where nothing that wraps has taken it."""
        if not self.shares_layers:
            return
        own = [p.grad for p in parameters if p.grad is not None and not isinstance(p, DTensor)]
        if own:
            flat = torch.cat([gradient.flatten() for gradient in own])
            dist.all_reduce(flat)
            flat /= self.world_size
            pieces = flat.split([gradient.numel() for gradient in own])
            for gradient, piece in zip(own, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))

    def share_again(self, model: VideoLlamaForConditionalGeneration) -> None:
        """Let go of what a run forward gathered; a run back does so by itself."""
        if self.shares_layers:
            for module in model.language_model.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    def add(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in double precision."""
        if self.world_size == 1:
            return list(values)
        # Not every accelerator has float64; sums of single losses fit in float32 there.
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.tensor(values, dtype=kind, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, values: Sequence[T], *, patiently: bool = False) -> list[T]:
        """What all processes have, in the order of their ranks."""
        if self.world_size == 1:
            return list(values)
        boxes: list[Any] = [None] * self.world_size
        dist.all_gather_object(boxes, list(values), group=self._host if patiently else None)
        return [value for box in boxes for value in box]

    def agree(self, value: T) -> T:
        """What the first process says."""
        if self.world_size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def together(self, *, patiently: bool = False) -> Iterator[None]:
        """For what one process does while the others wait: all fail if it fails.

        `patiently`: for long, `PATIENCE`, and not for the timeout of the recipe.

        Raises:
            TrainingError: another process failed.
        """
        failed = None
        try:
            yield
        except Exception as error:  # noqa: BLE001 (raised again below)
            failed = error
        failures = self.gather([repr(failed)] if failed else [], patiently=patiently)
        if failed:
            raise failed
        if failures:
            raise TrainingError(f"another process failed: {failures[0]}")

    @contextlib.contextmanager
    def losses_told(self, step: int) -> Iterator[None]:
        """Turn what a lost process causes in the others into a message.

        Raises:
            TrainingError: a process is gone, or did not answer in time.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not any(word in str(error).lower() for word in LOST):
                raise
            first = str(error).splitlines()[0].rpartition("] ")[2]
            raise TrainingError(
                f"a process of the run is gone or did not answer within the timeout, in step "
                f"{step}; its own messages say why. Start again to go on from the last checkpoint "
                f"({first[:100]})"
            ) from error

    def close(self) -> None:
        """Say goodbye, when all went well and nothing holds what `wrap` gave any more.

        What DDP holds must be gone before the connections are: the other way round it can hang.
        """
        if self.world_size > 1:
            self._accelerator.free_memory()
            gc.collect()
            self.wait()
            self._accelerator.end_training()

    def _share_layers(self, model: VideoLlamaForConditionalGeneration) -> None:
        """FSDP2 for the layers of the language model.

        The table, the head and adapters stay whole on each process: the first is used outside of
        the language model, and the last are small.
        """
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        language_model = model.language_model
        whole = {p for n, p in language_model.named_parameters() if "lora_" in n}
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            whole |= set(module.parameters())
        layers = [m for m in language_model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise OptionError(
                f"parallel 'fsdp' finds no layers in a {type(language_model).__name__}; give 'ddp'"
            )
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
        fully_shard(language_model, mesh=mesh, reshard_after_forward=False, ignored_params=whole)
        for module in model.children():
            if module is not language_model:
                module.to(self.device)
        for parameter in whole:
            parameter.data = parameter.data.to(self.device)

"""A training run as data: every setting, with its meaning and its default.

A recipe is read by `training.presets`, which also holds the four published ones.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from video_llama.data.dataset import Branch, Modality
from video_llama.data.formats import DatasetSpec
from video_llama.data.medium import Sampling
from video_llama.errors import OptionError
from video_llama.home import spelled_out
from video_llama.training.schedule import WarmupCosine

Quantization = Literal["int8", "8bit", "4bit"]
Precision = Literal["auto", "fp32", "bf16"]
StoredDtype = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class ModelSettings:
    """The model to begin with.

    Attributes:
        path: "nano", a directory or a hub id.
        quantization: of the frozen language model: "int8" is this project's own, "8bit" and "4bit"
            are bitsandbytes'. None: as it is.
        gradient_checkpointing: compute the layers of the language model again on the way back
            instead of keeping what they made: less memory, a third more time.
        offline: never ask the hub.
    """

    path: str = "nano"
    quantization: Quantization | None = None
    gradient_checkpointing: bool = False
    offline: bool = False


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters in the language model, through peft.

    Attributes:
        rank: of each adapter.
        alpha: the change is scaled by alpha / rank.
        dropout: before an adapter.
        targets: names of the linear layers that get one.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        _at_least("rank", self.rank, 1)
        if not self.alpha > 0:
            raise OptionError(f"alpha must be positive, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout is from 0 to below 1, not {self.dropout}")
        if not self.targets:
            raise OptionError("targets is empty; name layers such as q_proj, or leave lora out")


@dataclass(frozen=True)
class MediaSettings:
    """What is taken of media and conversations.

    Attributes:
        num_frames: of a video; None: as the model was made.
        sampling: "uniform", or "head_tail" (random, of the published stage 1).
        crop: cut a random box from the frames.
        max_length: tokens of a sample; what is beyond is cut off on the right.
    """

    num_frames: int | None = None
    sampling: Sampling = "uniform"
    crop: bool = False
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_frames", "max_length"):
            value = getattr(self, name)
            if value is not None:
                _at_least(name, value, 1)


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW.

    Attributes:
        weight_decay: of matrices; vectors, biases and norms are spared.
        betas, eps: of AdamW.
        clip: longest gradient, over all that trains; None does not clip, as published.
    """

    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.weight_decay < 0:
            raise OptionError(f"weight_decay is 0 or more, not {self.weight_decay}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise OptionError(f"betas are from 0 to below 1, not {list(self.betas)}")
        if not self.eps > 0:
            raise OptionError(f"eps must be positive, not {self.eps}")
        if self.clip is not None and not self.clip > 0:
            raise OptionError(f"clip must be positive, or null for no clipping, not {self.clip}")


@dataclass(frozen=True)
class ValidationSettings:
    """What is measured on the way, on data that is not learnt.

    Attributes:
        data: data sets; none: nothing is measured, and no checkpoint is the best one.
        every: steps between two measurements; the last step has one as well.
        samples: rows of each data set, the first ones; None: all.
    """

    data: tuple[DatasetSpec, ...] = ()
    every: int = 500
    samples: int | None = None

    def __post_init__(self) -> None:
        _at_least("every", self.every, 1)
        if self.samples is not None:
            _at_least("samples", self.samples, 1)


@dataclass(frozen=True)
class CheckpointSettings:
    """What a run that was broken off goes on from.

    Attributes:
        every: steps between two checkpoints; the last step has one as well.
        keep: how many of the latest stay; the best one stays besides.
    """

    every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        _at_least("every", self.every, 1)
        _at_least("keep", self.keep, 1)


@dataclass(frozen=True)
class ExportSettings:
    """What is written at the end, to the folder "model" of the output.

    Attributes:
        kind: "model", a whole directory; "part", only what was trained, beside the name of the
            model it belongs to; "none". The first two can be loaded and asked.
        checkpoint: which one, "last" or "best".
    """

    kind: Literal["model", "part", "none"] = "model"
    checkpoint: Literal["last", "best"] = "last"


@dataclass(frozen=True)
class LoggingSettings:
    """What is told on the way.

    Attributes:
        every: steps between two lines of metrics.jsonl.
        tensorboard: write for TensorBoard too, where it is installed.
    """

    every: int = 10
    tensorboard: bool = True

    def __post_init__(self) -> None:
        _at_least("every", self.every, 1)


@dataclass(frozen=True)
class CacheSettings:
    """A cache of what the frozen encoders make of the media; see `training.features`.

    Attributes:
        path: its folder; runs of the same encoders share it. None: media are encoded every time.
        dtype: in which values are kept. "fp32" equals training from pixels.
        draws: with "head_tail" sampling, different choices of frames for a medium. Training from
            pixels makes a new choice every time.
        batch: frames or clips that are encoded at once.
        verify: read every kept value once at the beginning and compare checksums.
    """

    path: str | None = None
    dtype: StoredDtype = "fp32"
    draws: int = 4
    batch: int = 32
    verify: bool = True

    def __post_init__(self) -> None:
        _at_least("draws", self.draws, 1)
        _at_least("batch", self.batch, 1)


@dataclass(frozen=True)
class BadSampleSettings:
    """How many samples may be bad before training stops.

    Attributes:
        max_share: of all samples so far.
        min_count: as many may be bad in any case.
    """

    max_share: float = 0.05
    min_count: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.max_share <= 1:
            raise OptionError(f"max_share is from 0 to 1, not {self.max_share}")
        _at_least("min_count", self.min_count, 0)


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        name: what it is called; by default its output is the folder runs/NAME.
        branch: which branch sees the media; see `data.dataset.TrainingDataset`.
        modality: what the audio branch is given: "vision", pictures, as published; "audio", sound.
        modules: prefixes of the parameters that train; everything else is frozen.
        schedule: learning rates, and how many steps there are.
        batch: samples of a step, over all processes.
        accumulation: micro-steps a step is divided into; each process runs
            batch / processes / accumulation samples at once.
        model, lora, data, media, optimizer, validation, checkpoint, export, logging, cache,
            bad_samples: sections of their own. `lora` None: no adapters.
        captions: how files of captions are learnt whose format is not given: "captions", as stage 1
            does; "descriptions", as answers to an instruction, as stage 2 does.
        precision: "bf16" computes in bfloat16, keeps what is frozen in it, and trains in float32;
            "auto" does so on an accelerator.
        device: "auto" is an accelerator if there is one; else "cpu", "cuda", ...
        parallel: of several processes: "ddp", each holds the whole model; "fsdp", they share the
            layers of the language model.
        timeout: seconds after which a process that is waited for counts as lost.
        workers: processes that read media, beside each training one.
        seed: decides order, frames, dropout.
        output: folder of everything the run writes.
        resume: "auto" goes on from the last checkpoint of the output, if there is one; "never"
            refuses to touch an output that has one; else the folder of a checkpoint.
    """

    name: str
    branch: Branch
    modules: tuple[str, ...]
    schedule: WarmupCosine
    batch: int
    accumulation: int = 1
    modality: Modality = "vision"
    model: ModelSettings = field(default_factory=ModelSettings)
    lora: LoraSettings | None = None
    data: tuple[DatasetSpec, ...] = ()
    media: MediaSettings = field(default_factory=MediaSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    bad_samples: BadSampleSettings = field(default_factory=BadSampleSettings)
    captions: Literal["captions", "descriptions"] = "captions"
    precision: Precision = "auto"
    device: str = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    timeout: float = 600.0
    workers: int = 2
    seed: int = 0
    output: str = ""
    resume: str = "auto"

    def __post_init__(self) -> None:
        if not self.name:
            raise OptionError("name is empty; call the run something")
        if not self.modules and self.lora is None:
            raise OptionError(
                "modules is empty, so nothing would train; name prefixes or give lora"
            )
        for name, least in (("batch", 1), ("accumulation", 1), ("workers", 0), ("seed", 0)):
            _at_least(name, getattr(self, name), least)
        if not self.timeout > 0:
            raise OptionError(f"timeout must be positive, not {self.timeout}")
        if not self.resume:
            raise OptionError("resume is 'auto', 'never' or the folder of a checkpoint")
        self._require_matching()

    @property
    def output_dir(self) -> Path:
        """Where the run writes."""
        return Path(spelled_out(self.output or f"runs/{self.name}"))

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.schedule.total_steps

    def _require_matching(self) -> None:
        """Settings that exclude one another."""
        if self.batch % self.accumulation:
            raise OptionError(
                f"batch {self.batch} cannot be divided into accumulation {self.accumulation} "
                "equal parts"
            )
        if self.cache.path is not None and self.media.crop:
            raise OptionError(
                "media.crop cuts other boxes every time, which cache.path cannot keep; give "
                "media.crop=false or leave the cache out"
            )
        if self.parallel == "fsdp" and self.model.quantization is not None:
            raise OptionError("parallel 'fsdp' shares weights that are not quantized; choose one")
        if self.model.quantization == "int8" and self.lora is not None:
            raise OptionError(
                "adapters cannot be put beside layers of model.quantization 'int8'; give '8bit' or "
                "'4bit', or leave lora out"
            )
        if self.export.checkpoint == "best" and not self.validation.data:
            raise OptionError("export.checkpoint 'best' needs validation.data to choose by")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise OptionError(f"{name} must be at least {least}, not {value}")

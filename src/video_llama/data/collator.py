"""Samples to a batch, for a DataLoader.

Shapes: B samples, L tokens, N pictures and videos of the batch, T frames, A sounds of the batch,
C clips.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from video_llama.data.dataset import Modality, Prepared, Rejected
from video_llama.processing.processor import VideoLlamaProcessor


@dataclass
class Batch:
    """What one micro-step learns from.

    Attributes:
        input_ids, attention_mask, labels: (B, L), padded on the right; None if every sample of
            the batch was rejected.
        frames: (N, T, 3, S, S), a row for each placeholder run of a picture or video in the order
            of the batch, padded with zeros; None if nothing is seen. Encoded: (N, T, Q, D).
        frame_mask: (N, T), True for frames that are there; None if all are.
        clips: (A, C, 1, M, F) likewise for what is heard; with `clip_modality` "vision" frames
            (A, C, 3, S, S). Encoded: (A, C, E).
        clip_mask: (A, C), as `frame_mask`.
        encoded: `frames` and `clips` hold states of the frozen encoders.
        keys, positions: of the B samples.
        rejected: the samples that are not in the batch.
    """

    input_ids: torch.Tensor | None
    attention_mask: torch.Tensor | None
    labels: torch.Tensor | None
    frames: torch.Tensor | None = None
    frame_mask: torch.Tensor | None = None
    clips: torch.Tensor | None = None
    clip_mask: torch.Tensor | None = None
    clip_modality: Modality = "audio"
    encoded: bool = False
    keys: list[str] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same in memory an accelerator can copy from; called by the DataLoader."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        values: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        tensors = {
            name: change(value) for name, value in values.items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **tensors)


class Collator:
    """Pads samples to a batch; rejected ones are listed beside it."""

    def __init__(self, processor: VideoLlamaProcessor) -> None:
        self.processor = processor

    def __call__(self, items: Sequence[Prepared | Rejected]) -> Batch:
        """The batch of some samples of one `TrainingDataset`."""
        rejected = [item for item in items if isinstance(item, Rejected)]
        samples = [item for item in items if isinstance(item, Prepared)]
        if not samples:
            return Batch(None, None, None, rejected=rejected)
        assert len({(one.clip_modality, one.encoded) for one in samples}) == 1, "two data sets"
        padded = self.processor.pad([sample.prompt for sample in samples], "right")
        frames, frame_mask = pad_media([one for sample in samples for one in sample.frames])
        clips, clip_mask = pad_media([one for sample in samples for one in sample.clips])
        return Batch(
            input_ids=padded["input_ids"],
            attention_mask=padded["attention_mask"],
            labels=padded["labels"],
            frames=frames,
            frame_mask=frame_mask,
            clips=clips,
            clip_mask=clip_mask,
            clip_modality=samples[0].clip_modality,
            encoded=samples[0].encoded,
            keys=[sample.key for sample in samples],
            positions=[sample.position for sample in samples],
            rejected=rejected,
        )


def pad_media(media: Sequence[torch.Tensor]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Media of (T, ...) as one tensor (N, T, ...), zeros behind the shorter ones, and a mask (N, T)
    that is True for what is there; None if nothing was padded. Both None for no media."""
    if not media:
        return None, None
    lengths = torch.tensor([len(one) for one in media])
    padded = torch.nn.utils.rnn.pad_sequence(list(media), batch_first=True)
    if (lengths == lengths[0]).all():
        return padded, None
    return padded, torch.arange(padded.shape[1]) < lengths.unsqueeze(1)

"""One micro-step: from a batch to the sum of its losses.

Legend: B samples, L tokens, N media that are seen, A sounds that are heard, T frames, C clips,
Q queries, E embedding width, D width of the language model, K places that are learnt somewhere in
the batch, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from video_llama.data.collator import Batch
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.processing.tokens import IGNORE_INDEX


class Score(NamedTuple):
    """How well a batch was foretold: sum of losses, tokens foretold rightly, tokens."""

    losses: torch.Tensor
    correct: torch.Tensor
    tokens: torch.Tensor


class TrainingStep(nn.Module):
    """What is trained, as one module: the thing to wrap for several processes.

    Args:
        model: with the parameters that train marked so.
        autocast: the type to compute in, where it is not that of the weights.
    """

    def __init__(
        self, model: VideoLlamaForConditionalGeneration, autocast: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses of all learnt tokens, float32, and their number, int64.

        A batch whose samples were all rejected gives zero, with zero gradients, and makes the same
        calls to other processes as any.
        """
        score = self.score(batch)
        return score.losses, score.tokens

    def score(self, batch: Batch) -> Score:
        """`forward`, with the number of tokens that were likeliest and right."""
        with torch.autocast(
            self._table.device.type, self.autocast, enabled=self.autocast is not None
        ):
            if batch.input_ids is None or batch.labels is None:
                return self._nothing()
            embeddings = self.model.embed(
                batch.input_ids,
                video_features=self._seen(batch),
                audio_features=self._heard(batch),
            )  # (B, L, D)
            targets = batch.labels[:, 1:]
            places = (targets != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)  # (K)
            logits = self._logits(embeddings, batch.attention_mask, places)  # (B, K, V)
        wanted = targets[:, places].flatten()
        flat = logits.flatten(0, 1).float()  # (B * K, V)
        losses = F.cross_entropy(flat, wanted, ignore_index=IGNORE_INDEX, reduction="sum")
        right = flat.detach().argmax(dim=-1) == wanted
        return Score(losses, right.sum(), (wanted != IGNORE_INDEX).sum())

    @property
    def _table(self) -> torch.Tensor:
        """The language model's table of embeddings (V, D)."""
        table = self.model.get_input_embeddings().weight
        assert isinstance(table, torch.Tensor)
        return table

    def _seen(self, batch: Batch) -> torch.Tensor | None:
        """Tokens (N, V, D) of what is seen: from pixels, or from the states of frozen encoders."""
        if batch.frames is None:
            return None
        if not batch.encoded:
            return self.model.get_video_features(batch.frames, batch.frame_mask)
        branch = self.model.vision_branch
        states = batch.frames.to(branch.video_query_tokens.dtype)  # (N, T, Q, D)
        return branch.join_frames(states, batch.frame_mask)

    def _heard(self, batch: Batch) -> torch.Tensor | None:
        """Tokens (A, U, D) of what is heard, likewise."""
        if batch.clips is None:
            return None
        branch = self.model.audio_branch
        if branch is None or not batch.encoded:
            return self.model.get_audio_features(
                batch.clips, batch.clip_mask, modality=batch.clip_modality
            )
        return branch.join_clips(batch.clips.to(branch.query_tokens.dtype), batch.clip_mask)

    def _logits(
        self, embeddings: torch.Tensor, mask: torch.Tensor | None, places: torch.Tensor
    ) -> torch.Tensor:
        """Scores of the next token at some places: the head is run where something is learnt."""
        return self.model.language_model(
            inputs_embeds=embeddings, attention_mask=mask, logits_to_keep=places, use_cache=False
        ).logits

    def _nothing(self) -> Score:
        """Zeros that hang on every parameter that trains."""
        # Parameters that are shared among processes are reached through the language model.
        own = [p for p in self.model.parameters() if not isinstance(p, DTensor)]
        touched = [p.sum() for p in own if p.requires_grad]
        table = self._table
        zero = sum(touched, start=table.new_zeros(())) * 0.0
        embeddings = table.new_zeros((1, 1, table.shape[1])) + zero.to(table.dtype)
        places = torch.zeros(1, dtype=torch.long, device=table.device)
        losses = self._logits(embeddings, None, places).float().sum() * 0.0
        none = torch.zeros((), dtype=torch.long, device=table.device)
        return Score(losses, none, none)

"""From logits to the next id of every row: each row by its own options, few operations for all.

The rules are transformers' logits processors, in their order: penalty, temperature, top-k, top-p.
What depends on the options alone is put together when the rows change, not at every step.

Legend: B rows, S rows of which something is wanted, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import is_not

import torch

from video_llama.engine.request import TokenLogprob
from video_llama.generation import GenerationOptions


@dataclass(eq=False)
class Sampling:
    """How one answer is chosen, and what was chosen so far.

    Attributes:
        options: of the request.
        logprobs: see `Request.logprobs`.
        ids: chosen so far; whoever samples adds to it.
        generator: of the random numbers; on the CPU, so that a seed means the same everywhere.
    """

    options: GenerationOptions
    logprobs: int | None = None
    ids: list[int] = field(default_factory=list)
    generator: torch.Generator | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.options.temperature == 0:
            return
        self.generator = torch.Generator()
        if self.options.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.options.seed)


class Sampler:
    """Chooses ids. `text` gives the text of an id, for logprobs."""

    def __init__(self, text: Callable[[int], str]) -> None:
        self._text = text
        self._rows: list[Sampling] = []
        self._penalty: Penalty | None = None
        self._draw: Draw | None = None

    def choose(self, logits: torch.Tensor, rows: Sequence[Sampling]) -> list[int]:
        """Logits (B, V) of B rows -> their next ids, which are put into `ids` of the rows too."""
        if len(rows) != len(self._rows) or any(map(is_not, rows, self._rows)):
            self._rows = list(rows)
            self._penalty = Penalty.of(self._rows, logits)
            self._draw = Draw.of(self._rows, logits)
        scores = logits
        if self._penalty is not None:
            scores = self._penalty.lower(scores.float())
        chosen = scores.argmax(dim=-1)
        if self._draw is not None:
            chosen[self._draw.places] = self._draw.draw(scores)
        if self._penalty is not None:
            self._penalty.note(chosen)
        ids = chosen.tolist()
        for row, token in zip(rows, ids, strict=True):
            row.ids.append(token)
        return ids

    def logprobs(self, logits: torch.Tensor, rows: Sequence[Sampling]) -> dict[int, TokenLogprob]:
        """Of the ids chosen last, by place, for the rows that want them; logits (B, V)."""
        places = [place for place, row in enumerate(rows) if row.logprobs is not None]
        if not places:
            return {}
        values = logits[places].float().log_softmax(dim=-1)  # (S, V)
        chosen = [rows[place].ids[-1] for place in places]
        own = values.gather(1, torch.tensor(chosen, device=values.device)[:, None])[:, 0].tolist()
        most = min(max(rows[place].logprobs or 0 for place in places), values.shape[1])
        best, best_ids = (one.tolist() for one in values.topk(most, dim=-1))
        found = {}
        for number, place in enumerate(places):
            count = rows[place].logprobs or 0
            pairs = zip(best_ids[number][:count], best[number], strict=False)
            top = tuple(TokenLogprob(token, self._text(token), value) for token, value in pairs)
            token = chosen[number]
            found[place] = TokenLogprob(token, self._text(token), own[number], top)
        return found


@dataclass
class Penalty:
    """Makes what was said less likely: `seen` (S, V) of the rows at `places` (S)."""

    places: torch.Tensor
    factors: torch.Tensor  # (S, 1)
    seen: torch.Tensor
    counting: torch.Tensor  # 0 ... S - 1

    @classmethod
    def of(cls, rows: Sequence[Sampling], logits: torch.Tensor) -> "Penalty | None":
        """Of the rows that want it; None when none does."""
        penalised = [place for place, row in enumerate(rows) if row.options.repetition_penalty != 1]
        if not penalised:
            return None
        device = logits.device
        seen = torch.zeros(len(penalised), logits.shape[1], dtype=torch.bool, device=device)
        for number, place in enumerate(penalised):
            seen[number, rows[place].ids] = True
        factors = [[float(rows[place].options.repetition_penalty)] for place in penalised]
        return cls(
            torch.tensor(penalised, device=device),
            torch.tensor(factors, device=device),
            seen,
            torch.arange(len(penalised), device=device),
        )

    def lower(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, V) with the penalty."""
        own = scores[self.places]
        lowered = torch.where(own < 0, own * self.factors, own / self.factors)
        return scores.index_copy(0, self.places, torch.where(self.seen, lowered, own))

    def note(self, chosen: torch.Tensor) -> None:
        """Remember ids (B)."""
        self.seen[self.counting, chosen[self.places]] = True


@dataclass
class Draw:
    """Draws at random for the rows at `places` (S)."""

    places: torch.Tensor
    temperatures: torch.Tensor  # (S, 1)
    ranks: torch.Tensor | None  # (S, 1): where the least of the top k is in ascending order
    cuts: torch.Tensor  # (S, 1): 1 - top_p
    generators: list[torch.Generator]
    noise: torch.Tensor  # (S, V), on the CPU

    @classmethod
    def of(cls, rows: Sequence[Sampling], logits: torch.Tensor) -> "Draw | None":
        """Of the rows that want it; None when none does."""
        drawn = [place for place, row in enumerate(rows) if row.generator is not None]
        if not drawn:
            return None
        options = [rows[place].options for place in drawn]
        vocabulary, device = logits.shape[1], logits.device
        ranks = [[max(vocabulary - (one.top_k or vocabulary), 0)] for one in options]
        cut = any(one.top_k or one.top_p < 1 for one in options)
        generators = [generator for place in drawn if (generator := rows[place].generator)]
        return cls(
            torch.tensor(drawn, device=device),
            torch.tensor([[float(one.temperature)] for one in options], device=device),
            torch.tensor(ranks, device=device) if cut else None,
            torch.tensor([[1.0 - one.top_p] for one in options], device=device),
            generators,
            torch.empty(len(drawn), vocabulary),
        )

    def draw(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, V) -> ids (S)."""
        own = scores[self.places].float() / self.temperatures
        if self.ranks is not None:
            own = self._cut(own, self.ranks)
        probabilities = own.softmax(dim=-1)
        for row, generator in zip(self.noise, self.generators, strict=True):
            row.exponential_(1, generator=generator)
        # The likeliest after division by exponential noise is a fair draw; so draws multinomial.
        return (probabilities / self.noise.to(probabilities.device)).argmax(dim=-1)

    def _cut(self, scores: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
        """Scores (S, V) without those that top-k and top-p leave out."""
        ordered, order = scores.sort(dim=-1)
        ordered = ordered.masked_fill(ordered < ordered.gather(1, ranks), -torch.inf)
        out = ordered.softmax(dim=-1).cumsum(dim=-1) <= self.cuts
        out[:, -1] = False  # the likeliest always stays
        return torch.empty_like(scores).scatter_(1, order, ordered.masked_fill(out, -torch.inf))

"""The language model, trained before it is frozen.

It begins with recall: some tokens that each say a thing and something about it, then the things in
another order, each followed by what was said. Two minutes of it teach to look for what is named,
which an hour of conversations alone did not; a few such exercises go on beside the conversations.

Beside it, comparing: whether one of some tokens named the thing that is named now, by another token
or in writing. Of a conversation a yes or a no is one bit; here every exercise has six.

Then it reads conversations about scenes. Where frames and sounds will be, it is given the
embeddings of the words that describe them, blurred: scaled, mixed with other words, with noise. A
model that has only read clean words does not read what a branch writes.
"""

import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F

from recipes.nano.facts import OWNER_SHARE
from recipes.nano.loop import DEVICE, batches, load, normal, save, train, uniform
from recipes.nano.material import Material
from recipes.nano.text import (
    LOOKUP_TURNS,
    TOLD_APART,
    Forms,
    Talk,
    Words,
    mean_embeddings,
    said,
    talks,
    tokenize_talk,
)
from video_llama.data.world.things import COLOURS, COUNTS, MOTIONS
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.processing.tokens import IGNORE_INDEX

TALKS = 48000
RATE = 2e-3  # of recall and comparing
RECALL_STEPS = (150, 250)  # with few words for things, then with all
FEW_THINGS = 18
RECALLED = 6  # things of one exercise
WAVERING = 3  # other words that a token may mean
COMPARED = 6  # things asked for in one exercise, named before or not
BATCH = 64
KEPT_UP = 16  # exercises beside every batch of conversations


def blurred(
    table: list[torch.Tensor], labels: torch.Tensor, blur: float, generator: torch.Generator
) -> torch.Tensor:
    """Soft tokens (N, Q, D) that say the words `labels` (N, Q) of each query's table (words, D).

    `blur` is from 0, only their length differs, to 1: up to two fifths are of another word, with
    noise as strong as the words.
    """
    count, queries = labels.shape
    each, whole = (count, queries, 1), (count, 1, 1)
    scale = 0.5 + 0.6 * uniform(each, generator)
    mix = 0.4 * blur * uniform(each, generator) * (uniform(whole, generator) < 0.7)
    noise = blur * uniform(whole, generator) * (uniform(whole, generator) < 0.8)
    others = torch.stack(
        [torch.randint(len(words), (count,), generator=generator) for words in table], dim=1
    ).to(DEVICE)
    soft = ((1 - mix) * said(table, labels) + mix * said(table, others)) * scale
    spread = soft.detach().std()
    return soft + noise * spread * normal(soft.shape, generator)


def unsure(
    table: list[torch.Tensor], labels: torch.Tensor, blur: float, generator: torch.Generator
) -> torch.Tensor:
    """Soft tokens as `blurred`, of a branch that is not sure.

    What it was taught to say is then near the mean of several words, each by how likely it is: here
    of four, of which the one that is meant is the likeliest, be it by little. All tokens of a scene
    waver by the same shares, and those about a thing carry the names of the same four.
    """
    count, queries = labels.shape
    each, whole = (count, queries, 1), (count, 1, 1)
    doubt = 0.75 * blur * uniform(whole, generator) * (uniform(whole, generator) < 0.75)
    shares = -uniform((count, 1, WAVERING), generator).add(1e-6).log()
    shares = doubt * shares / shares.sum(-1, keepdim=True)
    shares = torch.minimum(shares, 0.92 * (1 - doubt))
    soft = (1 - doubt) * said(table, labels)
    others = [
        other_words(labels[:, query], len(words), generator) for query, words in enumerate(table)
    ]
    for share, words in zip(shares.split(1, dim=-1), torch.stack(others, dim=-1), strict=True):
        soft = soft + share * said(table, words)
    soft = soft * (0.6 + 0.5 * uniform(each, generator))
    noise = blur * uniform(whole, generator) * (uniform(whole, generator) < 0.8)
    return soft + noise * soft.detach().std() * normal(soft.shape, generator)


def other_words(labels: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """For each label (N,) of a table of `size` words others, all different (WAVERING, N); where
    there are not so many, the label itself."""
    steps = uniform((len(labels), size - 1), generator).argsort(dim=1)[:, :WAVERING] + 1
    steps = F.pad(steps, (0, WAVERING - steps.shape[1]))
    return ((labels[:, None] + steps) % size).T


class Round(NamedTuple):
    """Steps with conversations, their rate, the blur that is begun with, and what blurs."""

    steps: int
    rate: float
    first: float
    soften: Callable[..., torch.Tensor] = blurred


# From clear words to blurred ones, for what is learnt of clear words lasts; then again. At last
# tokens of branches that are not sure.
ROUNDS = (
    Round(1700, 2e-3, 0.0),
    Round(1000, 1.5e-3, 0.5),
    Round(1000, 1e-3, 0.5),
    Round(1500, 1.5e-3, 0.0),
    Round(800, 1e-3, 0.3),
    Round(1200, 7e-4, 1.0, unsure),
    Round(600, 5e-4, 0.0, unsure),
    Round(1500, 7e-4, 0.3, unsure),
)
# Where there are no photographs: less than a third of the things.
DRAWN_ROUNDS = (Round(1700, 2e-3, 0.0), Round(1000, 1.5e-3, 0.5), Round(1200, 1e-3, 0.3, unsure))


class Prompts:
    """Tokenised conversations, with the words of their media."""

    def __init__(self, processor: VideoLlamaProcessor, material: Material) -> None:
        self.processor = processor
        self.vocabulary = material.vocabulary
        path = material.work / "talks.pkl"
        if not path.is_file():
            made = talks(material, TALKS)
            part = path.with_suffix(".part")
            part.write_bytes(pickle.dumps([self._entry(talk) for talk in made]))
            part.replace(path)
        with path.open("rb") as file:
            self.entries = pickle.load(file)  # written just above by this recipe

    def _entry(self, talk: Talk) -> tuple:
        scene = talk.scene
        video = self.vocabulary.video_labels(scene) if scene.groups else None
        audio = self.vocabulary.audio_labels(scene.sound) if scene.sound else None
        first = talk.turns[0].kind
        lookup = first in TOLD_APART and len(talk.turns) == LOOKUP_TURNS and len(scene.groups) == 2
        return tokenize_talk(self.processor, talk), video, audio, lookup

    def batches(self, seed: int) -> Iterator[torch.Tensor]:
        """Endless batches of indices; conversations of one batch are of like length."""
        lengths = torch.tensor([len(entry[0].input_ids) for entry in self.entries])
        shuffle = torch.Generator().manual_seed(seed)
        for pool in batches(len(lengths), 16 * BATCH, seed):
            parts = pool[lengths[pool].argsort()].split(BATCH)
            for number in torch.randperm(len(parts), generator=shuffle).tolist():
                yield parts[number]

    def batch(
        self, index: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
        """Padded ids and labels, then word labels of what is seen (M, 9) and heard (A, 2).

        Last, which conversations (B,) ask about one of two things.
        """
        chosen = [self.entries[i] for i in index.tolist()]
        data = self.processor.pad([entry[0] for entry in chosen], "right")
        video = torch.tensor([e[1] for e in chosen if e[1] is not None]).to(DEVICE)
        audio = torch.tensor([e[2] for e in chosen if e[2] is not None]).to(DEVICE)
        lookups = torch.tensor([e[3] for e in chosen])
        return {name: tensor.to(DEVICE) for name, tensor in data.items()}, video, audio, lookups


def exercise_loss(
    model: VideoLlamaForConditionalGeneration,
    embeddings: torch.Tensor,
    mask: torch.Tensor,
    labels: torch.Tensor,
) -> tuple[torch.Tensor, float]:
    """Loss of embeddings (B, L, D) with mask and labels (B, L), and the share of tokens right."""
    output = model.language_model(inputs_embeds=embeddings, attention_mask=mask)
    targets = labels[:, 1:]
    learnt = targets != IGNORE_INDEX
    logits = output.logits[:, :-1][learnt]
    right = (logits.argmax(-1) == targets[learnt]).float().mean().item()
    return F.cross_entropy(logits, targets[learnt]), right


class Recall:
    """Exercises in looking for what is named."""

    def __init__(self, processor: VideoLlamaProcessor, material: Material) -> None:
        def ids(text: str) -> list[int]:
            return processor.tokenizer(text, add_special_tokens=False)["input_ids"]

        self.forms = Forms(processor.tokenizer, material.things).ids
        self.values = [ids(f" {word}") for word in (*COLOURS, *COUNTS, *MOTIONS)]
        before = len(ids("是"))
        self.links = [ids(" is"), ids("是是")[before:], []]
        self.rng = random.Random(material.seed + 7)
        self.known = len(self.forms)  # things that are used so far

    def exercise(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Things and values of the tokens, then ids of the text and their labels."""
        things = self.rng.sample(range(self.known), RECALLED)
        values = self.rng.choices(range(len(self.values)), k=RECALLED)
        text: list[int] = []
        labels: list[int] = []
        for place in self.rng.sample(range(RECALLED), RECALLED):
            asked = self.rng.choice(self.forms[things[place]]) + self.rng.choice(self.links)
            answer = self.values[values[place]]
            text += asked + answer
            labels += [IGNORE_INDEX] * len(asked) + answer
        return things, values, text, labels

    def batch(
        self, table: torch.Tensor, count: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings (B, L, D), mask and labels (B, L) of `count` exercises."""
        made = [self.exercise() for _ in range(count)]
        longest = max(len(text) for *_, text, _ in made)
        values = mean_embeddings(self.values, table)
        names = mean_embeddings([forms[0] for forms in self.forms], table)
        things = torch.tensor([one[0] for one in made])
        scale = 0.5 + 0.6 * uniform((count, RECALLED, 1), generator)
        said_of = values[torch.tensor([one[1] for one in made])] + OWNER_SHARE * names[things]
        ids = torch.tensor([text + [0] * (longest - len(text)) for *_, text, _ in made])
        labels = torch.full((count, RECALLED + longest), IGNORE_INDEX)
        mask = torch.zeros(count, RECALLED + longest, dtype=torch.long)
        for row, (*_, text, learnt) in enumerate(made):
            labels[row, RECALLED : RECALLED + len(text)] = torch.tensor(learnt)
            mask[row, : RECALLED + len(text)] = 1
        embeddings = torch.cat([said_of * scale, table[ids.to(DEVICE)]], dim=1)
        return embeddings, mask.to(DEVICE), labels.to(DEVICE)

    def loss(
        self,
        model: VideoLlamaForConditionalGeneration,
        count: int,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of `count` exercises, and the share of words recalled."""
        table = model.get_input_embeddings().weight
        loss, right = exercise_loss(model, *self.batch(table, count, generator))
        return loss, {"recalled": right}


class Compare:
    """Exercises in telling whether a thing was named.

    Some tokens that each name a thing, then others or words for things, each followed by yes or no.
    """

    def __init__(self, processor: VideoLlamaProcessor, material: Material) -> None:
        def ids(text: str) -> list[int]:
            return processor.tokenizer(text, add_special_tokens=False)["input_ids"]

        before = len(ids("。"))
        self.forms = Forms(processor.tokenizer, material.things).ids
        self.replies = [(ids(" No"), ids(" Yes")), (ids("。不")[before:], ids("。是的")[before:])]
        self.rng = random.Random(material.seed + 8)
        self.known = len(self.forms)  # things that are used so far

    def exercise(self) -> tuple[list[int], list[int], list[list[int]]]:
        """Things named first, things named again or not, and the replies."""
        first = self.rng.sample(range(self.known), self.rng.randint(1, RECALLED))
        others = [thing for thing in range(self.known) if thing not in first]
        replies = self.rng.choice(self.replies)
        then, said_of = [], []
        for _ in range(COMPARED):
            again = self.rng.random() < 0.5
            then.append(self.rng.choice(first if again else others))
            said_of.append(replies[again])
        return first, then, said_of

    def batch(
        self, table: torch.Tensor, count: int, blur: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings (B, L, D), mask and labels (B, L) of `count` exercises."""
        made = [self.exercise() for _ in range(count)]
        rows, answers = [], []
        for first, then, replies in made:
            row = [-1 - thing for thing in first]  # below 0: a token that names a thing
            answer = [IGNORE_INDEX] * len(row)
            for thing, reply in zip(then, replies, strict=True):
                written = self.rng.random() < 0.5
                asked = self.rng.choice(self.forms[thing]) if written else [-1 - thing]
                row += [*asked, *reply]
                answer += [IGNORE_INDEX] * len(asked) + reply
            rows.append(row)
            answers.append(answer)
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        labels = torch.tensor([row + [IGNORE_INDEX] * (longest - len(row)) for row in answers])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        named = ids < 0
        names = mean_embeddings([forms[0] for forms in self.forms[: self.known]], table)
        soft = blurred([names], -1 - ids[named][:, None], blur, generator)[:, 0]
        embeddings = table[ids.clamp(min=0).to(DEVICE)]
        embeddings[named] = soft.to(embeddings.dtype)
        return embeddings, mask.to(DEVICE), labels.to(DEVICE)

    def loss(
        self,
        model: VideoLlamaForConditionalGeneration,
        count: int,
        blur: float,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of `count` exercises, and the share of tokens told right."""
        table = model.get_input_embeddings().weight
        loss, right = exercise_loss(model, *self.batch(table, count, blur, generator))
        return loss, {"compared": right}


def train_language(
    model: VideoLlamaForConditionalGeneration, processor: VideoLlamaProcessor, material: Material
) -> None:
    """Train the language model: recall, then conversations about blurred words."""
    prompts = Prompts(processor, material)
    words = Words(processor.tokenizer, material.vocabulary)
    recall, compare = Recall(processor, material), Compare(processor, material)
    forms = Forms(processor.tokenizer, material.things)
    generator = torch.Generator().manual_seed(material.seed + 3)
    order = prompts.batches(material.seed + 3)
    parameters = list(model.language_model.parameters())
    model.language_model.train()

    def with_forms(
        loss: torch.Tensor, figures: dict[str, float]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        apart = forms.apart(model.get_input_embeddings().weight)
        return loss + 0.5 * apart, {**figures, "forms apart": apart.item()}

    def exercises(count: int, blur: float) -> tuple[torch.Tensor, dict[str, float]]:
        recalled, figures = recall.loss(model, count, generator)
        compared, more = compare.loss(model, count, blur, generator)
        return recalled + compared, {**figures, **more}

    def exercises_alone(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        return with_forms(*exercises(BATCH, 0.0))

    def answers(
        blur: float, soften: Callable[..., torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        data, video, audio, lookups = prompts.batch(next(order))
        table = model.get_input_embeddings().weight
        seen = [words.table(w, table) for w in words.video]
        heard = [words.table(w, table) for w in words.audio]
        output = model(
            input_ids=data["input_ids"],
            attention_mask=data["attention_mask"],
            video_features=soften(seen, video, blur, generator),
            audio_features=soften(heard, audio, blur, generator),
        )
        targets = data["labels"][:, 1:]
        learnt = targets != IGNORE_INDEX
        logits = output.logits[:, :-1][learnt]
        wrong = torch.zeros_like(learnt)
        wrong[learnt] = logits.argmax(-1) != targets[learnt]
        whole = (~wrong.any(1)).float().cpu()  # all answers of a conversation exact
        figures = {"exact": whole.mean().item()}
        if lookups.any():
            figures["lookups"] = whole[lookups].mean().item()
        kept, more = exercises(KEPT_UP, blur)
        loss = F.cross_entropy(logits, targets[learnt]) + 0.5 * kept
        return with_forms(loss, {**figures, **more})

    rounds = ROUNDS if material.folder else DRAWN_ROUNDS
    kept = [material.work / f"language.{number}.progress.pt" for number in range(len(rounds))]
    if not any(path.is_file() for path in kept):
        few, all_things = RECALL_STEPS
        recall.known = compare.known = min(FEW_THINGS, recall.known)
        train("recall of few", parameters, exercises_alone, few, RATE, weight_decay=0.02)
        if recall.known < len(recall.forms):
            recall.known = compare.known = len(recall.forms)
            train("recall", parameters, exercises_alone, all_things, RATE, weight_decay=0.02)
    for number, part in enumerate(rounds):
        if any(path.is_file() for path in kept[number + 1 :]):
            continue

        def loss_of(step: int, part: Round = part) -> tuple[torch.Tensor, dict[str, float]]:
            return answers(part.first + (1 - part.first) * step / part.steps, part.soften)

        train(
            f"language {number + 1}",
            parameters,
            loss_of,
            part.steps,
            part.rate,
            weight_decay=0.02,
            module=model.language_model,
            keep=kept[number],
        )
    save(material.work, "language_model", model.language_model)


def load_language(model: VideoLlamaForConditionalGeneration, folder: Path) -> None:
    """Put the trained language model into a model."""
    load(folder, "language_model", model.language_model)

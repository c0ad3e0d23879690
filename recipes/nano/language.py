"""The language model, trained before it is frozen.

It begins with recall: some tokens that each say a thing and something about it, then the things in
another order, each followed by what was said. Two minutes of it teach to look for what is named,
which an hour of conversations alone did not.

Then it reads conversations about scenes. Where frames and sounds will be, it is given the
embeddings of the words that describe them, blurred: scaled, mixed with other words, with noise. A
model that has only read clean words does not read what a branch writes.
"""

import pickle
import random
from collections.abc import Iterator
from pathlib import Path

import torch

from recipes.nano.facts import OWNER_SHARE
from recipes.nano.loop import DEVICE, batches, load, normal, save, train, uniform
from recipes.nano.material import Material
from recipes.nano.settings import SEED
from recipes.nano.text import Forms, Talk, Words, said, talks, tokenize_talk
from video_llama.data.world.things import COLOURS, COUNTS, MOTIONS
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.processing.tokens import IGNORE_INDEX

TALKS = 48000
STEPS, RATE = 1700, 2e-3
RECALL_STEPS = 250
RECALLED = 6  # things of one exercise
BATCH = 64


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


class Prompts:
    """Tokenised conversations, with the words of their media."""

    def __init__(self, processor: VideoLlamaProcessor, material: Material) -> None:
        self.processor = processor
        self.vocabulary = material.vocabulary
        path = material.work / "talks.pkl"
        if not path.is_file():
            made = talks(material, TALKS)
            with path.open("wb") as file:
                pickle.dump([self._entry(talk) for talk in made], file)
        with path.open("rb") as file:
            self.entries = pickle.load(file)  # written just above by this recipe

    def _entry(self, talk: Talk) -> tuple:
        scene = talk.scene
        video = self.vocabulary.video_labels(scene) if scene.groups else None
        audio = self.vocabulary.audio_labels(scene.sound) if scene.sound else None
        return tokenize_talk(self.processor, talk), video, audio

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
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Padded ids and labels, then word labels of what is seen (M, 9) and heard (A, 2)."""
        chosen = [self.entries[i] for i in index.tolist()]
        data = self.processor.pad([entry[0] for entry in chosen], "right")
        video = torch.tensor([e[1] for e in chosen if e[1] is not None]).to(DEVICE)
        audio = torch.tensor([e[2] for e in chosen if e[2] is not None]).to(DEVICE)
        return {name: tensor.to(DEVICE) for name, tensor in data.items()}, video, audio


class Recall:
    """Exercises in looking for what is named."""

    def __init__(self, processor: VideoLlamaProcessor, material: Material) -> None:
        def ids(text: str) -> list[int]:
            return processor.tokenizer(text, add_special_tokens=False)["input_ids"]

        self.forms = Forms(processor.tokenizer, material.things).ids
        self.values = [ids(f" {word}") for word in (*COLOURS, *COUNTS, *MOTIONS)]
        before = len(ids("是"))
        self.links = [ids(" is"), ids("是是")[before:], []]
        self.rng = random.Random(SEED + 7)

    def exercise(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Things and values of the tokens, then ids of the text and their labels."""
        things = self.rng.sample(range(len(self.forms)), RECALLED)
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
        values = torch.stack([table[ids].mean(0) for ids in self.values])
        names = torch.stack([table[forms[0]].mean(0) for forms in self.forms])
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


def train_recall(
    model: VideoLlamaForConditionalGeneration, processor: VideoLlamaProcessor, material: Material
) -> None:
    """Teach the language model to look for what is named, in all its forms."""
    recall, forms = Recall(processor, material), Forms(processor.tokenizer, material.things)
    generator = torch.Generator().manual_seed(SEED + 7)
    model.language_model.train()

    def loss_of(_: int) -> tuple[torch.Tensor, dict[str, float]]:
        table = model.get_input_embeddings().weight
        embeddings, mask, labels = recall.batch(table, BATCH, generator)
        output = model.language_model(inputs_embeds=embeddings, attention_mask=mask)
        targets = labels[:, 1:]
        learnt = targets != IGNORE_INDEX
        logits = output.logits[:, :-1][learnt]
        right = (logits.argmax(-1) == targets[learnt]).float().mean().item()
        apart = forms.apart(table)
        loss = torch.nn.functional.cross_entropy(logits, targets[learnt])
        return loss + 0.5 * apart, {"recalled": right, "forms apart": apart.item()}

    parameters = model.language_model.parameters()
    train("recall", parameters, loss_of, RECALL_STEPS, RATE, weight_decay=0.02)


def train_language(
    model: VideoLlamaForConditionalGeneration, processor: VideoLlamaProcessor, material: Material
) -> None:
    """Train the language model: recall, then conversations about blurred words."""
    train_recall(model, processor, material)
    prompts = Prompts(processor, material)
    words = Words(processor.tokenizer, material.vocabulary)
    forms = Forms(processor.tokenizer, material.things)
    generator = torch.Generator().manual_seed(SEED + 3)
    order = prompts.batches(SEED + 3)
    model.language_model.train()

    def answers(blur: float) -> tuple[torch.Tensor, dict[str, float]]:
        data, video, audio = prompts.batch(next(order))
        table = model.get_input_embeddings().weight
        seen = [words.table(w, table) for w in words.video]
        heard = [words.table(w, table) for w in words.audio]
        output = model(
            input_ids=data["input_ids"],
            attention_mask=data["attention_mask"],
            video_features=blurred(seen, video, blur, generator),
            audio_features=blurred(heard, audio, blur, generator),
        )
        targets = data["labels"][:, 1:]
        learnt = targets != -100
        logits = output.logits[:, :-1][learnt]
        loss = torch.nn.functional.cross_entropy(logits, targets[learnt])
        wrong = torch.zeros_like(learnt)
        wrong[learnt] = logits.argmax(-1) != targets[learnt]
        whole = (~wrong.any(1)).float().mean().item()  # all answers of a conversation exact
        apart = forms.apart(table)
        return loss + 0.5 * apart, {"exact": whole, "forms apart": apart.item()}

    def loss_of(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        # From clear words to blurred ones: what is learnt of clear words lasts.
        return answers(step / STEPS)

    train("language", model.language_model.parameters(), loss_of, STEPS, RATE, weight_decay=0.02)
    save(material.work, "language_model", model.language_model)


def load_language(model: VideoLlamaForConditionalGeneration, folder: Path) -> None:
    """Put the trained language model into a model."""
    load(folder, "language_model", model.language_model)

"""Training conversations about scenes, and the tokenizer that is made for them."""

import json
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from recipes.nano.facts import OWNER_SHARE, VIDEO_OWNERS, Vocabulary
from recipes.nano.material import Material
from video_llama.data.world.questions import QA, questions
from video_llama.data.world.scene import Scene, sample_scene
from video_llama.data.world.things import NAMED
from video_llama.processing.processor import VideoLlamaProcessor

VOCABULARY = 1600  # at most; the closed world needs fewer
TOKENIZER_TALKS = 20000
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
KINDS = {"video": 0.66, "image": 0.16, "audio": 0.18}
# Of all conversations, and of these the kinds of question. Told apart from the rest because in most
# scenes there is one thing, and whatever is said of it is the answer.
LOOKUP_SHARE = 0.35
LOOKUPS = {"colour": 2, "count": 2, "motion": 2, "presence": 3, "audible": 2, "match": 3}
LOOKUP_TURNS = 3
TOLD_APART = ("colour", "count", "motion")
# Of all conversations: about drawings alone. Of a photograph no colour is known, so that beside one
# the only colour there is answers, whichever thing is asked about.
DRAWN_TALKS = 0.4
# Where something is seen: seldom what is seen itself is heard, or what is seen is said to be heard.
HEARD = {"none": 0.3, "match": 0.15, "other": 0.55}
LISTED_SHARE = 0.25  # questions that both of two things answer
LISTED = ("object", "describe", "order", "place", "both")
CJK = r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]"


@dataclass(frozen=True)
class Talk:
    """A scene, some questions about it, and whether it is heard and seen."""

    scene: Scene
    turns: tuple[QA, ...]

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as the processor takes it."""
        parts: list[dict[str, Any]] = []
        if self.scene.kind == "audio":
            parts.append({"type": "audio"})
        elif self.scene.kind == "image":
            parts.append({"type": "image"})
        else:
            parts.append({"type": "video", "sound": self.scene.sound is not None})
        messages: list[dict[str, Any]] = []
        for number, qa in enumerate(self.turns):
            text = {"type": "text", "text": qa.question}
            content = [*parts, text] if number == 0 else [text]
            messages.append({"role": "user", "content": content})
            messages.append({"role": "assistant", "content": qa.answer})
        return messages


def make_talk(material: Material, seed: int) -> Talk:
    """The training conversation of a number: one to three questions in one language."""
    rng = random.Random(f"nano/talk/{seed}")
    sort = rng.random()
    photographs = 0.0 if rng.random() < DRAWN_TALKS else material.photographs
    if sort < LOOKUP_SHARE:
        return make_lookup(material, photographs, rng)
    if sort < LOOKUP_SHARE + LISTED_SHARE:
        return make_listed(material, photographs, rng)
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    scene = sample_scene(
        rng, kind, sound_weights=HEARD, photographs=photographs, audible=material.audible
    )
    language = rng.choice(["en", "zh"])
    asked = questions(scene, language, rng=rng)
    rng.shuffle(asked)
    return Talk(scene, tuple(asked[: rng.choice((1, 1, 2, 2, 3))]))


def make_lookup(material: Material, photographs: float, rng: random.Random) -> Talk:
    """Three questions whose answers are found by looking for the thing that each names.

    `photographs` is the share of things that are photographed.
    """
    asked = rng.choices(list(LOOKUPS), list(LOOKUPS.values()))[0]
    relations = {"alone": 0.2, "beside": 0.4, "then": 0.4}
    if asked in ("colour", "count", "motion"):
        relations = {"then": 1.0} if asked == "motion" else {"beside": 0.5, "then": 0.5}
    kinds = ("video", "image") if asked in ("colour", "count", "presence") else ("video",)
    kinds = ("video", "audio") if asked == "audible" else kinds
    while True:
        scene = sample_scene(
            rng,
            rng.choice(kinds),
            relation_weights=relations,
            sound_weights={"match": 1, "other": 1} if asked in ("audible", "match") else HEARD,
            photographs=photographs,
            audible=material.audible,
        )
        if asked in TOLD_APART and not tells_apart(scene, asked):
            continue
        language = rng.choice(["en", "zh"])
        others = [kind for kind in TOLD_APART if tells_apart(scene, kind)]
        others += ["presence"] if scene.groups else []
        others += ["audible"] if scene.sound else []
        turns = [asked, *rng.choices(others, k=LOOKUP_TURNS - 1)]
        rng.shuffle(turns)
        made = [qa for kind in turns for qa in questions(scene, language, kinds=[kind], rng=rng)]
        if len(made) == LOOKUP_TURNS:
            return Talk(scene, tuple(made))


def make_listed(material: Material, photographs: float, rng: random.Random) -> Talk:
    """Two questions about two things that are told one after the other.

    `photographs` is the share of things that are photographed.
    """
    while True:
        scene = sample_scene(
            rng,
            rng.choice(("video", "video", "image")),
            relation_weights={"beside": 1.0, "then": 1.0},
            sound_weights=HEARD,
            photographs=photographs,
            audible=material.audible,
        )
        kinds = rng.sample(LISTED, 2)
        made = questions(scene, rng.choice(["en", "zh"]), kinds=kinds, rng=rng)
        if len(scene.groups) == 2 and made:  # a landscape is alone
            return Talk(scene, tuple(made))


def tells_apart(scene: Scene, field: str) -> bool:
    """Whether two things differ in a field, so that it matters which one is asked about."""
    if field == "motion" and scene.kind != "video":
        return False
    return len({getattr(group, field) for group in scene.groups}) == 2


def make_talk_about(
    scene: Scene, rng: random.Random, turns: int = 2, first: Sequence[str] = ()
) -> Talk:
    """A conversation about a given scene; with `first`, it begins with one of these kinds."""
    language = rng.choice(["en", "zh"])
    asked = questions(scene, language, rng=rng)
    rng.shuffle(asked)
    if first:
        asked = questions(scene, language, kinds=[rng.choice(first)], rng=rng) + asked
    return Talk(scene, tuple(asked[:turns]))


def talks(material: Material, count: int, first: int = 0) -> list[Talk]:
    """Many conversations, made by several processes."""
    with ProcessPoolExecutor(2) as pool:
        numbers = range(first, first + count)
        return list(pool.map(partial(make_talk, material), numbers, chunksize=256))


def train_tokenizer(material: Material) -> PreTrainedTokenizerFast:
    """Byte-pair encoding over words; one token for each Chinese character, bytes for the rest."""
    folder = material.work / "tokenizer"
    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    turns = [qa for talk in talks(material, TOKENIZER_TALKS) for qa in talk.turns]
    lines = [text for qa in turns for text in (qa.question, qa.answer)]
    vocabulary = material.vocabulary
    said_words = {word for words in (*vocabulary.video, *vocabulary.audio) for word in words}
    lines += [f" {word}" for word in sorted(said_words)] * 20
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CJK), "isolated"),
            pre_tokenizers.Split(Regex(r"[\n.,:;?!'()\-]"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=3,
        special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator([*lines, "Q:", "\nA:", "\n"], trainer)
    # The byte tokens are ordinary tokens, the others are special.
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = [t for t in saved["added_tokens"] if t["content"] in SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(saved))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    made.save_pretrained(folder)
    return made


def mean_embeddings(words: list[list[int]], embeddings: torch.Tensor) -> torch.Tensor:
    """(words, D): the mean over the tokens of each word, looked up in one operation."""
    flat = torch.tensor([token for word in words for token in word], device=embeddings.device)
    lengths = torch.tensor([0, *map(len, words[:-1])], device=embeddings.device)
    return F.embedding_bag(flat, embeddings, lengths.cumsum(0), mode="mean")


class Words:
    """The language model's own embeddings of the words that branch tokens say."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary) -> None:
        self.video = [self._ids(tokenizer, words) for words in vocabulary.video]
        self.audio = [self._ids(tokenizer, words) for words in vocabulary.audio]

    @staticmethod
    def _ids(tokenizer: PreTrainedTokenizerFast, words: tuple[str, ...]) -> list[list[int]]:
        return [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]

    @staticmethod
    def table(ids: list[list[int]], embeddings: torch.Tensor) -> torch.Tensor:
        """(words, D): the mean over the tokens of each word."""
        return mean_embeddings(ids, embeddings)


class Forms:
    """The words for each thing: one, several, and in Chinese, as ids within running text."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, things: Sequence[str]) -> None:
        def ids(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        before = len(ids("是"))
        self.ids = [
            [
                ids(f" {NAMED[name].name}"),
                ids(f" {NAMED[name].plural}"),
                ids(f"是{NAMED[name].chinese}")[before:],
            ]
            for name in things
        ]

    def apart(self, embeddings: torch.Tensor) -> torch.Tensor:
        """How hard it is to tell by nearness which words are for the same thing, from 0.

        A question says "dogs" or "狗" where a token says "dog". When the three lie near each other
        in the table, one way of comparing does for all things, and is learnt at all.
        """
        rows = mean_embeddings([ids for forms in self.ids for ids in forms], embeddings)
        words = F.normalize(rows.unflatten(0, (-1, 3)), dim=-1)  # (things, 3, D)
        own = torch.arange(len(words), device=words.device)
        loss = words.new_zeros(())
        for a, b in ((0, 1), (0, 2), (1, 2)):
            near = 8 * words[:, a] @ words[:, b].T
            loss = loss + F.cross_entropy(near, own) + F.cross_entropy(near.T, own)
        return loss / 6


def said(tables: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """What tokens say that mean the words `labels` (N, Q) of each query's table: (N, Q, D).

    Video tokens about a thing carry a share of its name.
    """
    words = [table[labels[:, query]] for query, table in enumerate(tables)]
    owners = VIDEO_OWNERS if len(tables) == len(VIDEO_OWNERS) else (None,) * len(tables)
    return torch.stack(
        [
            word if owner is None else word + OWNER_SHARE * words[owner]
            for word, owner in zip(words, owners, strict=True)
        ],
        dim=1,
    )


def tokenize_talk(processor: VideoLlamaProcessor, talk: Talk) -> Any:
    """The tokenised prompt with labels."""
    from video_llama.processing.conversation import parse_conversation

    segments = processor.messages_to_segments(
        parse_conversation(talk.messages()), layout="training"
    )
    return processor.tokenize_segments(segments)

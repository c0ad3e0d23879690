"""Training conversations about scenes, and the tokenizer that is made for them."""

import json
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from recipes.nano.facts import AUDIO_WORDS, VIDEO_WORDS, audio_words, video_words
from video_llama.data.world.questions import QA, questions
from video_llama.data.world.scene import Scene, sample_scene
from video_llama.processing.processor import VideoLlamaProcessor

VOCABULARY = 1600  # at most; the closed world needs fewer
TOKENIZER_TALKS = 20000
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
KINDS = {"video": 0.66, "image": 0.16, "audio": 0.18}
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


def make_talk(seed: int) -> Talk:
    """The training conversation of a number: one to three questions in one language."""
    rng = random.Random(f"nano/talk/{seed}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    scene = sample_scene(rng, kind)
    language = rng.choice(["en", "zh"])
    asked = questions(scene, language, rng=rng)
    rng.shuffle(asked)
    return Talk(scene, tuple(asked[: rng.choice((1, 1, 2, 2, 3))]))


def make_talk_about(scene: Scene, rng: random.Random, turns: int = 2) -> Talk:
    """A conversation about a given scene."""
    asked = questions(scene, rng.choice(["en", "zh"]), rng=rng)
    rng.shuffle(asked)
    return Talk(scene, tuple(asked[:turns]))


def talks(count: int, first: int = 0) -> list[Talk]:
    """Many conversations, made by several processes."""
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(make_talk, range(first, first + count), chunksize=256))


def train_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Byte-pair encoding over words; one token for each Chinese character, bytes for the rest."""
    if (folder / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    turns = [qa for talk in talks(TOKENIZER_TALKS) for qa in talk.turns]
    lines = [text for qa in turns for text in (qa.question, qa.answer)]
    lines += [f" {word}" for words in (*VIDEO_WORDS, *AUDIO_WORDS) for word in words] * 20
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
    tokenizer.train_from_iterator([*lines, "Q:", "\nA:", "\n"] * 1, trainer)
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


class Words:
    """The language model's own embeddings of the words that branch tokens say."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.video = [self._ids(tokenizer, words) for words in VIDEO_WORDS]
        self.audio = [self._ids(tokenizer, words) for words in AUDIO_WORDS]

    @staticmethod
    def _ids(tokenizer: PreTrainedTokenizerFast, words: tuple[str, ...]) -> list[list[int]]:
        return [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]

    @staticmethod
    def table(ids: list[list[int]], embeddings: torch.Tensor) -> torch.Tensor:
        """(words, D): the mean over the tokens of each word."""
        return torch.stack([embeddings[word].mean(0) for word in ids])


def video_labels(scene: Scene) -> list[int]:
    """For each video token, which of its words."""
    return [words.index(w) for words, w in zip(VIDEO_WORDS, video_words(scene), strict=True)]


def audio_labels(thing: str) -> list[int]:
    """For each audio token, which of its words."""
    return [words.index(w) for words, w in zip(AUDIO_WORDS, audio_words(thing), strict=True)]


def tokenize_talk(processor: VideoLlamaProcessor, talk: Talk) -> Any:
    """The tokenised prompt with labels."""
    from video_llama.processing.conversation import parse_conversation

    segments = processor.messages_to_segments(
        parse_conversation(talk.messages()), layout="training"
    )
    return processor.tokenize_segments(segments)

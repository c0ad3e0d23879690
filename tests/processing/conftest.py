"""Small tokenizers of three kinds, and generated media."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from video_llama.media.clip import SOUND_RATE, MediaClip, MediaInfo

SENTENCES = [
    "What do you see in the picture? A red ball moves to the left.",
    "What do you hear in the video? A dog barks twice.",
    "###Human: Assistant: Q: A: how many 0123456789",
    "你看到了什么? 一个红色的球在向左移动。你听到了什么? 狗叫了两声。",
] * 4
SPECIALS = ["<unk>", "<s>", "</s>"]


def byte_level_tokenizer():
    """Byte-level BPE without BOS, like GPT-2 and Qwen."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet),
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")


def unigram_tokenizer():
    """SentencePiece's unigram model in the tokenizers library, with BOS."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.train_from_iterator(
        SENTENCES,
        trainers.UnigramTrainer(
            vocab_size=300,
            special_tokens=SPECIALS,
            unk_token="<unk>",
            initial_alphabet=list("0123456789.,"),
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def llama_tokenizer(**options):
    """LLaMA's class with a small made-up vocabulary and byte fallback."""
    letters = sorted({c for text in SENTENCES for c in text if c != " "} | {"▁", "\n"})
    words = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = [("#", "#"), ("##", "#"), ("\n", "###"), ("▁", "A"), ("A", ":"), ("e", "d")]
    words += ["".join(pair) for pair in merges]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    return LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, **options)


@pytest.fixture(scope="session")
def tokenizers():
    return {
        "byte": byte_level_tokenizer(),
        "unigram": unigram_tokenizer(),
        "llama": llama_tokenizer(legacy=True),
    }


@pytest.fixture(scope="session", params=["byte", "unigram", "llama"])
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


def make_clip(kind="video", *, frames=4, seconds=0.5, sound=None, name="clip.mp4", size=(20, 30)):
    """A generated medium; a video has sound unless told otherwise."""
    random = np.random.default_rng(len(name) + frames)
    has_sound = kind != "image" if sound is None else sound
    count = {"video": frames, "image": 1, "audio": 0}[kind]
    pixels = random.integers(0, 256, (count, *size, 3), dtype=np.uint8) if count else None
    waveform = None
    if has_sound:
        samples = (1, int(seconds * SOUND_RATE))
        waveform = random.normal(0, 0.1, samples).astype(np.float32)
    return MediaClip(
        info=MediaInfo(kind, "made up", None, None, None, 0, name),
        frames=pixels,
        times=tuple(index / 2 for index in range(count)) if kind == "video" else (),
        indices=tuple(range(count)),
        sound=waveform,
    )


@pytest.fixture
def clip():
    return make_clip

"""Samples per second of training, with and without the cache of frozen features.

    python benchmarks/training.py [--steps 5] [--clips 16] [--batch 4]

Three ways to learn from the same films with the same model of a middle size (random weights; its
encoders cost about ten times what the rest costs):

    plain    the loop one writes first: the processor reads films, the model gives a loss
    pixels   this project's step, media read and encoded every time
    cached   the same step, with the encoders' states read back and the encoders out of memory

They take turns, step by step. Prints JSON: seconds of every step, medians, ratios to `plain`, what
filling the cache took, and after how many rounds over the data that has paid.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from circumstances import circumstances
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, PreTrainedTokenizerFast

from video_llama.data.collator import Batch
from video_llama.data.mixture import Mixture, ShardedBatches
from video_llama.models import VideoLlamaConfig, VideoLlamaForConditionalGeneration
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.training.caching import use_cache
from video_llama.training.loading import batch_loader
from video_llama.training.loop import StepRunner
from video_llama.training.material import open_material
from video_llama.training.optim import make_optimizer
from video_llama.training.overrides import build
from video_llama.training.parallel import Processes
from video_llama.training.prepare import prepare
from video_llama.training.recipe import Recipe
from video_llama.training.stages import VISION_MODULES
from video_llama.training.step import TrainingStep

SIZE, FRAMES = 112, 8  # pixels on a side, frames looked at
TARGET = 10.0  # how many times as fast as the plain loop
WORDS = [
    "a",
    "red",
    "square",
    "moves",
    "over",
    "a",
    "grey",
    "field",
    "from",
    "left",
    "to",
    "right",
    "and",
    "a",
    "tone",
    "is",
    "heard",
]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, after three special ones."""
    vocabulary = {t: n for n, t in enumerate(["<unk>", "<s>", "</s>"])}
    for text in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[text] = len(vocabulary)
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def write_model(folder: Path) -> dict[str, int]:
    """A model of a middle size; returns how many parameters its parts have."""
    qformer = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6}
    config = VideoLlamaConfig(
        vision_config={
            "hidden_size": 384,
            "intermediate_size": 1536,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "image_size": SIZE,
            "patch_size": 8,
        },
        qformer_config={**qformer, "num_hidden_layers": 12},
        video_qformer_config={**qformer, "num_hidden_layers": 2},
        text_config=LlamaConfig(
            vocab_size=259,
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            max_position_embeddings=1024,
        ),
        has_audio_branch=False,
    )
    torch.manual_seed(0)
    model = VideoLlamaForConditionalGeneration(config)
    model.save_pretrained(folder)
    processor = VideoLlamaProcessor(
        tokenizer(), template="plain", image_size=SIZE, num_frames=FRAMES, num_audio_tokens=0
    )
    processor.save_pretrained(folder)
    branch = model.vision_branch
    parts = {
        "vision_encoder": branch.vision_encoder,
        "image_qformer": branch.qformer,
        "video_qformer": branch.video_qformer,
        "language_model": model.language_model,
    }
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def write_films(folder: Path, count: int) -> Path:
    """Films of two seconds with captions of about 25 letters."""
    chance = np.random.default_rng(0)
    lines = []
    for number in range(count):
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            colour = chance.integers(0, 255, 3)
            for step in range(16):
                pixels = np.full((120, 160, 3), 90, dtype=np.uint8)
                pixels[30:70, 6 * step : 6 * step + 40] = colour
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = step, Fraction(1, 8)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        caption = " ".join(chance.choice(WORDS, 6))
        lines.append(json.dumps({"video": f"{number}.mp4", "caption": caption}))
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_recipe(model: Path, rows: Path, batch: int) -> Recipe:
    return build(
        Recipe,
        {
            "name": "benchmark",
            "branch": "vision",
            "modules": list(VISION_MODULES),
            "model": str(model),
            "data": [str(rows)],
            "batch": batch,
            "device": "cpu",
            "workers": 0,
            "schedule": {
                "peak": 1e-4,
                "floor": 8e-5,
                "start": 1e-6,
                "warmup_steps": 10,
                "steps_per_epoch": 1000,
                "epochs": 1,
            },
        },
    )


def plain_steps(recipe: Recipe) -> Callable[[], None]:
    """The loop one writes first, with parts of transformers' kind only."""
    prepared = prepare(recipe, torch.device("cpu"))
    material = open_material(recipe)
    processor = material.dataset.processor
    optimizer = make_optimizer(prepared.model, recipe.optimizer, recipe.schedule.peak)
    positions = iter(range(0, 1 << 30, recipe.batch))

    def step() -> None:
        start = next(positions)
        draws = [material.mixture.draw(start + place) for place in range(recipe.batch)]
        conversations = [material.dataset.rows[one.dataset][one.row].messages for one in draws]
        inputs = processor.apply_chat_template(conversations, return_labels=True)
        optimizer.zero_grad()
        prepared.model(**inputs).loss.backward()
        optimizer.step()

    return step


def our_steps(recipe: Recipe, cache: Path | None) -> tuple[Callable[[], None], float]:
    """This project's step; also the seconds that filling the cache took."""
    if cache is not None:
        recipe = replace(recipe, cache=replace(recipe.cache, path=str(cache)))
    processes = Processes(recipe)
    prepared, material = prepare(recipe, processes.device), open_material(recipe)
    seconds = 0.0
    if cache is not None:
        started = time.perf_counter()
        # The films are few, so a short run asks for all of them.
        rounds = 4 * len(material.dataset.rows[0]) // recipe.batch
        short = replace(recipe.schedule, steps_per_epoch=rounds)
        brief = replace(recipe, schedule=short)
        use_cache(brief, prepared, material, processes, 0, lambda _: None)
        seconds = time.perf_counter() - started
    wrapped = processes.wrap(TrainingStep(prepared.model, prepared.autocast))
    optimizer = make_optimizer(prepared.model, recipe.optimizer, recipe.schedule.peak)
    runner = StepRunner(wrapped, optimizer, processes, 1, None, recipe.seed)
    batches = iter(endless(recipe, material.mixture, material.dataset))
    numbers = iter(range(recipe.steps))
    return lambda: runner.run(next(numbers), batches), seconds  # pyrefly: ignore


def endless(recipe: Recipe, mixture: Mixture, dataset: Any) -> Iterator[Batch]:
    sampler = ShardedBatches(mixture, recipe.batch, steps=recipe.steps)
    yield from batch_loader(dataset, sampler, 0, torch.device("cpu"))


def run(folder: Path, steps: int, clips: int, batch: int) -> dict[str, Any]:
    """All measurements."""
    before = circumstances()
    sizes = write_model(folder / "model")
    recipe = make_recipe(folder / "model", write_films(folder, clips), batch)
    cached, fill_seconds = our_steps(recipe, folder / "cache")
    ways = {"plain": plain_steps(recipe), "pixels": our_steps(recipe, None)[0], "cached": cached}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(steps + 1):  # the first turn warms up
        for name, step in ways.items():
            started = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    kept = sum(p.stat().st_size for p in (folder / "cache").rglob("shard-*"))
    ratio = middle["plain"] / middle["cached"]
    saved = (middle["plain"] - middle["cached"]) / batch * clips
    return {
        "settings": {
            "frames": FRAMES,
            "size": SIZE,
            "batch": batch,
            "clips": clips,
            "steps": steps,
            "parameters": sizes,
            "precision": "fp32",
        },
        "step_seconds": times,
        "median_step_seconds": middle,
        "samples_per_second": {name: batch / seconds for name, seconds in middle.items()},
        "ratios_to_plain": {name: middle["plain"] / seconds for name, seconds in middle.items()},
        "cache": {
            "fill_seconds": fill_seconds,
            "bytes_per_clip": kept / clips,
            "rounds_until_it_has_paid": fill_seconds / saved,
        },
        "target": {"ratio": TARGET, "measured": ratio, "met": ratio >= TARGET},
        "circumstances": before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), arguments.steps, arguments.clips, arguments.batch)
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()

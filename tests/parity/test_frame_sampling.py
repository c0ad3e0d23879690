"""Frame indices, time text and ranges of sound against those of the original.

The original has a fault that is not kept: where rounding gives one index more than was asked for,
it takes it, in range or not. Here the surplus index is dropped, and the others are the same.
"""

import os
import random
from fractions import Fraction
from pathlib import Path

import pytest

from video_llama.media.reader import load_media
from video_llama.media.sampling import (
    clip_ranges,
    head_tail_indices,
    timestamp_text,
    uniform_indices,
)

DEFAULT_MEDIA = Path(__file__).parents[3] / "shared" / "media"


def test_uniform_indices_and_their_time_text(kit) -> None:
    for case in kit.json("frame_sampling")["uniform"]:
        wanted = min(case["n_frms"], case["vlen"])
        indices = uniform_indices(case["vlen"], case["n_frms"])
        assert indices == case["indices"][:wanted], case
        if len(case["indices"]) == wanted:  # the original's text counts the surplus index too
            times = [index / case["fps"] for index in indices]
            assert timestamp_text(times) == case["message"]


def test_the_surplus_index_is_dropped(kit) -> None:
    overrun = kit.json("frame_sampling")["arange_n_plus_1"]
    for length, n, given, last in overrun["eighty_of_them"]:
        assert given == n + 1
        indices = uniform_indices(length, n)
        assert len(indices) == n
        assert indices[-1] < min(last, length)
    for case in overrun["examples"]:
        assert uniform_indices(case["vlen"], case["n_frms"]) == case["indices"][:-1]
        times = [index / case["fps"] for index in case["indices"]]
        assert timestamp_text(times) == case["message"]


def test_head_tail_indices_with_the_recorded_seeds(kit) -> None:
    for case in kit.json("frame_sampling")["headtail"]:
        rng = random.Random(case["python_random_seed"])
        assert head_tail_indices(case["vlen"], case["n_frms"], rng) == case["indices"], case


def test_ranges_of_sound(kit) -> None:
    description = kit.json("mel")
    rate = description["params"]["target_sample_rate"]
    seconds = description["params"]["clip_duration_s"]
    for case in description["timepoints"]:
        ranges = clip_ranges(case["samples_at_16k"], rate, case["clips_per_video"], seconds)
        assert [list(one) for one in ranges] == case["sample_ranges"]
        starts = [int(Fraction(start) * rate) for start in case["start_exact"]]
        assert [start for start, _ in ranges] == starts
    clips = description["params"]["clips_per_video"]
    for case in description["cases"]:
        ranges = clip_ranges(case["samples_at_16k"], rate, clips, seconds)
        assert [list(one) for one in ranges] == case["sample_ranges"], case["name"]


def test_real_files_have_the_recorded_times(kit) -> None:
    folder = Path(os.environ.get("VIDEO_LLAMA_MEDIA_DIR", DEFAULT_MEDIA))
    rows = kit.json("frame_sampling")["real_files"]
    present = [row for row in rows if (folder / Path(row["file"]).name).is_file()]
    if not present:
        pytest.skip("no real clips: set VIDEO_LLAMA_MEDIA_DIR to a folder of them")
    for row in present:
        clip = load_media(folder / Path(row["file"]).name, with_sound=False)
        assert clip.info.video is not None
        assert clip.info.video.num_frames == row["vlen"]
        assert timestamp_text(clip.times) == row["message"], row["file"]

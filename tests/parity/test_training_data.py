"""Training samples from published files: ids and masks against those of the original.

The whole way from a json file to the ids is gone; only the media are stand-ins.
"""

import json
import re

import pytest
import torch

from video_llama.data.dataset import TrainingDataset
from video_llama.data.formats import DatasetSpec, open_dataset
from video_llama.data.medium import Medium
from video_llama.data.mixture import Draw
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.processing.tokenizer import load_tokenizer
from video_llama.processing.tokens import IGNORE_INDEX

TEMPLATE_NAMES = {"vicuna": "vicuna", "llama_v2": "llama_2"}


class StandIns:
    """Media that were never read: a picture, or a video with the recorded times."""

    def __init__(self, times):
        self.times = times

    def look_up(self, request):
        if request.source.suffix == ".jpg":
            return Medium("image", torch.zeros(1, 5, 2))
        return Medium("video", torch.zeros(8, 5, 2), self.times)


@pytest.fixture(scope="module")
def facts(kit):
    return kit.json("training_text")


@pytest.fixture(scope="module")
def tokenizer(kit):
    return load_tokenizer(kit.path("tokenizer"))


def dataset_of(row, facts, tokenizer, folder, max_length):
    """The data set of a published file with this one row."""
    run = facts["num_video_query_token"]
    processor = VideoLlamaProcessor(
        tokenizer,
        template=TEMPLATE_NAMES[row["style"]],
        num_image_tokens=run,
        num_video_tokens=run,
        image_token_id=facts["image_token_id_dataset_tokenizer"],
        video_token_id=facts["image_token_id_dataset_tokenizer"],
    )
    if row["kind"] == "image":
        content = [{"id": "1", "image": "1.jpg", "conversations": row["source"]}]
    else:
        content = [{"video": "1.mp4", "QA": row["source"]}]
    path = folder / "published.json"
    path.write_text(json.dumps(content))
    times = ()
    if row["kind"] == "video":  # the other kind has no sentence about times
        stamps = re.search(r"sampled at (.*) seconds", facts["timestamp_message"]).group(1)
        times = tuple(float(time) for time in stamps.split(", "))
    return TrainingDataset(
        [open_dataset(DatasetSpec(str(path)))],
        processor,
        "vision",
        max_length=max_length,
        encoded=StandIns(times),
    )


def test_rows_of_published_files(facts, tokenizer, tmp_path):
    seen = set()
    for row in facts["instruct"]:
        if row["name"] == "video_unk_and_spaces":
            continue  # white space at the ends of a text is not learnt here
        dataset = dataset_of(row, facts, tokenizer, tmp_path, facts["max_length"])
        prompt = dataset[Draw(0, 0, 0, 0)].prompt
        assert prompt.input_ids == row["input_ids"], (row["name"], row["style"])
        if row["style"] == "llama_v2":
            assert prompt.labels == row["labels"], row["name"]
        assert any(label != IGNORE_INDEX for label in prompt.labels)
        seen.add((row["kind"], row["style"]))
    assert len(seen) == 6

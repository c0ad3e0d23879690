"""transformers' Auto classes find the project's config, model and processor."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from video_llama import VideoLlamaProcessor
names = [
    type(kind.from_pretrained(sys.argv[1])).__name__
    for kind in (AutoConfig, AutoModelForImageTextToText, AutoProcessor)
]
print(*names)
"""


def test_auto_classes_in_a_fresh_process(tiny_model_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_model_dir)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        "VideoLlamaConfig",
        "VideoLlamaForConditionalGeneration",
        "VideoLlamaProcessor",
    ]

"""Packs recordings of voices as labelled shards, to be trained on beside others.

    python -m recipes.nano.voices SPEAKER... --out SHARDS

Every SPEAKER is a folder with short sound files of one voice (words, prompts), in any format that
FFmpeg reads; the silence around them is cut, and they are joined to stretches of five seconds
that are labelled "speech" (`data.labelled`). What nano learnt of speech without them are spoken
digits, recorded at 8 kHz.
"""

import argparse
import io
import json
import random
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import av
import numpy as np
import soundfile

from recipes.nano.material import RATE, SECONDS
from recipes.nano.settings import SEED
from video_llama.whole_file import whole_file

PER_SPEAKER = 40  # stretches
SILENT = 0.02  # of the peak
BETWEEN = (0.05, 0.4)  # seconds


def decoded(path: Path) -> np.ndarray:
    """The mean of all channels (N,) at RATE, float32, without silence at both ends.

    Ends the program where a file is no sound.
    """
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    try:
        with av.open(str(path)) as container:
            sound = container.decode(container.streams.audio[0])
            frames = [part for frame in sound for part in resampler.resample(frame)]
    except (av.FFmpegError, IndexError) as error:
        raise SystemExit(f"error: {path} cannot be read as sound; leave it out ({error})") from None
    if not frames:
        raise SystemExit(f"error: {path} holds no sound; leave it out")
    frames += resampler.resample(None)
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    loud = np.nonzero(np.abs(samples) > SILENT * np.abs(samples).max())[0]
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


def stretches(folder: Path, rng: random.Random) -> Iterator[np.ndarray]:
    """Stretches (N,) of one voice, at most SECONDS long, each with files that no other has."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    rng.shuffle(paths)
    parts: list[np.ndarray] = []
    for path in paths:
        parts += [decoded(path), np.zeros(round(RATE * rng.uniform(*BETWEEN)), np.float32)]
        joined = np.concatenate(parts)
        if len(joined) >= SECONDS * RATE:
            yield joined[: SECONDS * RATE]
            parts = []


def as_wav(samples: np.ndarray) -> bytes:
    """A wav file of samples (N,), their peak at 0.9 of full scale."""
    packed = io.BytesIO()
    scaled = samples * (0.9 / max(1e-6, float(np.abs(samples).max())))
    soundfile.write(packed, scaled, RATE, subtype="PCM_16", format="WAV")
    return packed.getvalue()


def pack(speakers: Sequence[Path], out: Path) -> int:
    """Write `sounds-voices-train-00.tar`; how many stretches are in it.

    Ends the program where a folder has not one stretch.
    """
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    with whole_file(out / "sounds-voices-train-00.tar") as path, tarfile.open(path, "w") as tar:
        for speaker in speakers:
            made = stretches(speaker, random.Random(f"{SEED}/{speaker.name}"))
            first = count
            for samples in islice(made, PER_SPEAKER):
                about = {"label": "speech", "speaker": speaker.name}
                about["seconds"] = len(samples) / RATE
                for suffix, data in (
                    ("wav", as_wav(samples)),
                    ("json", json.dumps(about).encode()),
                ):
                    member = tarfile.TarInfo(f"voices-{count:05d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                count += 1
            if count == first:
                raise SystemExit(
                    f"error: {speaker} has less than {SECONDS} s of sound; leave it out"
                )
    return count


def main() -> None:
    """Pack the voices given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("speakers", type=Path, nargs="+", metavar="SPEAKER")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    arguments = parser.parse_args()
    for speaker in arguments.speakers:
        if not speaker.is_dir():
            parser.error(f"{speaker} is no folder; give one with the files of each voice")
    print(json.dumps({"stretches": pack(arguments.speakers, arguments.out)}))


if __name__ == "__main__":
    main()

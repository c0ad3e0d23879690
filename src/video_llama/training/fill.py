"""Fills a cache of encoder states with everything a run will ask for, before it begins.

Media are read in worker processes, and frames of several media are encoded at once.

Legend: T frames or clips of a medium, K of several, S side of a frame.
"""

import json
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from video_llama.data.dataset import TrainingDataset
from video_llama.data.medium import Medium, MediumRequest, read_medium
from video_llama.data.mixture import Draw
from video_llama.data.sample import Source
from video_llama.data.shards import ShardRows
from video_llama.errors import DataError, MediaError, MediaNotFoundError
from video_llama.home import spelled_out
from video_llama.models import VideoLlamaForConditionalGeneration
from video_llama.training.atomic import write_file, writing
from video_llama.training.feature_files import Entry, file_state, write_shard
from video_llama.training.features import (
    DTYPES,
    SHARD_BYTES,
    FeatureStore,
    digest_of,
    failure_key,
    request_seed,
    value_key,
    weights_digest,
)
from video_llama.training.loading import worker_options
from video_llama.training.prepare import PICTURE_SIDE, SOUND_SIDE, VISION_STATES
from video_llama.training.recipe import Recipe

VERSION = 1  # of how values are made


@dataclass(frozen=True)
class Read:
    """A medium that was read for the cache.

    Attributes:
        key: of its value.
        state: of its file, with its digest; None for bytes.
        medium: frames or clips; None where it could not be read.
        failure: then: what it is remembered by, the error's name and its message.
    """

    key: str
    state: tuple[str, str] | None
    medium: Medium | None
    failure: tuple[str, str, str] | None = None

    @classmethod
    def failed(cls, source: Source, error: MediaError) -> Self:
        """A medium that could not be read, and has no value."""
        return cls("", None, None, (failure_key(source), type(error).__name__, str(error)))


def open_store(
    recipe: Recipe, model: VideoLlamaForConditionalGeneration, dataset: TrainingDataset
) -> FeatureStore:
    """The cache of a recipe for the encoders of a model."""
    assert recipe.cache.path is not None
    processor, sound = dataset.processor, dataset.side == "sound"
    if recipe.branch == "vision":
        kind, prefixes, config = "vision", VISION_STATES, model.config.vision_config.to_dict()
        config = {"vision": config, "qformer": model.config.qformer_config.to_dict()}
    else:
        kind = "sound" if sound else "pictures"
        prefixes = (SOUND_SIDE if sound else PICTURE_SIDE,)
        config = {"imagebind": model.config.imagebind_config.to_dict()}
    weights = {n: t for n, t in model.state_dict().items() if n.startswith(prefixes)}
    settings = {
        "version": VERSION,
        "weights": weights_digest(weights),
        "config": json.loads(json.dumps(config, default=str)),
        "image_size": processor.image_size,
        "image_mean": processor.image_mean,
        "image_std": processor.image_std,
        "mel": vars(processor.mel_settings) if sound else None,
        "sound_channels": processor.sound_channels if sound else None,
        "dtype": recipe.cache.dtype,
    }
    return FeatureStore(Path(spelled_out(recipe.cache.path)), kind, settings, recipe.cache.draws)


def encode(
    model: VideoLlamaForConditionalGeneration,
    dataset: TrainingDataset,
    values: torch.Tensor,
    device: torch.device,
    autocast: torch.dtype | None,
) -> torch.Tensor:
    """Frames (K, 3, S, S) or mel clips (K, 1, M, F) -> states (K, Q, D) or (K, E), float32."""
    with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
        values = values.to(device, model.dtype)
        if dataset.branch == "vision":
            return model.vision_branch.encode_frames(values).float()
        branch = model.audio_branch
        assert branch is not None
        modality = "audio" if dataset.side == "sound" else "vision"
        return branch.encode_clips(values, modality).float()


class Filler:
    """Adds what is missing to a store.

    Args:
        store: read by `FeatureStore.refresh`.
        recipe: of the run.
        rank, world_size: of this process; each takes a share of the media.
    """

    def __init__(self, store: FeatureStore, recipe: Recipe, rank: int, world_size: int) -> None:
        self.store = store
        self.cache = recipe.cache
        self.workers = recipe.workers
        self.rank = rank
        self.world_size = world_size
        self._waiting: list[Entry] = []
        self._states: dict[str, str] = {}

    def fill(
        self,
        wanted: "MissingMedia",
        encode_batch: Callable[[torch.Tensor], torch.Tensor],
        progress: Callable[[int], object] | None = None,
    ) -> dict[str, tuple[str, str]]:
        """Read, encode and write; returns the media that could not be read.

        `progress` is called with the number of media done.

        Raises:
            TrainingError: the cache could not be written; what was written stays.
        """
        failures: dict[str, tuple[str, str]] = {}
        done = 0
        loader: Iterable[Any] = DataLoader(
            wanted, batch_size=None, num_workers=self.workers, **worker_options(self.workers)
        )
        for group in _groups(loader, self.cache.batch):
            good = [one for one in group if one.medium is not None]
            for one in group:
                if one.failure is not None:
                    failures[one.failure[0]] = one.failure[1:]
                if one.state is not None:
                    self._states[one.state[0]] = one.state[1]
            for one, states in zip(good, self._encode(good, encode_batch), strict=True):
                assert one.medium is not None
                kept = states.to(DTYPES[self.cache.dtype]).cpu()
                self._waiting.append(Entry(one.key, replace(one.medium, values=kept)))
            done += len(group)
            if progress is not None:
                progress(done)
            if sum(entry.medium.values.nbytes for entry in self._waiting) >= SHARD_BYTES:
                self._write()
        self._write()
        return failures

    def _encode(
        self, read: list[Read], encode_batch: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[torch.Tensor]:
        """States of each medium; all of their frames or clips go through in batches."""
        media = [one.medium.values for one in read if one.medium is not None]
        if not media:
            return []
        rows = torch.cat(media)  # (K, ...)
        states = torch.cat([encode_batch(part).cpu() for part in rows.split(self.cache.batch)])
        return list(states.split([len(values) for values in media]))

    def _write(self) -> None:
        if self._waiting:
            write_shard(self.store.folder, self._waiting)
            self._waiting = []
        if self._states:
            path = self.store.folder / f"sources-{uuid.uuid4().hex[:12]}.json"
            with writing("the cache"):
                write_file(path, json.dumps(self._states).encode())
            self._states = {}


class MissingMedia(IterableDataset[Read]):
    """The media of some draws that are not in a store yet, read.

    Each worker of each process takes its share, by the medium's name.
    """

    def __init__(
        self,
        dataset: TrainingDataset,
        draws: Iterable[Draw],
        store: FeatureStore,
        rank: int,
        world_size: int,
    ) -> None:
        self.dataset = dataset
        self.draws = draws
        self.store = store
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[Read]:
        info = get_worker_info()
        number, count = (info.id, info.num_workers) if info is not None else (0, 1)
        share, shares = self.rank * count + number, self.world_size * count
        done: set[str] = set()
        for request in self._requests(share, shares):
            read = self._read(request, done)
            if read is not None:
                yield read

    def _requests(self, share: int, shares: int) -> Iterator[MediumRequest]:
        """What the draws ask for, of one share of it."""
        asked: set[tuple[int, int]] = set()
        drawn = self.dataset.sampling == "head_tail"  # a row may want other frames next time
        for draw in self.draws:
            rows, place = self.dataset.rows[draw.dataset], (draw.dataset, draw.row)
            # The rows of a tar hold whole media: those of another share are not even read.
            packed = isinstance(rows, ShardRows)
            if (place in asked and not drawn) or (packed and draw.row % shares != share):
                continue
            asked.add(place)
            try:
                sample = rows[draw.row]
            except DataError:
                continue  # told when its turn comes
            for request in self.dataset.requests(sample, draw.position):
                if packed or zlib.crc32(str(request.source).encode()) % shares == share:
                    yield self.store.settled(request)

    def _read(self, request: MediumRequest, done: set[str]) -> Read | None:
        """A medium, unless its value is there."""
        source = request.source
        name = f"{failure_key(source)} {request.chance}"
        if name in done:
            return None
        done.add(name)
        digest, pair = self.store.known_digest(source), None
        if digest is None:
            assert isinstance(source, Path)
            try:
                digest = digest_of(source)
                pair = file_state(source), digest
            except OSError as error:  # a name that is too long, no permission, a disk that fails
                words = f"{source.name} cannot be read: {error.strerror or error}"
                return Read.failed(source, MediaNotFoundError(words))
        key = value_key(digest, request)
        if key in self.store or key in done:
            return Read(key, pair, None) if pair is not None else None
        try:
            medium = read_medium(request_seed(request), self.dataset.processor, self.dataset.limits)
        except MediaError as error:
            return Read.failed(source, error)
        done.add(key)  # what cannot be read may be the content of several files: each is told
        return Read(key, pair, medium)


def _groups(read: Iterable[Read], rows: int) -> Iterator[list[Read]]:
    """Media until they have so many frames or clips together."""
    group: list[Read] = []
    count = 0
    for one in read:
        group.append(one)
        count += 0 if one.medium is None else len(one.medium.values)
        if count >= rows or len(group) >= 64 * rows:
            yield group
            group, count = [], 0
    if group:
        yield group

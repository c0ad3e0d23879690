"""Before a run: every medium it will ask for is encoded, and the encoders leave the memory."""

import itertools
from collections.abc import Callable

import torch

from video_llama.data.dataset import TrainingDataset
from video_llama.data.mixture import Draw
from video_llama.training.features import FeatureStore
from video_llama.training.fill import Filler, MissingMedia, encode, open_store
from video_llama.training.loading import worker_errors
from video_llama.training.material import Material
from video_llama.training.parallel import Processes
from video_llama.training.prepare import Prepared, encoders, release
from video_llama.training.recipe import Recipe

TOLD_EVERY = 1000  # media


class MixtureDraws:
    """The draws of a run from a position to another, again each time it is asked."""

    def __init__(self, material: Material, start: int, stop: int) -> None:
        self.mixture = material.mixture
        self.start = start
        self.stop = stop

    def __iter__(self) -> "itertools.islice[Draw]":
        return itertools.islice(self.mixture.draws(self.start), max(self.stop - self.start, 0))


def use_cache(
    recipe: Recipe,
    prepared: Prepared,
    material: Material,
    processes: Processes,
    first: int,
    tell: Callable[[str], object],
) -> None:
    """Fill the cache of a recipe, from position `first` of the run on, and read from it.

    Raises:
        TrainingError: the cache could not be written; what was written stays.
    """
    with processes.together():
        store = open_store(recipe, prepared.model, material.dataset)
    with processes.together(patiently=True):
        if processes.is_first:
            for message in store.refresh(verify=recipe.cache.verify):
                tell(f"warning: {message}")
    processes.wait()
    store.refresh()
    tell(f"cache: {len(store):,} values in {store.folder}")
    place_encoders(recipe, prepared, processes.device)
    failures: dict[str, tuple[str, str]] = {}
    for dataset, draws in _wanted(recipe, material, first):
        with processes.together(patiently=True), worker_errors():
            failures |= _fill(recipe, prepared, store, dataset, draws, processes, tell)
    release(prepared.model, encoders(recipe))
    store.refresh()
    store.failures = dict(processes.gather(list(failures.items())))
    tell(f"cache: {len(store):,} values; the encoders are out of memory now")
    material.read_from(store)


def place_encoders(recipe: Recipe, prepared: Prepared, device: torch.device) -> None:
    """Put the encoders, and nothing else, on the device."""
    for name in encoders(recipe):
        prepared.model.get_submodule(name).to(device)
    if recipe.branch == "vision":
        queries = prepared.model.vision_branch.query_tokens
        queries.data = queries.data.to(device)


def _wanted(
    recipe: Recipe, material: Material, first: int
) -> list[tuple[TrainingDataset, list[Draw] | MixtureDraws]]:
    """What the run will ask for: of the mixture, and of the data it is measured on."""
    draws = MixtureDraws(material, first, recipe.steps * recipe.batch)
    wanted: list[tuple[TrainingDataset, list[Draw] | MixtureDraws]] = [(material.dataset, draws)]
    if material.validation is not None:
        measured = [
            Draw(0, number, row, 0)
            for number, rows in enumerate(material.validation.rows)
            for row in range(min(len(rows), recipe.validation.samples or len(rows)))
        ]
        wanted.append((material.validation, measured))
    return wanted


def _fill(
    recipe: Recipe,
    prepared: Prepared,
    store: FeatureStore,
    dataset: TrainingDataset,
    draws: list[Draw] | MixtureDraws,
    processes: Processes,
    tell: Callable[[str], object],
) -> dict[str, tuple[str, str]]:
    told = 0

    def count(done: int) -> None:
        nonlocal told
        if done // TOLD_EVERY > told:
            told = done // TOLD_EVERY
            tell(f"cache: {done:,} media encoded by this process")

    def run(values: torch.Tensor) -> torch.Tensor:
        return encode(prepared.model, dataset, values, processes.device, prepared.autocast)

    filler = Filler(store, recipe, processes.rank, processes.world_size)
    missing = MissingMedia(dataset, draws, store, processes.rank, processes.world_size)
    return filler.fill(missing, run, count)

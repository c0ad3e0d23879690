"""The data of a recipe: opened, mixed, and read from pixels or from a cache."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from video_llama.checkpoints.load import load_processor, read_config
from video_llama.data.dataset import Rows, TrainingDataset
from video_llama.data.formats import DatasetSpec, detect_format, open_dataset
from video_llama.data.mixture import Mixture
from video_llama.errors import DataError, OptionError
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.training.features import FeatureStore
from video_llama.training.prepare import base_directory
from video_llama.training.recipe import MediaSettings, Recipe


@dataclass
class Material:
    """What a run learns from and is measured on."""

    dataset: TrainingDataset
    mixture: Mixture
    validation: TrainingDataset | None

    def read_from(self, store: FeatureStore) -> None:
        """Look media up in a cache from now on."""
        for dataset in (self.dataset, self.validation):
            if dataset is not None:
                dataset.encoded = store


def open_material(recipe: Recipe) -> Material:
    """Open the data sets of a recipe; its model's weights are not read for it.

    Raises:
        CheckpointError: there is no such model.
        DataError: a file cannot be read, or is empty.
        OptionError: there is nothing to learn from.
    """
    if not recipe.data:
        raise OptionError(
            "data is empty; name what to learn from, such as data.0.path=captions.json "
            "data.0.media=images"
        )
    directory = base_directory(recipe)
    config = read_config(directory)
    processor = load_processor(directory)
    context = getattr(config.text_config, "max_position_embeddings", None)
    rows = [_open(spec, f"data.{number}", recipe) for number, spec in enumerate(recipe.data)]
    mixture = Mixture([len(one) for one in rows], [one.weight for one in recipe.data], recipe.seed)
    measured = recipe.validation.data
    validation = None
    if measured:
        opened = [
            _open(one, f"validation.data.{number}", recipe) for number, one in enumerate(measured)
        ]
        # Measured on the same frames every time.
        plain = replace(recipe.media, sampling="uniform", crop=False)
        validation = _dataset(recipe, processor, opened, plain, context)
    learnt = _dataset(recipe, processor, rows, recipe.media, context)
    return Material(learnt, mixture, validation)


def _open(spec: DatasetSpec, where: str, recipe: Recipe) -> Rows:
    if spec.format == "auto" and detect_format(spec.path) == "captions":
        spec = replace(spec, format=recipe.captions)
    rows = open_dataset(spec)
    if not len(rows):
        raise DataError(f"{where}: {rows.name} has no rows; leave it out or give another file")
    return rows


def _dataset(
    recipe: Recipe,
    processor: VideoLlamaProcessor,
    rows: Sequence[Rows],
    media: MediaSettings,
    context: int | None,
) -> TrainingDataset:
    return TrainingDataset(
        rows,
        processor,
        recipe.branch,
        modality=recipe.modality,
        num_frames=media.num_frames,
        sampling=media.sampling,
        seed=recipe.seed,
        max_length=media.max_length,
        context=context,
        crop=media.crop,
    )

"""Recipes: presets with the published values, files, dotted settings, messages that name them."""

import json

import pytest

from video_llama.errors import OptionError
from video_llama.training.overrides import build, to_mapping
from video_llama.training.presets import load_recipe, preset
from video_llama.training.recipe import Recipe
from video_llama.training.schedule import WarmupCosine
from video_llama.training.stages import STAGES


@pytest.mark.parametrize("name", STAGES)
def test_presets_have_the_values_of_the_paper(name):
    recipe, stage = load_recipe(name), STAGES[name]
    assert (recipe.name, recipe.branch, recipe.modules) == (name, stage.branch, stage.modules)
    assert (recipe.schedule, recipe.batch) == (stage.schedule, stage.batch)
    assert recipe.optimizer.weight_decay == 0.05
    assert recipe.optimizer.clip is None
    assert recipe.media.max_length == (None if name.endswith("1") else 512)
    assert recipe.media.sampling == ("head_tail" if name.endswith("1") else "uniform")
    assert recipe.modality == "vision"
    assert recipe.captions == ("captions" if name.endswith("1") else "descriptions")


def test_a_text_stays_as_it_was_written():
    recipe = load_recipe("vision_stage1", ["output=1e-4", "name=1.10", "data.0.path=007"])
    assert (recipe.output, recipe.name, recipe.data[0].path) == ("1e-4", "1.10", "007")
    assert load_recipe("vision_stage1", ["schedule.peak=1e-4"]).schedule.peak == 1e-4


@pytest.mark.parametrize("name", STAGES)
def test_written_and_read_again_a_recipe_is_the_same(name):
    recipe = load_recipe(name, ["data.0.path=a.jsonl", "lora.rank=4"])
    assert build(Recipe, json.loads(json.dumps(to_mapping(recipe)))) == recipe


def test_dotted_settings():
    recipe = load_recipe(
        "vision_stage2",
        [
            "data.0.path=a.csv",
            "data.0.weight=100",
            'data.1={"path": "b.json", "weight": 24, "media": "images"}',
            "schedule.peak=1e-3",
            "optimizer.betas=[0.8, 0.9]",
            'modules=["audio_branch.projector."]',
            "lora.rank=2",
            "cache=features",
            "cache.draws=3",
            "name=mine",
            "seed=7",
        ],
    )
    assert [one.path for one in recipe.data] == ["a.csv", "b.json"]
    assert [one.weight for one in recipe.data] == [100.0, 24.0]
    assert recipe.schedule.peak == 1e-3
    assert recipe.schedule.floor == 1e-5
    assert recipe.optimizer.betas == (0.8, 0.9)
    assert recipe.lora is not None
    assert recipe.lora.rank == 2
    assert (recipe.cache.path, recipe.cache.draws) == ("features", 3)
    assert str(recipe.output_dir) == "runs/mine"


def test_a_text_over_a_section_is_its_path_and_nothing_else_changes(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "vision_stage2"\n[cache]\npath = "kept"\ndtype = "bf16"\ndraws = 9\n'
        '[[data]]\npath = "a.jsonl"\nweight = 3\n'
    )
    recipe = load_recipe(str(path), ["cache=other", "data.0=b.jsonl", "model=models/mine"])
    assert (recipe.cache.path, recipe.cache.dtype, recipe.cache.draws) == ("other", "bf16", 9)
    assert (recipe.data[0].path, recipe.data[0].weight) == ("b.jsonl", 3.0)
    assert recipe.model.path == "models/mine"


def test_files_with_and_without_a_base(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "audio_stage2"\ncache = "kept"\n[schedule]\nepochs = 1\n'
        '[[data]]\npath = "a.jsonl"\n[[data]]\npath = "b.jsonl"\nweight = 3\n'
    )
    recipe = load_recipe(str(path), ["batch=8"])
    assert (recipe.name, recipe.branch, recipe.batch) == ("mine", "audio", 8)
    assert (recipe.schedule.epochs, recipe.schedule.steps_per_epoch) == (1, 1000)
    assert [one.weight for one in recipe.data] == [1.0, 3.0]
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps(to_mapping(preset(STAGES["vision_stage1"]))))
    assert load_recipe(str(plain)) == preset(STAGES["vision_stage1"])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("shedule.peak=1", "shedule is not known; did you mean 'schedule'"),
        ("schedule.peek=1", "schedule.peek is not known; did you mean 'peak'"),
        ("schedule.peak=fast", "schedule.peak is a number, not 'fast'"),
        ("schedule.epochs=0", "schedule.steps_per_epoch and epochs must be at least 1"),
        ("batch=2.5", "batch is a whole number, not 2.5"),
        ("batch=NaN", "batch is a whole number"),
        ("batch=0", "batch must be at least 1, not 0"),
        ("batch=true", "batch is a whole number, not True"),
        ("model.offline=1", "model.offline is true or false, not 1"),
        ("precision=fp8", "precision is 'auto', 'fp32', 'bf16'; not 'fp8'"),
        ("data.1.path=x", "data.1.path: '1' must be a number from 0 to 0"),
        ("data.0.format=zip", "data.0.path is missing"),
        ('data=[{"path": "x", "format": "zip"}]', "data.0.format is one of"),
        ("data=3", "data is a list, not 3"),
        ("optimizer=3", "optimizer is a section with named settings, not 3"),
        ("optimizer.betas=[0.9]", "optimizer.betas is a list of 2 values, not 1"),
        ("optimizer.betas=[0.9, 2]", "optimizer.betas are from 0 to below 1"),
        ("optimizer.clip=0", "optimizer.clip must be positive, or null"),
        ("lora.rank=0", "lora.rank must be at least 1"),
        ("cache.draws=0", "cache.draws must be at least 1"),
        ("cache=features", "media.crop cuts other boxes every time"),
        ("accumulation=5", "batch 32 cannot be divided into accumulation 5"),
        ("export.checkpoint=best", "needs validation.data"),
        ("modules=[]", "modules is empty"),
        ("schedule.peak=-1e-3", "rates are above 0; peak is -0.001"),
        ("schedule.floor=-1e-3", "rates are above 0"),
        (f"batch={'9' * 400}", "batch is a whole number"),
        ("batch", "'batch' is no setting; give name=value"),
        ("a..b=3", "is no setting"),
    ],
)
def test_a_message_names_the_setting(setting, said):
    with pytest.raises(OptionError) as told:
        load_recipe("vision_stage1", [setting])
    assert said in str(told.value)


def test_adapters_beside_layers_that_take_none():
    with pytest.raises(OptionError, match="adapters cannot be put beside"):
        load_recipe("vision_stage2", ["model.quantization=int8", "lora.rank=2"])


def test_a_base_is_a_name(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('base = ["vision_stage1"]')
    with pytest.raises(OptionError, match="base is one of"):
        load_recipe(str(file), [])


@pytest.mark.parametrize(
    ("warmup", "steps", "epochs", "told"),
    [(500, 1000, 1, False), (1000, 1000, 1, False), (0, 3, 1, False), (1000, 500, 3, True)],
)
def test_whether_a_warm_up_reaches_the_peak(warmup, steps, epochs, told):
    schedule = WarmupCosine(3e-5, 1e-5, 1e-6, warmup, steps, epochs)
    assert schedule.highest == max(map(schedule.rate, range(schedule.total_steps)))
    assert bool(schedule.warning) == told


def test_recipes_that_are_not_there(tmp_path):
    with pytest.raises(OptionError, match="did you mean 'vision_stage1'"):
        load_recipe("vision_stage_1")
    with pytest.raises(OptionError, match="vision_stage1, vision_stage2"):
        load_recipe("mine.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = 1\nbatch = x\n")
    with pytest.raises(OptionError, match=r"broken.toml is not TOML: .*line 2"):
        load_recipe(str(broken))
    based = tmp_path / "based.json"
    based.write_text('{"base": "stage9"}')
    with pytest.raises(OptionError, match="base is one of"):
        load_recipe(str(based))
    bare = tmp_path / "bare.json"
    bare.write_text("{}")
    with pytest.raises(OptionError, match="branch is missing"):
        load_recipe(str(bare))

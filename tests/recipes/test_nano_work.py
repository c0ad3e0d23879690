"""The work folder of the recipe of nano belongs to what it is made from."""

import pytest

from recipes.nano.material import Material
from recipes.nano.train import claim


def test_a_work_folder_is_not_used_for_other_material(tmp_path):
    work, shards = tmp_path / "work", tmp_path / "shards"
    for folder in (work, shards):
        folder.mkdir()
    (shards / "images-a-train-00.tar").write_bytes(b"one")
    drawn, photographed = Material(work), Material(work, shards)
    claim(drawn)
    claim(drawn)
    with pytest.raises(
        SystemExit, match=r"made from drawings alone, seed 0, and this run has 1 shards.*--fresh"
    ):
        claim(photographed)
    (work / "made_from.json").unlink()
    claim(photographed)
    claim(photographed)
    (shards / "images-a-train-00.tar").write_bytes(b"other")
    with pytest.raises(
        SystemExit,
        match="3 bytes, seed 0, and this run has 1 shards of photographs, 5 bytes, seed 0",
    ):
        claim(photographed)


def test_a_work_folder_is_not_used_for_another_seed(tmp_path):
    claim(Material(tmp_path, seed=1))
    claim(Material(tmp_path, seed=1))
    with pytest.raises(SystemExit, match="alone, seed 1, and this run has drawings alone, seed 2;"):
        claim(Material(tmp_path, seed=2))

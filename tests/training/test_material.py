"""What a recipe learns from, as it is opened."""

import json

import pytest

from video_llama.data.captions import INSTRUCTION
from video_llama.training.material import open_material


@pytest.mark.parametrize("captions", ["captions", "descriptions"])
@pytest.mark.parametrize("format", ["auto", "captions"])
def test_a_file_of_captions_is_learnt_as_its_stage_does(recipe, tmp_path, captions, format):
    """Both stages have a `filter_cap.json`; its form does not tell which one it is."""
    path = tmp_path / "filter_cap.json"
    path.write_text(json.dumps({"annotations": [{"image_id": "1", "caption": "A dog."}]}))
    named = [{"path": str(path), "format": format}]
    material = open_material(
        recipe(captions=captions, data=named, **{"validation.data": [{"path": str(path)}]})
    )
    asked = [rows[0].messages[0]["content"][1:] for rows in material.dataset.rows]
    instruction = [{"type": "text", "text": INSTRUCTION}]
    described = captions == "descriptions"
    assert asked == [instruction if described and format == "auto" else []]
    assert material.validation is not None
    measured = material.validation.rows[0][0].messages[0]["content"][1:]
    assert measured == (instruction if described else [])

import json

import pytest
from transformers import AutoTokenizer, LlamaTokenizer

from video_llama.processing.tokenizer import load_tokenizer

TEXTS = ["What do you hear?", "A: red</s><s>[INST] ball", "你好 ###", "\n\n###Human: ", " x", ""]


SPECIALS = ("<s>", "</s>", "<unk>")


def ids(tokenizer, text):
    return tokenizer(text)["input_ids"]


@pytest.fixture
def llama_directory(tmp_path, tokenizers):
    """A LLaMA directory as it is found: the class is named, its old rules are not."""
    tokenizers["llama"].save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "LlamaTokenizer"
    return tmp_path


def test_llama_is_read_with_the_rules_of_its_first_release(llama_directory, tokenizers):
    tokenizer = load_tokenizer(llama_directory)
    for text in TEXTS:
        assert ids(tokenizer, text) == ids(tokenizers["llama"], text)
    today = LlamaTokenizer.from_pretrained(llama_directory)
    assert ids(today, TEXTS[1]) != ids(tokenizer, TEXTS[1]), "the default gives other ids"


def test_llama_survives_saving(llama_directory, tmp_path):
    tokenizer = load_tokenizer(llama_directory)
    saved = tmp_path / "saved"
    tokenizer.save_pretrained(saved)
    for again in (AutoTokenizer.from_pretrained(saved), load_tokenizer(saved)):
        for text in TEXTS:
            assert ids(again, text) == ids(tokenizer, text)
        assert again.eos_token == "</s>"
        assert again.model_max_length == tokenizer.model_max_length


def test_the_first_llama_directories_name_no_special_tokens(llama_directory, tokenizers):
    settings = {"bos_token": "", "eos_token": "", "tokenizer_class": "LLaMATokenizer"}
    (llama_directory / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(llama_directory)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == SPECIALS
    for text in TEXTS:
        assert ids(tokenizer, text) == ids(tokenizers["llama"], text)


@pytest.mark.parametrize("kind", ["byte", "unigram"])
def test_any_other_tokenizer_is_read_as_it_stands(kind, tokenizers, tmp_path):
    tokenizers[kind].save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for text in TEXTS:
        assert ids(tokenizer, text) == ids(tokenizers[kind], text)

"""Which chat template a published model was trained with: said by its files, never guessed.

The weights do not tell a branch of Video-LLaMA 1 (Vicuna) from one of 2 (LLaMA-2-chat): their
shapes are the same. Names, the trainer's saved settings and the language model's files do.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedConfig

from video_llama.errors import CheckpointError, OptionError

Style = Literal["vicuna", "llama_2"]
STYLES: tuple[Style, ...] = ("vicuna", "llama_2")

_NAMES: dict[Style, re.Pattern[str]] = {
    "vicuna": re.compile(r"vicuna", re.IGNORECASE),
    "llama_2": re.compile(r"llama[-_ ]?2", re.IGNORECASE),
}
_END_SYMBOLS: dict[str, Style] = {"###": "vicuna", "</s>": "llama_2"}


@dataclass(frozen=True)
class Evidence:
    """One thing that speaks for a template. `certain`: it says so itself."""

    style: Style
    says: str
    certain: bool


def collect_evidence(
    language_model: Path, config: PreTrainedConfig, branches: Mapping[Path, Mapping[str, Any]]
) -> list[Evidence]:
    """All that the files say. `branches`: branch file -> what its trainer saved beside it."""
    found = _language_model_evidence(language_model, config)
    for path, extras in branches.items():
        found += _branch_evidence(path, extras)
    return found


def _branch_evidence(path: Path, extras: Mapping[str, Any]) -> list[Evidence]:
    """What the name of a branch file, and the settings its trainer saved, say."""
    found = []
    named = style_of_name(path.name)
    if named is not None:
        found.append(Evidence(named, f"the name {path.name}", True))
    config = extras.get("config")
    model = config.get("model") if isinstance(config, dict) else None
    if isinstance(model, dict):
        trained_with = Path(str(model.get("llama_model", ""))).name
        style = style_of_name(trained_with)
        if style is not None:
            found.append(Evidence(style, f"{path.name}: trained with {trained_with}", True))
        end = _END_SYMBOLS.get(str(model.get("end_sym", "")).strip())
        if end is not None:
            found.append(Evidence(end, f"{path.name}: turns end in {model['end_sym']!r}", True))
    return found


def _language_model_evidence(directory: Path, config: PreTrainedConfig) -> list[Evidence]:
    """What the language model's directory says."""
    found = []
    named = style_of_name(directory.name)
    if named is not None:
        found.append(Evidence(named, f"the name {directory.name}", True))
    if "[INST]" in _chat_template(directory):
        found.append(Evidence("llama_2", f"the chat template of {directory.name}", True))
    epsilon = getattr(config, "rms_norm_eps", None)
    length = getattr(config, "max_position_embeddings", None)
    if config.model_type == "llama" and (epsilon, length) == (1e-5, 4096):
        found.append(Evidence("llama_2", "rms_norm_eps 1e-5 and 4096 positions: LLaMA-2", False))
    if config.model_type == "llama" and (epsilon, length) == (1e-6, 2048):
        found.append(Evidence("vicuna", "rms_norm_eps 1e-6 and 2048 positions: LLaMA-1", False))
    return found


def choose_style(given: str | None, evidence: list[Evidence]) -> tuple[Style, list[str]]:
    """The template, and warnings.

    Raises CheckpointError when certain evidence is against itself or against what is given, or
    when nothing is given and nothing certain is there; OptionError for an unknown name.
    """
    if given is not None and given not in STYLES:
        raise OptionError(f"no template is called {given!r}; give 'vicuna' or 'llama_2'")
    certain = [entry for entry in evidence if entry.certain]
    styles = {entry.style for entry in certain}
    if len(styles) > 1:
        raise CheckpointError(
            "these files belong to different models: " + _listed(certain) + ". Video-LLaMA 1 goes "
            "with Vicuna and Video-LLaMA 2 with LLaMA-2-chat; give files of one of them"
        )
    if given is None:
        if not styles:
            hints = f" ({_listed(evidence)} is a hint, no proof)" if evidence else ""
            raise CheckpointError(
                f"the files do not say which chat template they were trained with{hints}; give "
                "--template vicuna (Video-LLaMA 1) or --template llama_2 (Video-LLaMA 2)"
            )
        chosen = styles.pop()
    else:
        chosen = STYLES[STYLES.index(given)]  # type: ignore[arg-type]
        if styles and chosen not in styles:
            raise CheckpointError(f"the template {given!r} contradicts {_listed(certain)}")
    against = [entry for entry in evidence if not entry.certain and entry.style != chosen]
    return chosen, [
        f"the template is {chosen!r}, but {entry.says} speaks for {entry.style!r}"
        for entry in against
    ]


def style_of_name(name: str) -> Style | None:
    """The template a name tells; None when it tells none, or both."""
    styles = [style for style, pattern in _NAMES.items() if pattern.search(name)]
    return styles[0] if len(styles) == 1 else None


def _chat_template(directory: Path) -> str:
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    config = directory / "tokenizer_config.json"
    if not config.is_file():
        return ""
    try:
        template = json.loads(config.read_text(encoding="utf-8")).get("chat_template", "")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{directory.name}/tokenizer_config.json cannot be read") from error
    return template if isinstance(template, str) else json.dumps(template)


def _listed(evidence: list[Evidence]) -> str:
    return "; ".join(f"{entry.says} ({entry.style})" for entry in evidence)

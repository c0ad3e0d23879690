"""What the package shows, and the one direction its parts import in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import video_llama

SOURCE = Path(video_llama.__file__).parent

PUBLIC = [
    "Answer",
    "ChatSession",
    "GenerationOptions",
    "MediaClip",
    "VideoLlama",
    "VideoLlamaConfig",
    "VideoLlamaError",
    "VideoLlamaForConditionalGeneration",
    "VideoLlamaProcessor",
    "__version__",
    "load_media",
    "probe",
]

# Which parts a part may import, itself aside. A part is a package or a module at the top.
# Some modules are chat's own: it would be too long with them.
BELOW_CHAT = {
    "answer",
    "attachment",
    "generation",
    "media_cache",
    "prompt",
    "quantization",
    "reply",
}
MAY_IMPORT = {
    "errors": set(),
    "whole_file": set(),
    "alone": set(),
    "home": set(),
    "temporary_folder": set(),
    "media": {"errors"},
    "processing": {"media", "errors"},
    "models": {"errors"},
    "checkpoints": {"models", "processing", "auto", "errors", "home", "temporary_folder"},
    "data": {"processing", "media", "errors", "whole_file", "alone", "home"},
    "auto": {"models", "processing"},
    "training": {"data", "processing", "models", "checkpoints", "quantization"}
    | {"errors", "whole_file", "alone", "home"},
    "generation": {"errors"},
    "quantization": {"errors"},
    "engine": {"generation", "models", "errors"},
    "answer": {"media"},
    "attachment": {"answer", "generation", "media", "processing", "models", "errors"},
    "media_cache": {"answer", "attachment", "engine", "media", "processing", "models", "errors"},
    "prompt": {"attachment", "processing", "models"},
    "reply": {"answer", "engine", "errors"},
    "chat": BELOW_CHAT | {"engine", "media", "processing", "checkpoints", "models", "errors"},
    "terminal": {"errors"},
    "repl": {"chat", "answer", "terminal", "errors", "home"},
    "commands": {"chat", "repl", "terminal", "checkpoints", "data", "errors"}
    | BELOW_CHAT
    | {"media"},
    "evaluation": BELOW_CHAT
    | {"chat", "data", "media", "processing", "checkpoints", "models", "errors", "whole_file"},
    "cli_data": {"data", "terminal"},
    "cli_train": {"training", "terminal", "errors"},
    "cli_eval": {"evaluation", "chat", "checkpoints", "terminal"},
    "server": BELOW_CHAT | {"chat", "engine", "media", "processing", "errors", "temporary_folder"},
    "cli_serve": {"server", "chat", "media", "terminal", "errors"},
    "cli": {"cli_data", "cli_eval", "cli_serve", "cli_train", "commands", "terminal", ""},
    "__main__": {"cli"},
    "assets": set(),
}


def imported_parts(path: Path) -> set[str]:
    """The parts of this package that a file imports, at the top, in functions or for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert node.module != "video_llama" or path.parent == SOURCE
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == "video_llama":
                part = rest.partition(".")[0]
                found.add(part if part in MAY_IMPORT else "")
    return found


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def test_public_names_are_pinned():
    assert video_llama.__all__ == PUBLIC
    assert len(video_llama.__all__) <= 15
    assert set(dir(video_llama)) == set(PUBLIC)


def test_every_public_name_is_there():
    for name in PUBLIC:
        assert getattr(video_llama, name) is not None
    with pytest.raises(AttributeError, match="NoSuchName"):
        _ = video_llama.NoSuchName


def test_the_version_is_that_of_the_project():
    project = SOURCE.parents[1] / "pyproject.toml"
    if not project.is_file():
        pytest.skip("not a checkout")
    assert f'version = "{video_llama.__version__}"' in project.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    part = part_of(path)
    assert part in MAY_IMPORT, f"say what {part} may import"
    wrong = imported_parts(path) - MAY_IMPORT[part] - {part}
    assert not wrong, f"{part} must not import {sorted(wrong)}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("video_llama", ["torch", "numpy", "transformers", "av", "typer"]),
        ("video_llama.errors", ["torch", "numpy", "transformers", "av"]),
        ("video_llama.cli", ["torch", "numpy", "transformers", "av", "rich", "fastapi"]),
        ("video_llama.models", ["av", "ray", "fastapi", "gradio", "typer"]),
        ("video_llama.processing.processor", ["av"]),
        ("video_llama.media.sampling", ["transformers", "av"]),
        ("video_llama.chat", ["typer", "ray", "fastapi", "gradio", "scipy", "sklearn", "pandas"]),
    ],
)
def test_an_import_loads_no_more_than_it_needs(module, absent):
    code = f"import sys, {module}; print(*sorted(set({absent!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

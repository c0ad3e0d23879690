"""A model's name to a directory: the embedded one, a local one, or one of the hub."""

import os
from importlib.resources import files
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from video_llama.errors import CheckpointError
from video_llama.home import spelled_out

EMBEDDED = "nano"
HUB_PREFIX = "hf://"
# What a directory of ours holds; never pickles.
_MODEL_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.md", "LICENSE*"]


def resolve(
    model: str | Path,
    *,
    offline: bool | None = None,
    cache_dir: str | Path | None = None,
    everything: bool = False,
) -> Path:
    """The directory of a model.

    `model` is "nano", a local directory, or a hub id "ORG/NAME" ("hf://ORG/NAME" where a local
    directory might be meant); "ORG/NAME@REVISION" is a branch, a tag or a commit of it. A hub model
    is downloaded once: a connection that breaks goes on where it broke, and a run that was stopped
    goes on with the files that are not there yet. `offline` True uses only what was downloaded
    before; None asks HF_HUB_OFFLINE. `everything` also takes files that are no part of a converted
    model, such as published `.pth` files.

    Raises CheckpointError, with what to do, when there is no such model.
    """
    name = str(model)
    if name == EMBEDDED:
        return _embedded()
    if not name:
        raise CheckpointError(_not_a_model(name))
    if not name.startswith(HUB_PREFIX):
        path = Path(spelled_out(name))
        if path.is_dir():
            return path
        if path.exists():
            raise CheckpointError(f"{name} is a file; a model is a directory")
        if isinstance(model, Path) or _looks_local(name.partition("@")[0]):
            raise CheckpointError(
                f"no such directory: {name} (a hub id is ORG/NAME, or {HUB_PREFIX}ORG/NAME)"
            )
    repo, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise CheckpointError(_not_a_model(name)) from error
    if "/" not in repo:
        raise CheckpointError(_not_a_model(name))
    return _from_hub(
        repo,
        offline=constants.HF_HUB_OFFLINE if offline is None else offline,
        revision=revision or None,
        cache_dir=cache_dir,
        patterns=None if everything else _MODEL_PATTERNS,
    )


def _embedded() -> Path:
    directory = Path(str(files("video_llama.assets"))) / EMBEDDED
    if not (directory / "config.json").is_file():
        raise CheckpointError(
            "this installation has no embedded model; install the released package, or give a "
            "directory"
        )
    return directory


def _looks_local(name: str) -> bool:
    """A name that means a place on this machine, whether or not it exists."""
    parts = name.replace(os.sep, "/").split("/")
    return (
        name.startswith((".", "/", "~"))
        or "\\" in name
        or len(parts) > 2
        or parts[-1] == ""
        or (len(parts) == 2 and Path(parts[0]).is_dir())
    )


def _from_hub(
    repo: str,
    *,
    offline: bool,
    revision: str | None,
    cache_dir: str | Path | None,
    patterns: list[str] | None,
) -> Path:
    try:
        directory = snapshot_download(
            repo,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=offline,
            allow_patterns=patterns,
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo} wants its terms accepted: do so on its page, then 'hf auth login'"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"no such directory, and no model {repo} on the hub (or it is private: "
            "'hf auth login'). Is the name spelt right?"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if offline:
            raise CheckpointError(
                f"{repo} was not (wholly) downloaded before, and this is offline; run once with "
                "the network, or give a local directory"
            ) from error
        raise CheckpointError(_unreachable(repo)) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise CheckpointError(
            f"the hub answered {status} for {repo}; try again later, or give a local directory"
        ) from error
    except HTTPError as error:  # a connection that broke in the middle of a file
        raise CheckpointError(_unreachable(repo)) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointError(f"{repo} could not be written to the cache: {reason}") from error
    return Path(directory)


def _unreachable(repo: str) -> str:
    return (
        f"{repo} could not be downloaded: the hub cannot be reached. Try again (what is there "
        "already is kept), or give a local directory"
    )


def _not_a_model(name: str) -> str:
    return f"{name!r} is no model: give '{EMBEDDED}', a directory that exists, or a hub id ORG/NAME"

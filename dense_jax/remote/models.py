"""Models of the Hugging Face Hub by name, fetched once into its cache, and from then on folders of this machine.

    hf://ORG/NAME             the newest revision
    hf://ORG/NAME@REVISION    a branch, a tag or a commit
    ORG/NAME[@REVISION]       the same, unless a folder here has this name

Fetched are weights as safetensors, settings and tokenizers: no pickle, no code.
"""

import functools
import os
import re
import sys
from pathlib import Path

from dense_jax.errors import ConfigError, MachineError, first_line, require

SCHEME = "hf://"
_NAME = re.compile(r"(hf://)?(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_FETCHED = ["*.safetensors", "*.json", "*.txt", "*.model"]
_LEFT = ["onnx/*", "openvino/*", "coreml/*"]  # the same model for other libraries


def local_model(name: str) -> str:
    """The folder of the model `name`; a name of this machine, with the home folder in place of `~`, stays.

    A name without `hf://` that is neither a folder nor a model of the Hub stays too, with a note: its user may mean a
    folder that is not there yet.

    Raises:
        ConfigError: the Hub has no such model or revision, or does not give it to this user.
        MachineError: the Hub is out of reach, and its cache has no such model.
    """
    found = _NAME.fullmatch(name)
    if name.startswith(SCHEME):
        require(found is not None, f"{name} is no name of a model; write {SCHEME}ORG/NAME or {SCHEME}ORG/NAME@REVISION")
        assert found is not None
        return _fetched(found["name"], found["revision"])
    if not found or Path(name).exists():
        return os.path.expanduser(name)  # noqa: PTH111  Path would make "." of ""
    return _fetched_if_known(name, found["name"], found["revision"])


@functools.cache
def _fetched_if_known(name: str, model: str, revision: str | None) -> str:
    """The folder of the model; `name`, with a note once a process, if the Hub does not give it."""
    try:
        return _fetched(model, revision)
    except (ConfigError, MachineError) as error:
        print(f"note: {name}: no such file or folder, and as a model of the Hub: {error}", file=sys.stderr)
        return name


@functools.cache
def _fetched(model: str, revision: str | None) -> str:
    """The folder of the revision in the cache; the first call of a process prints it."""
    from huggingface_hub import errors, snapshot_download  # imported here: it takes a while, and few runs need it

    named = f"{model}@{revision}" if revision else model
    try:
        folder = snapshot_download(model, revision=revision, allow_patterns=_FETCHED, ignore_patterns=_LEFT)
    except errors.GatedRepoError as error:
        raise ConfigError(f"{named} is gated; accept its terms on its page, then log in by `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"{model} has no revision {revision}; leave it out for the newest") from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"the Hub has no model {model}, or it is private; correct the name, or log in by `hf auth login`"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        raise MachineError(
            f"{named} is not in the cache, and the Hub cannot be reached ({first_line(error)}); fetch it where "
            f"there is a network, by `hf download {model}`, or name a folder"
        ) from error
    print(f"{named}: revision {Path(folder).name[:12]} of the Hub, in {folder}", file=sys.stderr)
    return folder

"""Upload of an exported folder to a model of the Hugging Face Hub, which is private unless asked for as public."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dense_jax.errors import ConfigError, MachineError, first_line, require

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Upload:
    """A model of the Hub that a folder is sent to; `str` formats its name and the files."""

    folder: Path
    name: str  # ORG/NAME
    public: bool = False

    def __str__(self) -> str:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        lines = [f"{path.stat().st_size:>15,}  {path.relative_to(self.folder).as_posix()}" for path in files]
        kind = "public" if self.public else "private"
        return "\n".join([f"{len(files)} files for the {kind} model {self.name} of the Hub, in bytes:", *lines])

    def send(self) -> str:
        """Upload the files in one commit, create the model if it is missing, and return the address of the commit.

        Raises:
            ConfigError, MachineError: as `check_access`.
        """
        from huggingface_hub import HfApi  # late: it takes a while, and few runs need it

        with _naming_refusals(self.name):
            HfApi().create_repo(self.name, private=not self.public, exist_ok=True)
            done = HfApi().upload_folder(
                repo_id=self.name, folder_path=self.folder, commit_message="Model exported by dense_jax"
            )
        return str(done.commit_url)


def check_model_name(name: str) -> None:
    """
    Raises:
        ConfigError: `name` is not of the form ORG/NAME.
    """
    require(
        _NAME.fullmatch(name) is not None,
        f"--push={name} is no name of a model on the Hub; write --push=ORG/NAME, ORG a user or an organisation",
    )


def check_access(name: str, *, public: bool) -> None:
    """Check that the Hub can be reached with a token, and that a model of this name is as public as asked for.

    Raises:
        ConfigError: there is no token, it may not read there, or the model is public and `public` not set, or the
            reverse.
        MachineError: the Hub cannot be reached.
    """
    from huggingface_hub import HfApi, errors, get_token

    require(get_token() is not None, "--push needs a token of the Hub that may write; log in by `hf auth login`")
    with _naming_refusals(name):
        try:
            is_private = HfApi().model_info(name).private
        except errors.RepositoryNotFoundError:
            return
    asked, kind = ("public", "private") if public else ("private", "public")
    fix = "leave --public out" if public else "add --public"
    require(
        bool(is_private) != public,
        f"--push={name} is asked for as {asked}, but this model of the Hub is {kind}; {fix}, or name another model",
    )


@contextlib.contextmanager
def _naming_refusals(name: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise ConfigError(
                f"--push={name}: the token of this machine may not write there ({first_line(error)}); correct the "
                "name, or log in by `hf auth login` with a token that may"
            ) from error
        raise MachineError(f"--push={name}: the Hub refuses ({first_line(error)}); try again later") from error
    except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]
        raise MachineError(
            f"--push={name}: the Hub cannot be reached ({first_line(error)}); give the command again where there is a "
            "network, or export without --push"
        ) from error

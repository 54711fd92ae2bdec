"""Config files: found by the name of a published one (`ict:tiny`), or by a path (`mine/method.py:tiny`)."""

import importlib
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from dense_jax.config import Config
from dense_jax.config.places import in_full
from dense_jax.errors import ConfigError, UserError, require

PUBLISHED = Path(__file__).parent.parent / "configs"
_NAMED = re.compile(r"(?P<file>[^/.:]+)(:(?P<variant>.*))?", re.DOTALL)
_BY_PATH = re.compile(r"(?P<file>.+?\.py)(:(?P<variant>.*))?", re.DOTALL)


@dataclass(frozen=True)
class ConfigFile:
    """A file with a function `get_config`, and the argument of that function."""

    path: Path
    variant: str | None  # what follows the colon

    def load(self) -> Config:
        """Run the file and return its config.

        Raises:
            ConfigError: the file fails or returns no config; names file and line.
        """
        try:
            module = _module(self.path)
            config = module.get_config() if self.variant is None else module.get_config(self.variant)
        except UserError:
            raise
        except Exception as error:
            raise ConfigError(f"{_failing_line(self.path, error)}: {type(error).__name__}: {error}") from error
        require(isinstance(config, Config), f"{self.path}: get_config returned {type(config).__name__}, not a Config")
        return config


def published() -> list[str]:
    """The names of the published configs."""
    return sorted(path.stem for path in PUBLISHED.glob("[!_]*.py"))


def find_config(name: str) -> ConfigFile:
    """Find the config file of `name`, without running it.

    >>> find_config("ict:tiny").path.name, find_config("ict:tiny").variant
    ('ict.py', 'tiny')

    Raises:
        ConfigError: `name` is neither a published config nor a file.
    """
    named = _NAMED.fullmatch(name)
    if named and named["file"] in published():
        return ConfigFile(PUBLISHED / f"{named['file']}.py", named["variant"])
    if found := _BY_PATH.fullmatch(name):
        path = Path(found["file"]).expanduser()
        require(
            path.is_file(),
            f"{path}: no such config file; the published configs are found by name from any folder: "
            f"{', '.join(published())}",
        )
        return ConfigFile(path, found["variant"])
    raise ConfigError(
        f"--config={name} is neither a path of a .py file nor one of the published configs: {', '.join(published())}"
    )


def in_full_by_path(name: str) -> str:
    """`name` as `--config` takes it from any folder: a path in full, the name of a published config as it is."""
    named = _NAMED.fullmatch(name)
    if (named and named["file"] in published()) or not (found := _BY_PATH.fullmatch(name)):
        return name
    variant = "" if found["variant"] is None else f":{found['variant']}"
    return f"{in_full(found['file'])}{variant}"


def _module(path: Path) -> ModuleType:
    if path.resolve().parent == PUBLISHED.resolve():
        return importlib.import_module(f"dense_jax.configs.{path.stem}")
    module = ModuleType("config_file")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses of the file look up their types
    exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    return module


def _failing_line(path: Path, error: Exception) -> str:
    """`file:line` of the last line of `path` that ran."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{path}:{lines[-1]}" if lines else str(path)

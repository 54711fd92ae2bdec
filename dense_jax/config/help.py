"""The help texts: the verbs, and the settings of a verb by tyro, which reads the comments of the fields."""

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from dense_jax.config import Config, flag_values
from dense_jax.config.command_line import OWN_FLAGS, VERBS

USAGE = """usage: dense-jax VERB --config NAME[:variant] --workdir DIR [--key value ...]
       dense-jax VERB --workdir DIR [--key value ...]      with the config that the workdir remembers
       dense-jax compare WORKDIR ... [--against NAME] --workdir DIR
       dense-jax average WORKDIR|FOLDER ... [--weights 0.7,0.3] [--last K] --workdir DIR
       dense-jax VERB --help      the settings; with --config NAME those of its method too
       dense-jax --version
"""


def usage() -> str:
    """The usage line, and each verb with its purpose."""
    return "\n".join([USAGE, *(f"  {name:9} {text}" for name, text in VERBS.items())])


def print_settings(verb: str, config: Config | None) -> None:
    """Print the flags of `verb` with types, defaults and comments; with a `config` those of its method too."""
    if verb in ("compare", "average"):
        print(f"{USAGE}\n{VERBS[verb]}")
        return
    own = "\n".join(f"--{name}: {text}" for name, text in OWN_FLAGS.items())
    hint = "" if config else "\n\nWith --config NAME the settings of its method, objective.*, are listed too."
    shown: dict[str, Any] = _of_a_method(config) if config else {"f": _of_all_methods()}
    with contextlib.suppress(SystemExit):  # which tyro raises after a help text
        tyro.cli(
            **shown,
            args=["--help"],
            prog=f"dense-jax {verb}",
            description=f"{VERBS[verb]}\n\n{own}{hint}",
            use_underscores=True,
            config=flag_values.STYLE,
            registry=flag_values.registry(),
        )


def _of_a_method(config: Config) -> dict[str, Any]:
    """`Config` with the class of its objective in place of the protocol, and its values."""
    narrowed = _with_objective(type(config.objective))
    return {"f": narrowed, "default": narrowed(**{f.name: getattr(config, f.name) for f in dataclasses.fields(config)})}


def _of_all_methods() -> type:
    """`Config` without an objective."""
    return _with_objective(Annotated[Any, tyro.conf.Suppress], objective=None)


def _with_objective(annotation: Any, **defaults: Any) -> type:
    """`Config` with another annotation of its objective; the comments of the fields are found as in `Config`."""
    source = {name: vars(Config)[name] for name in ("__module__", "__firstlineno__") if name in vars(Config)}
    made = type("Config", (Config,), {"__annotations__": {"objective": annotation}, **source, **defaults})
    return dataclass(made, kw_only=True)

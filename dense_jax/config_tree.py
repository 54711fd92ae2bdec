"""What is done to a config as a whole: checked after overrides, fitted to a tokenizer, made fit to be published."""

import dataclasses
from dataclasses import replace
from typing import Any

from dense_jax.config import Config, is_node, require
from dense_jax.errors import ConfigError


def checked(config: Config) -> Config:
    """`config` rebuilt bottom up, so that every `__post_init__` has seen the final values.

    Raises:
        ConfigError: with one line per broken rule, all of them at once.
    """
    problems: list[str] = []
    rebuilt = _rebuilt(config, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return rebuilt


def _rebuilt(node: Any, problems: list[str]) -> Any:
    children = {f.name: _rebuilt(v, problems) for f in dataclasses.fields(node) if is_node(v := getattr(node, f.name))}
    try:
        return dataclasses.replace(node, **children)
    except ConfigError as error:
        problems.append(str(error))
        return node


def with_vocabulary(node: Any, size: int) -> Any:
    """`node` with every `vocab_size` of its tree that is 0 set to `size`, the tokenizer's.

    Raises:
        ConfigError: a model's own vocabulary is smaller than the tokenizer's, whose ids it could not embed.
    """
    changes = {
        f.name: with_vocabulary(v, size) for f in dataclasses.fields(node) if is_node(v := getattr(node, f.name))
    }
    own = getattr(node, "vocab_size", None)
    if own is not None:
        require(
            own == 0 or own >= size, f"vocab_size={own} is smaller than the tokenizer's vocabulary of {size}; use 0"
        )
        changes["vocab_size"] = own or size
    return dataclasses.replace(node, **changes)


def without_folders(config: Config) -> Config:
    """`config` with the last part of each path to a folder or file: what may be published of it."""
    last = lambda path: path.rstrip("/").rpartition("/")[2]  # noqa: E731
    return replace(
        config,
        init_from=last(config.init_from),
        corpus=replace(
            config.corpus,
            source=last(config.corpus.source),
            also=tuple(map(last, config.corpus.also)),
            queries=tuple(map(last, config.corpus.queries)),
            guide=last(config.corpus.guide),
        ),
        tokenizer=replace(config.tokenizer, path=last(config.tokenizer.path)),
        passages=replace(config.passages, workdir=last(config.passages.workdir)),
        embed=replace(config.embed, collection=last(config.embed.collection)),
        probe=replace(config.probe, folder=last(config.probe.folder)),
        evaluate=replace(config.evaluate, folder=last(config.evaluate.folder)),
    )

"""The command line: `dense-jax VERB --config NAME[:variant] --workdir DIR [--key value ...] [queries] [-- queries]`.

Without `--config` the config is the one that the workdir remembers. Every flag but the switches (`_SWITCHES`) has
exactly one value, the rest of its own argument after `=` or the next argument, so that no value is taken for a query. A
setting of several values is given by its flag once for each of them; of other flags the last one counts.
Mistakes that can be seen without a config are reported before JAX is imported, which takes seconds.
"""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dense_jax.config import Config
from dense_jax.config.files import find_config, published
from dense_jax.config.overrides import LoadedConfig, nearest, overridden, read_values
from dense_jax.config.places import bucket_problem, expanded, is_on_this_machine
from dense_jax.config.remembered import is_remembered, recall_config
from dense_jax.config.settings import Setting, settings_of
from dense_jax.errors import ConfigError, DataError

VERBS = {
    "show": "after `prepare`: the checked config, a decoded example, the parameters, what a run will cost, on one "
    "screen; all settings and shapes with --full; before it too, with --topology=v5e:16x16, of TPUs elsewhere: memory, "
    "step time and largest batch by their compiler",
    "prepare": "documents -> sentences -> passages -> tokens",
    "train": "pre-train; continues by itself where it was stopped",
    "refresh": "during a training that looks passages up: the index of each snapshot",
    "embed": "the corpus, or embed.collection, through the passage tower",
    "index": "nearest-neighbour index over the embeddings",
    "search": "queries, from the arguments or standard input -> score, id, title, text",
    "answer": "questions -> answer, share, passage; with answer.questions=FILE exact match and answer recall",
    "mine": "hard negatives for the training queries, by the trained retriever, by BM25, or by both",
    "filter": "training pairs whose passage the retriever ranks among the best; one that is untrained uses init_from",
    "evaluate": "nDCG@10, MRR@10, Recall@100: BM25, before training, after training, BM25 + dense",
    "export": "a folder for Hugging Face transformers and sentence-transformers; --push=ORG/NAME lists its files for "
    "the Hub, and with --yes uploads them",
    "report": "report.html, one page about the run: what it cost, what it shows, what it bought, with examples",
    "compare": "WORKDIR ... [--against NAME] --workdir DIR: a table and a chart of finished runs",
    "average": "WORKDIR|FOLDER|ORG/NAME ... [--weights 0.7,0.3] [--last K] --workdir DIR: the mean of models, exported",
}
_TAKE_WORDS = ("search", "answer")
_TAKE_OUT = ("embed", "index", "search", "answer", "mine", "filter", "evaluate", "export", "report")
_READS = {  # data that a verb reads wherever its flag is given
    "prepare": ("corpus.source", "corpus.also", "spans.answers", "spans.precomputed"),
    "embed": ("embed.collection",),
    "answer": ("answer.questions",),
    "evaluate": ("evaluate.folder",),
}
OWN_FLAGS = {  # those that are no settings, with their help texts
    "config": "a published method, such as ict or ict:tiny, or a file, such as mine/method.py:variant; without it the "
    "config that the workdir remembers",
    "workdir": "the folder that everything is written to and read from",
    "out": "a folder in place of the workdir for what is written, such as where the workdir is read-only",
    "topology": "TPUs elsewhere that `show` compiles for, such as v5e:16x16",
    "traffic": "`show --topology` lists the lines of code whose operations move the most bytes; without a value",
    "full": "`show` prints all settings, shapes and parameters; without a value",
    "restart": "`train` starts over and moves what it wrote before aside; without a value",
    "hybrid": "`search` fuses its ranking with that of BM25, by the settings fusion.*; without a value",
    "push": "a model of the Hugging Face Hub, ORG/NAME, that `export` uploads to, private unless --public is given",
    "yes": "`export --push` uploads the files, which it lists without it; without a value",
    "public": "`export --push` makes the model public; without a value",
}
_SWITCHES = ("traffic", "full", "restart", "hybrid", "yes", "public")  # of them, those without a value
_COMPARE_FLAGS = ("workdir", "against")
_AVERAGE_FLAGS = ("workdir", "weights", "last")
_NO_WORKDIR = "no --workdir=DIR, the folder that everything is written to and read from"


@dataclass(frozen=True)
class Invocation:
    """A parsed command line."""

    loaded: LoadedConfig
    workdir: Path
    words: list[str]  # what is no flag: the queries of `search`
    topology: str = ""  # TPUs that `show` is to compile for, such as v5e:16x16
    traffic: bool = False  # `show --topology` lists the lines that move the most bytes
    full: bool = False  # `show` prints more than a screen
    restart: bool = False  # `train` starts over, and moves the old state aside
    hybrid: bool = False  # `search` fuses its ranking with that of BM25
    push: str = ""  # model of the Hub that `export` lists its files for
    yes: bool = False  # and uploads them
    public: bool = False  # for everyone to see
    out: Path | None = None  # a folder in place of the workdir for what is written

    @property
    def config(self) -> Config:
        """The config, with what the command line gives."""
        return self.loaded.config


@dataclass(frozen=True)
class Comparison:
    """The parsed command line of `compare`."""

    folders: list[Path]
    against: str
    workdir: Path


@dataclass(frozen=True)
class Averaging:
    """The parsed command line of `average`."""

    models: list[str]  # folders, or names on the Hugging Face Hub
    weights: list[float]
    last: int
    workdir: Path


@dataclass(frozen=True)
class CommandLine:
    """A command line, split into flags and words."""

    flags: list[tuple[str, str]]  # names and values, in their order
    words: list[str]
    problems: list[str]

    def value(self, name: str) -> str:
        """The value of the last flag `name`; empty without one."""
        return next((value for flag, value in reversed(self.flags) if flag == name), "")

    def given(self) -> dict[str, list[str]]:
        """The values of each flag that sets a setting."""
        found: dict[str, list[str]] = {}
        for name, value in self.flags:
            if name not in OWN_FLAGS:
                found.setdefault(name, []).append(value)
        return found


def parse(argv: Sequence[str], verb: str = "") -> Invocation:
    """Reads the arguments that follow `verb`; without one, words and --topology are taken.

    Raises:
        ConfigError: with a line for each unknown flag (and the nearest known ones), wrong type and broken rule.
        DataError: a file that `verb` reads is not there.
    """
    line = split(argv)
    problems = _early_problems(verb, line)
    try:
        loaded = _load(line)
    except ConfigError as error:
        raise ConfigError("\n".join(dict.fromkeys([*problems, str(error)]))) from error
    return Invocation(
        overridden(loaded, line.given(), problems, OWN_FLAGS),
        _workdir(line),
        line.words,
        line.value("topology"),
        traffic=bool(line.value("traffic")),
        full=bool(line.value("full")),
        restart=bool(line.value("restart")),
        hybrid=bool(line.value("hybrid")),
        push=line.value("push"),
        yes=bool(line.value("yes")),
        public=bool(line.value("public")),
        out=Path(expanded(line.value("out"))) if line.value("out") else None,
    )


def _load(line: CommandLine) -> LoadedConfig:
    """The config that is named, or else the one that the workdir remembers."""
    name = line.value("config")
    return LoadedConfig(name, find_config(name).load()) if name else recall_config(_workdir(line))


def _workdir(line: CommandLine) -> Path:
    return Path(expanded(line.value("workdir")))


def _has_config(line: CommandLine) -> bool:
    """True if a config is named, or remembered by the workdir."""
    return bool(line.value("config")) or (bool(line.value("workdir")) and is_remembered(_workdir(line)))


def config_for_help(argv: Sequence[str]) -> Config | None:
    """The config that a command line with --help names, if any.

    Raises:
        ConfigError: there is no such config.
    """
    line = split([arg for arg in argv if arg not in ("--help", "-h")])
    return _load(line).config if _has_config(line) else None


def _missing_files(verb: str, line: CommandLine) -> Iterable[str]:
    for name in _READS.get(verb, ()):
        for value in line.given().get(name, ()):
            if is_on_this_machine(value) and not Path(value).expanduser().exists():
                yield f"{name}={value}: no such file or folder; correct the name"


def _early_problems(verb: str, line: CommandLine) -> list[str]:
    """Mistakes that can be seen without a config. They are raised, unless the config may show more of them."""
    problems = [*line.problems, *_own_problems(line), *_unfit(verb, line)]
    known = {setting.name: setting for setting in settings_of(Config)}
    if not any(_may_be_of_the_method(name, known) for name in line.given()) or not _has_config(line):
        _raise([*problems, *read_values(line.given(), known, OWN_FLAGS)[1]])
    if not problems and (missing := list(_missing_files(verb, line))):
        raise DataError("\n".join(missing))
    return problems


def check_verb(verb: str) -> None:
    """
    Raises:
        ConfigError: there is no such verb.
    """
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        meant = f"; did you mean {near[0]}?" if near else f"; the verbs are {', '.join(VERBS)}"
        raise ConfigError(f"no verb {verb!r}{meant}")


def parse_comparison(argv: Sequence[str]) -> Comparison:
    """Reads the arguments that follow `compare`.

    Raises:
        ConfigError: with a line for each mistake.
    """
    line = split(argv)
    takes = "compare takes the workdirs of finished runs, and --workdir=DIR, where its result goes"
    _raise(_problems_of_folders(line, _COMPARE_FLAGS, takes))
    return Comparison([Path(expanded(word)) for word in line.words], line.value("against"), _workdir(line))


def parse_average(argv: Sequence[str]) -> Averaging:
    """Reads the arguments that follow `average`.

    Raises:
        ConfigError: with a line for each mistake.
    """
    line = split(argv)
    takes = "average takes workdirs or folders of models, and --workdir=DIR, where the mean goes"
    problems = _problems_of_folders(line, _AVERAGE_FLAGS, takes)
    weights, last = line.value("weights"), line.value("last")
    try:
        numbers = [float(number) for number in weights.split(",")] if weights else []
    except ValueError:
        numbers = []
        problems.append(f"--weights={weights} is not numbers with commas between them, such as --weights=0.7,0.3")
    if last and not last.isdecimal():
        problems.append(f"--last={last} is not a number of checkpoints, such as --last=3")
    _raise(problems)
    return Averaging([expanded(word) for word in line.words], numbers, int(last or 0), _workdir(line))


def _problems_of_folders(line: CommandLine, flags: Sequence[str], takes: str) -> list[str]:
    """Mistakes in the line of a verb that takes folders, and of flags only `flags`."""
    unknown = [name for name, _ in line.flags if name not in flags]
    known = ", ".join(f"--{flag}" for flag in flags)
    problems = [*line.problems]
    problems += [f"unknown flag --{name}{nearest(name, flags) or f'; the flags are {known}'}" for name in unknown]
    if not line.words or not line.value("workdir"):
        problems.append(takes)
    return [*problems, *filter(None, [bucket_problem(line.value("workdir"), "--workdir")])]


def split(argv: Sequence[str]) -> CommandLine:
    """Split arguments into flags, words and mistakes.

    >>> split(["--batch", "8", "--steps=2", "a query", "--", "-v"]).flags
    [('batch', '8'), ('steps', '2')]
    >>> split(["--batch", "8", "a query", "--", "-v"]).words
    ['a query', '-v']
    """
    line, rest = CommandLine([], [], []), list(argv)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            line.words.extend(rest)
            break
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("-") or argument == "-":
            line.words.append(argument)
        elif not argument.startswith("--"):
            line.problems.append(f"unknown flag {argument}; a query that begins with - comes after --")
        elif equals:
            line.flags.append((name, value))
        elif name in _SWITCHES:
            line.flags.append((name, "true"))
        elif rest and not rest[0].startswith("--"):
            line.flags.append((name, rest.pop(0)))
        else:
            line.problems.append(f"--{name} has no value; give one as --{name}=VALUE")
    line.problems.extend(f"{word!a} is not UTF-8" for word in argv if not _is_text(word))
    return line


def _own_problems(line: CommandLine) -> Iterable[str]:
    """Mistakes in the flags that are no settings."""
    if not _has_config(line):
        yield (
            f"no --config=NAME, such as --config=ict:tiny, and no --workdir that remembers one; the published methods "
            f"are {', '.join(published())}, and a file of your own is named by its path"
        )
    elif name := line.value("config"):
        try:
            find_config(name)
        except ConfigError as error:
            yield str(error)
    if not line.value("workdir"):
        yield _NO_WORKDIR
    problems = (bucket_problem(line.value(name), f"--{name}") for name in ("workdir", "out"))
    yield from filter(None, problems)
    for name in _SWITCHES:
        if line.value(name) not in ("", "true"):
            yield f"--{name}={line.value(name)}: takes no value; leave the flag out if you do not want it"


def _unfit(verb: str, line: CommandLine) -> Iterable[str]:
    """Arguments that `verb` does not take."""
    if not verb:
        return
    if line.words and verb not in _TAKE_WORDS:
        yield f"{verb} takes no words, but got {' '.join(line.words)}; settings are --key=value"
    if line.value("traffic") and not line.value("topology"):
        yield "--traffic is of a step compiled for TPUs; use it with `dense-jax show --topology=v5e:16x16`"
    if line.value("full") and verb != "show":
        yield f"{verb} takes no --full; `dense-jax show` prints more by it"
    if line.value("restart") and verb != "train":
        yield f"{verb} takes no --restart; `dense-jax train` starts over by it"
    if line.value("hybrid") and verb != "search":
        yield f"{verb} takes no --hybrid; `evaluate` has a row of it, and `mine` takes --mine.source=hybrid"
    for name in ("push", "yes", "public"):
        if line.value(name) and verb != "export":
            yield f"{verb} takes no --{name}; `dense-jax export --push=ORG/NAME` uploads by it"
        elif line.value(name) and not line.value("push"):
            yield f"--{name} belongs to --push=ORG/NAME, which is missing"
    if line.value("out") and verb not in _TAKE_OUT:
        yield f"{verb} takes no --out={line.value('out')}; it writes to --workdir"
    if line.value("topology") and verb != "show":
        yield f"{verb} takes no --topology={line.value('topology')}; `dense-jax show` compiles for TPUs elsewhere"


def _may_be_of_the_method(name: str, known: Mapping[str, Setting]) -> bool:
    """Return whether `name` is a setting of the method, or like no other: then only the config shows what it means."""
    return name.startswith("objective.") or (name not in known and not nearest(name, known))


def _is_text(word: str) -> bool:
    try:
        os.fsencode(word).decode()
    except UnicodeDecodeError:
        return False
    return True


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))

"""What each verb does: opens the parts of a workdir, calls the stage, prints the result."""

import shutil
import sys
from collections.abc import Callable

from dense_jax import flags, show
from dense_jax.data.pipeline import Examples
from dense_jax.data.prepare import prepare
from dense_jax.errors import ConfigError
from dense_jax.export import export
from dense_jax.files import read_json, whole_file, writable
from dense_jax.model_card import Card, Result
from dense_jax.retrieval import evaluate, index, search
from dense_jax.retrieval.beir import read_test_set
from dense_jax.retrieval.bm25 import BM25
from dense_jax.retrieval.metrics import HEADLINE
from dense_jax.train.loop import make_program, train
from dense_jax.train.processes import start_processes
from dense_jax.workdir import Workdir


def _show(work: Workdir, words: list[str]) -> None:
    program = make_program(work.config)
    examples = _examples(work)
    sections = {
        "settings": show.settings(work.config),
        "attention": show.attention(examples),
        "example": show.example(examples, work.tokenizer),
        "batch": show.batch(examples, work.config),
        "parameters": show.parameters(program.like.params),
        "memory": show.memory(program, examples),
        "plan": show.plan(examples, work.config),
    }
    print("\n\n".join(f"== {title}\n{text}" for title, text in sections.items()))


def _prepare(work: Workdir, words: list[str]) -> None:
    for name, value in prepare(work.asked, work.path).items():
        print(f"{name:24} {value:,}" if isinstance(value, int) else f"{name:24} {value}")


def _train(work: Workdir, words: list[str]) -> None:
    passages, vocabulary = work.passages, work.tokenizer.vocabulary  # or what is missing, before processes are joined
    start_processes()
    print(f"attention\n{show.attention(_examples(work))}", file=sys.stderr)
    train(work.config, passages, vocabulary, work.path)
    print(f"checkpoints in {work.path / 'checkpoints'}, metrics in {work.path / 'metrics.jsonl'}")


def _embed(work: Workdir, words: list[str]) -> None:
    trained = work.trained(work.config.embed.step)
    collection = work.collection(trained.towers.passage)
    vectors = work.embeddings(collection, trained)
    print(f"{len(vectors):,} vectors of width {vectors.width} in {vectors.folder}")


def _index(work: Workdir, words: list[str]) -> None:
    trained = work.trained(work.config.embed.step)
    collection = work.collection(trained.towers.passage)
    vectors = work.embeddings(collection, trained)
    print(index.build(vectors, work.config.index, work.index_folder(collection, trained), work.mesh).summary)


def _search(work: Workdir, words: list[str]) -> None:
    queries = words or [line.strip() for line in sys.stdin if line.strip()]
    if not queries:
        raise ConfigError("no query; give them as arguments, in quotes, or as lines on standard input")
    trained = work.trained(work.config.embed.step)
    collection = work.collection(trained.towers.passage)
    found = index.load(work.index_folder(collection, trained), work.embeddings(collection, trained), work.mesh)
    dense = search.dense(found, trained.towers.query, work.tokenizer)
    columns = shutil.get_terminal_size().columns
    for query, hits in zip(queries, search.search(dense, collection.store, queries, work.config.search.k), strict=True):
        print(search.render(query, hits, columns), end="\n\n")


def _evaluate(work: Workdir, words: list[str]) -> None:
    """BM25, the parameters before training and those after it, on one test set."""
    settings, folder = work.config.evaluate, work.test_folder
    test_set = read_test_set(folder, settings.split)
    rows: dict[str, evaluate.Result] = {}
    if settings.bm25:
        documents = work.documents(str(folder))
        words_index = BM25(documents, len(documents), settings.bm25_k1, settings.bm25_b)
        rows["BM25"] = evaluate.evaluate(words_index.search, words_index.ids, test_set, settings.depth)
    newest = work.trained(work.config.embed.step)
    collection = work.collection(newest.towers.passage, str(folder))
    before = [work.trained(0)] if settings.before and newest.step else []
    for trained in [*before, newest]:
        name = "after training" if trained.step else "before training"
        dense = search.dense(work.index(collection, trained), trained.towers.query, work.tokenizer)
        rows[name] = evaluate.evaluate(dense, collection.store.ids(), test_set, settings.depth)
    _report(work, rows, newest.step)


def _report(work: Workdir, rows: dict[str, evaluate.Result], step: int) -> None:
    for name, result in rows.items():
        evaluate.write(work.results, name.replace(" ", "_"), result)
    notes = dict.fromkeys(note for result in rows.values() for note in result.notes())
    text = "\n".join([evaluate.table(rows), *notes])
    with whole_file(work.results / "table.md") as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    print(f"{text}\nstep {step:,}; all measures and the rankings are in {work.results}")


def _export(work: Workdir, words: list[str]) -> None:
    trained = work.trained(work.config.embed.step)
    card = Card(
        name=work.path.name,
        method=type(work.config.objective).__name__,
        corpus=work.config.corpus.source,
        steps=trained.step,
        batch=work.config.batch,
        settings=show.settings(work.config),
        results=_results(work),
    )
    print(export(trained.towers, work.tokenizer_folder, work.path / "export", card))


def _results(work: Workdir) -> tuple[Result, ...]:
    """What `evaluate` found of the trained towers, if it was run."""
    path = work.results / "after_training.json"
    if not path.is_file():
        return ()
    found = read_json(path)
    return tuple(
        Result(found["collection"], work.config.evaluate.split, name, found["mean"][name]) for name in HEADLINE
    )


VERBS: dict[str, Callable[[Workdir, list[str]], None]] = {
    "show": _show,
    "prepare": _prepare,
    "train": _train,
    "embed": _embed,
    "index": _index,
    "search": _search,
    "evaluate": _evaluate,
    "export": _export,
}


def call(verb: str, argv: list[str]) -> None:
    """Runs `verb` with the arguments that follow it.

    Raises:
        UserError: whatever is wrong, with its exit status.
    """
    if verb not in VERBS:
        raise ConfigError(f"no verb {verb!r}; there are {', '.join(VERBS)}")
    asked = flags.parse(argv)
    if asked.words and verb != "search":
        raise ConfigError(f"{verb} takes no words, but got {' '.join(asked.words)}; settings are --config.key=value")
    VERBS[verb](Workdir(writable(asked.workdir), asked.config), asked.words)


def _examples(work: Workdir) -> Examples:
    return work.examples_of(work.config, max(work.config.steps * work.config.batch, 1))

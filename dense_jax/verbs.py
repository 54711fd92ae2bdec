"""What each verb does: opens the parts of a workdir, calls the stage, prints the result."""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dense_jax import flags, show
from dense_jax.agreement import first_then_all, is_first, of_first
from dense_jax.cluster import check_alone
from dense_jax.compare import compare
from dense_jax.config import Miner, Refresh
from dense_jax.config_tree import without_folders
from dense_jax.data.pipeline import Examples
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.sources.lines import stem
from dense_jax.errors import ConfigError
from dense_jax.export import export
from dense_jax.files import check_on_disk, located, whole_file, writable
from dense_jax.finished import measured
from dense_jax.locks import alone, in_turn, lock_of, only_one
from dense_jax.mesh import own_mesh
from dense_jax.model_card import Card
from dense_jax.planning.topology import plan
from dense_jax.processes import join_processes, leaving_at_once, start_processes
from dense_jax.retrieval import answer, answer_report, evaluate, index, mine, search
from dense_jax.retrieval.beir import TestSet, read_test_set
from dense_jax.retrieval.bm25 import BM25
from dense_jax.train.loop import make_program, train
from dense_jax.train.refresher import refresh
from dense_jax.train.restore import Trained
from dense_jax.train.versions import VERSIONS, Versions
from dense_jax.workdir import Collection, Workdir


def _show(work: Workdir, words: list[str]) -> None:
    program = make_program(work.config)
    examples = _examples(work)
    sections = {
        "settings": show.settings(work.config),
        "attention": show.attention(examples, work.config.batch),
        "example": show.example(examples, work.tokenizer),
        **({"salient spans": show.spans(examples, work.tokenizer)} if work.config.spans.sources else {}),
        "batch": show.batch(examples, work.config),
        "parameters": show.parameters(program.like.params),
        "memory": show.memory(program, examples),
        "plan": show.plan(examples, work.config),
    }
    print("\n\n".join(f"== {title}\n{text}" for title, text in sections.items()))


def _plan(work: Workdir, topology: str) -> str:
    """What a step takes of TPUs that are not here; nothing need be prepared."""
    words, known_by = work.planned_vocabulary()
    return f"{plan(work.asked, topology, words)}\n\n== vocabulary\n{words:,} words, {known_by}"


def _prepare(work: Workdir, words: list[str]) -> None:
    root = Path(work.asked.passages.workdir or work.path)
    with alone(root / "prepare.lock", f"{root} is being prepared"):
        _print_counts(prepare(work.asked, work.path))


def _print_counts(counts: Mapping[str, Any]) -> None:
    width = max(map(len, counts)) + 2
    for name, value in counts.items():
        print(f"{name:{width}} {value:,}" if isinstance(value, int) else f"{name:{width}} {value}")


def _train(work: Workdir, words: list[str]) -> None:
    passages, vocabulary = work.passages, work.vocabulary  # or what is missing, before processes are joined
    work.check_init_from()
    start_processes(os.environ, polls=True)
    of_first(work.check_spans)
    first_then_all(work.check_questions)
    if is_first():
        print(f"attention\n{show.attention(_examples(work), work.config.batch)}", file=sys.stderr)
    sample = work.sample() if work.config.probe.every else None
    train(work.config, passages, vocabulary, work.path, sample=sample, library=work.library)
    if is_first():
        print(f"checkpoints in {work.path / 'checkpoints'}, metrics in {work.path / 'metrics.jsonl'}")


def _refresh(work: Workdir, words: list[str]) -> None:
    """The index of each snapshot, beside a training that looks passages up."""
    library = work.library
    if library is None:
        raise ConfigError(f"{type(work.asked.objective).__name__} looks no passages up while it trains")
    config = work.config
    if config.neighbours.refresh is not Refresh.ASYNCHRONOUS:
        raise ConfigError(
            f"neighbours.refresh={config.neighbours.refresh.value}: the trainer makes its indexes itself; give both it "
            "and this --neighbours.refresh=asynchronous"
        )
    versions = Versions(work.path / VERSIONS, library, config, own_mesh())
    with only_one(work.path / "refresh.lock", f"--workdir={work.path} is being refreshed"):
        refresh(versions, work.path, config.steps, work.trained)


def _embed(work: Workdir, words: list[str]) -> None:
    trained = work.trained(work.config.embed.step)
    collection = work.collection(trained.towers.passage)
    vectors = work.embeddings(collection, trained)
    print(f"{len(vectors):,} vectors of width {vectors.width} in {vectors.folder}")


def _index(work: Workdir, words: list[str]) -> None:
    trained = work.trained(work.config.embed.step)
    collection = work.collection(trained.towers.passage)
    vectors = work.embeddings(collection, trained)
    print(index.build(vectors, work.config.index, work.index_folder(collection, trained), own_mesh()).summary)


def _search(work: Workdir, words: list[str]) -> None:
    queries, columns = _typed(words), shutil.get_terminal_size().columns
    trained = work.trained(work.config.embed.step)
    collection = work.collection(trained.towers.passage)
    dense = _indexed(work, collection, trained)
    for query, hits in zip(queries, search.search(dense, collection.store, queries, work.config.search.k), strict=True):
        print(search.render(query, hits, columns), end="\n\n")


def _typed(words: list[str]) -> list[str]:
    queries = words or of_first(lambda: [line.strip() for line in sys.stdin if line.strip()])
    if not queries:
        raise ConfigError("no query; give them as arguments, in quotes, or as lines on standard input")
    return queries


def _indexed(work: Workdir, collection: Collection, trained: Trained) -> search.Find:
    """Search in the index that `index` made."""
    found = index.load(work.index_folder(collection, trained), work.embeddings(collection, trained), own_mesh())
    return search.dense(found, trained.towers.query, work.tokenizer)


def _answer(work: Workdir, words: list[str]) -> None:
    """The questions of the command line, answered; or those of answer.questions, answered and scored."""
    settings, trained = work.config.answer, work.trained(work.config.embed.step)
    if words and settings.questions:
        raise ConfigError(f"answer got {' '.join(words)} and answer.questions={settings.questions}; give one of them")
    if trained.reader is None and not settings.questions:
        raise ConfigError(
            f"{type(work.config.objective).__name__} has no reader, so it finds passages and answers nothing; use "
            "`dense-jax search`, or measure it by questions with answers, --answer.questions=FILE"
        )
    collection = work.collection(trained.towers.passage)
    find = _indexed(work, collection, trained)
    reader = None
    if trained.reader and settings.read:
        length = trained.towers.query.length
        reader = answer.ReaderOnMesh(trained.reader, work.tokenizer, length, own_mesh(), settings.batch)
    if settings.questions:
        path = located(settings.questions)
        asked = answer_report.read_asked(path, work.tokenizer, settings.patterns)
        about = answer_report.About(path.name, collection.name, len(collection.store), trained.step)
        found = answer_report.report(asked, find, collection.store, reader, about)
        target = work.path / "results" / f"{stem(path)}-answers"
        of_first(lambda: found.write(target))
        print(f"{found.table()}\nall answers are in {target}")
    elif reader:
        questions, columns = _typed(words), shutil.get_terminal_size().columns
        ranking = find(questions, min(reader.reader.passages, len(collection.store)))
        for question, reading in zip(questions, reader.read(questions, ranking, collection.store), strict=True):
            print(answer.render(question, reading.answer, columns), end="\n\n")


def _mine(work: Workdir, words: list[str]) -> None:
    """Hard negatives for all training queries, by the trained retriever or by BM25."""
    config, queries, folder = work.config.mine, work.queries, work.path / "mined"
    made_by = {"queries": queries.fingerprint}
    if config.source is Miner.BM25:
        settings = work.config.evaluate
        documents = [queries.documents.document(row) for row in range(len(queries.documents))]
        words_of = mine.Words(BM25(documents, len(documents), settings.bm25_k1, settings.bm25_b))
        made_by |= {"bm25_k1": settings.bm25_k1, "bm25_b": settings.bm25_b}
        mined = mine.mine(queries, queries.documents, words_of, config, folder / "bm25", made_by)
    else:
        trained, documents = work.trained(work.config.embed.step), work.documents_of_queries
        meaning = mine.Meaning(work.index(documents, trained), trained.towers.query, work.tokenizer)
        target = folder / f"dense-{trained.step:08d}"
        made_by |= {"checkpoint": trained.fingerprint}
        mined = mine.mine(queries, queries.documents, meaning, config, target, made_by)
        if config.guide:
            of_first(lambda: mine.write_guide(queries, meaning, target))
    _print_counts(mine.summary(mined, config))


def _evaluate(work: Workdir, words: list[str]) -> None:
    """BM25, the parameters before training and those after it, on one test set."""
    test_set = read_test_set(work.test_folder, work.config.evaluate.split)
    bm25 = {"BM25": _ranked_by_words(work, test_set)} if work.config.evaluate.bm25 and is_first() else {}
    chosen = work.trained(work.config.embed.step)
    before = [work.trained(0)] if work.config.evaluate.before and chosen.step else []
    ours = {"after training" if trained.step else "before training": trained for trained in (*before, chosen)}
    rows = bm25 | {name: _ranked_by_meaning(work, test_set, trained) for name, trained in ours.items()}
    target = work.path / "results" / f"{test_set.name}-{test_set.split}"
    notes = dict.fromkeys(note for result in rows.values() for note in result.notes())
    text = "\n".join([evaluate.table(rows), *notes])

    def write() -> None:
        with in_turn(lock_of(target)):
            for name, result in rows.items():
                evaluate.write(target, name.replace(" ", "_"), result, ours[name].step if name in ours else None)
            with whole_file(target / "table.md") as partial:
                partial.write_text(text + "\n", encoding="utf-8")

    of_first(write)
    print(f"{text}\nstep {chosen.step:,}; all measures and the rankings are in {target}")


def _ranked_by_words(work: Workdir, test_set: TestSet) -> evaluate.Result:
    settings, documents = work.config.evaluate, work.documents(str(work.test_folder))
    words = BM25(documents, len(documents), settings.bm25_k1, settings.bm25_b)
    return evaluate.evaluate(words.search, words.ids, test_set, settings.depth)


def _ranked_by_meaning(work: Workdir, test_set: TestSet, trained: Trained) -> evaluate.Result:
    collection = work.collection(trained.towers.passage, str(work.test_folder))
    dense = search.dense(work.index(collection, trained), trained.towers.query, work.tokenizer)
    return evaluate.evaluate(dense, collection.store.ids(), test_set, work.config.evaluate.depth)


def _export(work: Workdir, words: list[str]) -> None:
    trained = work.trained(work.config.embed.step)
    public = without_folders(work.config)
    card = Card(
        name=work.path.name,
        method=type(work.config.objective).__name__,
        corpus=", ".join(public.corpus.sources),
        steps=trained.step,
        batch=work.config.batch,
        settings=show.settings(public),
        results=measured(work.path, trained.step),
    )
    print(export(trained.towers, work.tokenizer_folder, work.path / "export", card))


VERBS: dict[str, Callable[[Workdir, list[str]], None]] = {
    "show": _show,
    "prepare": _prepare,
    "train": _train,
    "refresh": _refresh,
    "embed": _embed,
    "index": _index,
    "search": _search,
    "answer": _answer,
    "mine": _mine,
    "evaluate": _evaluate,
    "export": _export,
}

_TOGETHER = frozenset({"refresh", "embed", "index", "search", "answer", "mine", "evaluate"})  # `train` joins by itself


def call(verb: str, argv: list[str]) -> None:
    """Runs `verb` with the arguments that follow it.

    Raises:
        UserError: whatever is wrong, with its exit status.
    """
    if verb == "compare":
        print(_compare(argv))
        return
    if verb not in VERBS:
        raise ConfigError(f"no verb {verb!r}; there are {', '.join(VERBS)}, compare")
    asked = flags.parse(argv)
    if asked.words and verb not in ("search", "answer"):
        raise ConfigError(f"{verb} takes no words, but got {' '.join(asked.words)}; settings are --key=value")
    if asked.topology:
        if verb != "show":
            raise ConfigError(
                f"{verb} takes no --topology={asked.topology}; `dense-jax show` compiles for TPUs elsewhere"
            )
        print(_plan(Workdir(writable(asked.workdir), asked.config), asked.topology))
        return
    with leaving_at_once(verb, polls=verb == "train"):
        if verb in _TOGETHER:
            join_processes(os.environ)
            with _only_the_first_speaks():
                VERBS[verb](Workdir(writable(asked.workdir), asked.config), asked.words)
        else:
            if verb != "train":
                check_alone(verb, os.environ)
            VERBS[verb](Workdir(writable(asked.workdir), asked.config), asked.words)


@contextlib.contextmanager
def _only_the_first_speaks() -> Iterator[None]:
    """Of several processes, which all find the same: the others print nothing but errors."""
    with contextlib.nullcontext() if is_first() else contextlib.redirect_stdout(io.StringIO()):
        yield


def _compare(argv: list[str]) -> str:
    """The verb that works on many workdirs and needs no config."""
    flags_given = [arg.removeprefix("--").partition("=") for arg in argv if arg.startswith("--")]
    given = {name: value for name, _, value in flags_given}
    folders = [Path(arg) for arg in argv if not arg.startswith("--")]
    if unknown := given.keys() - {"against", "workdir"}:
        raise ConfigError(f"compare takes --against=NAME and --workdir=DIR, not --{', --'.join(sorted(unknown))}")
    if not folders or not given.get("workdir"):
        raise ConfigError("compare takes the workdirs of finished runs, and --workdir=DIR, where its result goes")
    check_on_disk(given["workdir"], "--workdir")
    return compare(folders, given.get("against", ""), writable(Path(given["workdir"])))


def _examples(work: Workdir) -> Examples:
    return work.examples_of(work.config, max(work.config.steps * work.config.batch, 1))

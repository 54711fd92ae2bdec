"""What each verb does: opens the parts of a workdir, calls the stage, prints the result."""

import contextlib
import functools
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dense_jax import show
from dense_jax.augmented import qa_report, question_answering
from dense_jax.augmented.refresher import refresh
from dense_jax.augmented.versions import VERSIONS, Versions
from dense_jax.cluster import check_alone
from dense_jax.compare import compare
from dense_jax.config import Miner, Refresh
from dense_jax.config.command_line import Comparison, Invocation
from dense_jax.config.tree import without_folders
from dense_jax.data.pipeline import Examples
from dense_jax.data.preparation.common import rows_left_out
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.sources.lines import stem
from dense_jax.errors import ConfigError, Stopped
from dense_jax.hf.export import export
from dense_jax.hf.model_card import Card
from dense_jax.io import absolute, digest, whole_file, writable
from dense_jax.locks import alone, in_turn, lock_of, only_one
from dense_jax.mesh import own_mesh
from dense_jax.multihost import is_process_0, on_process_0
from dense_jax.planning.topology import plan
from dense_jax.processes import join_processes, leaving_at_once, naming_missing_platforms, start_processes
from dense_jax.retrieval import evaluate, mine, search
from dense_jax.retrieval.beir import TestSet, read_test_set
from dense_jax.retrieval.bm25 import BM25
from dense_jax.retrieval.results import claim_folder
from dense_jax.retrieval.same_ids import own_documents
from dense_jax.run_results import measured, row_names
from dense_jax.stopping import Stop
from dense_jax.streams import input_lines
from dense_jax.train.checkpoint import has_checkpoint
from dense_jax.train.loop import make_program, train
from dense_jax.train.restart import move_aside
from dense_jax.train.restore import Trained
from dense_jax.train.same_run import NO_DATA, record
from dense_jax.train.start import check_tokenizer, fitted
from dense_jax.train.warm_start import origin
from dense_jax.types import TrainingQuery
from dense_jax.workdir import Workdir


def _show(work: Workdir, words: list[str]) -> None:
    program = make_program(work.config)
    if not _has_examples(work):
        _print_sections({"settings": show.settings(work.config), "parameters": show.parameters(program.like.params)})
        return
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
    _print_sections(sections)


def _print_sections(sections: Mapping[str, str]) -> None:
    print("\n\n".join(f"== {title}\n{text}" for title, text in sections.items()))


def _has_examples(work: Workdir) -> bool:
    """Whether examples can be shown: a model that is only used, in no steps, may have a tokenizer without a mask."""
    return work.config.steps > 0 or work.vocabulary.mask is not None


def _plan(work: Workdir, topology: str) -> str:
    """What a step takes of TPUs that are not here; nothing need be prepared."""
    words, known_by = work.planned_vocabulary()
    return f"{plan(work.asked, topology, words)}\n\n== vocabulary\n{words:,} words, {known_by}"


def _prepare(work: Workdir, words: list[str]) -> None:
    check_tokenizer(work.asked)
    _print_notes(work)
    root = Path(work.asked.passages.workdir or work.path)
    with alone(root / "prepare.lock", f"{root} is being prepared"):
        _print_counts(prepare(work.asked, work.path))


def _print_notes(work: Workdir) -> None:
    for note in work.notes:
        print(f"note: {note}", file=sys.stderr)


def _print_counts(counts: Mapping[str, Any]) -> None:
    width = max(map(len, counts)) + 2
    for name, value in counts.items():
        print(f"{name:{width}} {value:,}" if isinstance(value, int) else f"{name:{width}} {value}")


def _train(work: Workdir, words: list[str], stop: Stop, *, restart: bool = False) -> None:
    passages, vocabulary = work.passages, work.vocabulary  # or what is missing, before processes are joined
    work.check_init_from()
    start_processes(os.environ, polls=True)
    stop.deferred = True  # until a step is done and saved
    on_process_0(work.check_spans)
    if restart:
        with only_one(work.path / "train.lock", f"--workdir={work.path} is being trained"):
            move_aside(work.path)
    if is_process_0():
        _print_notes(work)
        if _has_examples(work):
            print(f"attention\n{show.attention(_examples(work), work.config.batch)}", file=sys.stderr)
    validator, data = work.validator(), work.learned_data
    try:
        train(
            work.config,
            passages,
            vocabulary,
            work.path,
            validator=validator,
            library=work.library,
            data=data,
            stop_requested=lambda: stop.came,
        )
    except Stopped as stopped:
        if restart:
            stopped.args = (f"{stopped}, without --restart",)
        raise
    if is_process_0():
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
    print(work.index(collection, trained, again=True).summary)


def _search(work: Workdir, words: list[str]) -> None:
    queries, columns = _typed(words), shutil.get_terminal_size().columns
    trained = work.trained(work.config.embed.step)
    collection = work.collection(trained.towers.passage)
    dense = search.dense(work.index(collection, trained), trained.towers.query, work.tokenizer)
    for query, hits in zip(queries, search.search(dense, collection.store, queries, work.config.search.k), strict=True):
        print(search.render(query, hits, columns), end="\n\n")


def _typed(words: list[str]) -> list[str]:
    queries = words or on_process_0(input_lines)
    if not queries or not all(map(str.strip, queries)):
        raise ConfigError(
            "an empty query, or no query at all; give them as arguments, in quotes, or as lines on standard input"
        )
    return queries


def _answer(work: Workdir, words: list[str]) -> None:
    """The questions of the command line, answered; or those of answer.questions, answered and scored."""
    settings, trained = work.config.answer, work.trained(work.config.embed.step)
    if words and settings.questions:
        raise ConfigError(f"answer got {' '.join(words)} and answer.questions={settings.questions}; give one of them")
    if settings.questions:
        _answer_file(work, trained)
        return
    reader = _reader(work, trained)
    if reader is None:
        raise ConfigError(
            f"{type(work.config.objective).__name__} has no reader, so it finds passages and answers nothing; use "
            "`dense-jax search`, or measure it by questions with answers, --answer.questions=FILE"
        )
    questions, columns = _typed(words), shutil.get_terminal_size().columns
    collection = work.collection(trained.towers.passage)
    find = search.dense(work.index(collection, trained), trained.towers.query, work.tokenizer)
    ranking = find(questions, min(reader.reader.passages, len(collection.store)))
    for question, reading in zip(questions, reader.read(questions, ranking, collection.store), strict=True):
        print(question_answering.render(question, reading.answer, columns), end="\n\n")


def _answer_file(work: Workdir, trained: Trained) -> None:
    """The questions of answer.questions, answered and scored."""
    settings, path = work.config.answer, absolute(work.config.answer.questions)
    asked = qa_report.read_asked(path, work.tokenizer, settings.patterns)
    reader = _reader(work, trained) if settings.read else None
    collection = work.collection(trained.towers.passage)
    find = search.dense(work.index(collection, trained), trained.towers.query, work.tokenizer)
    about = qa_report.About(path.name, collection.source, len(collection.store), trained.step)
    found = qa_report.report(asked, find, collection.store, reader, about)

    def write() -> str:
        target = claim_folder(work.path / "results", f"{stem(path)}-answers", settings.questions, digest(path))
        found.write(target)
        return str(target)

    print(f"{found.table()}\nall answers are in {on_process_0(write)}")


def _reader(work: Workdir, trained: Trained) -> question_answering.ReaderOnMesh | None:
    """The reader, if the objective has one."""
    if trained.reader is None:
        return None
    length, batch = trained.towers.query.length, work.config.answer.batch
    return question_answering.ReaderOnMesh(trained.reader, work.tokenizer, length, own_mesh(), batch)


def _mine(work: Workdir, words: list[str]) -> None:
    """Hard negatives for all training queries, by the trained retriever or by BM25."""
    config, queries, folder = work.config.mine, work.queries, work.path / "mined"
    made_by = {"queries": queries.fingerprint}
    if config.source is Miner.BM25:
        settings = work.config.evaluate
        if is_process_0():
            print(f"{work.documents_of_queries.described}; BM25", file=sys.stderr)
        documents = [queries.documents.document(row) for row in range(len(queries.documents))]
        words_of = mine.Words(BM25(documents, len(documents), settings.bm25_k1, settings.bm25_b))
        made_by |= {"bm25_k1": settings.bm25_k1, "bm25_b": settings.bm25_b}
        mined = mine.mine(queries, queries.documents, words_of, config, folder / "bm25", made_by)
    else:
        trained, documents = work.trained(work.config.embed.step), work.documents_of_queries
        mine.check_guide(config, trained.towers.passage.encoder.views)
        meaning = mine.Meaning(work.index(documents, trained), trained.towers.query, work.tokenizer)
        target = folder / f"dense-{trained.step:08d}"
        made_by |= {"checkpoint": trained.fingerprint}
        mined = mine.mine(queries, queries.documents, meaning, config, target, made_by)
        if config.guide:
            on_process_0(lambda: mine.write_guide(queries, meaning, target))
    _print_counts(mine.summary(mined, config))


def _evaluate(work: Workdir, words: list[str]) -> None:
    """BM25, the parameters before training and those after it, on one test set."""
    settings, folder = work.config.evaluate, work.test_folder
    evaluate.check_depth(settings.depth)
    test_set = read_test_set(folder, settings.split)
    chosen = work.trained(work.config.embed.step)
    before = [work.trained(0)] if settings.before and chosen.step else []
    rows = [_ranked_by_words(work, test_set)] if settings.bm25 and is_process_0() else []
    rows += [_ranked_by_meaning(work, test_set, trained) for trained in (*before, chosen)]
    notes = dict.fromkeys(note for row in rows for note in row.result.notes(row.name))
    if left_out := rows_left_out(work.collection(chosen.towers.passage, str(folder)).store.folder):
        notes[f"{test_set.name}/{test_set.split}: {left_out}"] = None
    text = "\n".join([evaluate.table({row.name: row.result for row in rows}), *notes])

    content, name = work.content_of(folder, settings.split), f"{test_set.name}-{test_set.split}"

    def write() -> str:
        results = work.path / "results"
        with in_turn(lock_of(results / name)):
            target = claim_folder(results, name, settings.folder, content)
            for row in rows:
                evaluate.write(target, row.file, row.result, row.step)
            with whole_file(target / "table.md") as partial:
                partial.write_text(text + "\n", encoding="utf-8")
        return str(target)

    target = on_process_0(write)
    if not has_checkpoint(work.path / "checkpoints"):  # a model as it is: what `compare` reads of a run
        record(work.config, work.path, NO_DATA)
    print(f"{text}\nstep {chosen.step:,}; all measures and the rankings are in {target}")


def _ranked_by_words(work: Workdir, test_set: TestSet) -> evaluate.Row:
    settings, documents = work.config.evaluate, work.documents(str(work.test_folder))
    words = BM25(documents, len(documents), settings.bm25_k1, settings.bm25_b)
    own = own_documents(
        settings.drop_same_id, test_set.queries, words.ids, lambda rows: [documents[row] for row in rows]
    )
    result = evaluate.evaluate(words.search, words.ids, test_set, settings.depth, own)
    return evaluate.Row("BM25", "BM25", None, result)


def _ranked_by_meaning(work: Workdir, test_set: TestSet, trained: Trained) -> evaluate.Row:
    collection = work.collection(trained.towers.passage, str(work.test_folder))
    dense = search.dense(work.index(collection, trained), trained.towers.query, work.tokenizer)
    settings, ids = work.config.evaluate, collection.store.ids()
    own = own_documents(settings.drop_same_id, test_set.queries, ids, collection.store.texts)
    result = evaluate.evaluate(dense, ids, test_set, settings.depth, own)
    return evaluate.Row(*row_names(work.path, work.config, trained.step), trained.step, result)


def _export(work: Workdir, words: list[str]) -> None:
    trained = work.trained(work.config.embed.step)
    public, objective, start = without_folders(work.config), work.config.objective, origin(work.config.init_from)
    sources = ", ".join(public.corpus.sources)
    card = Card(
        name=work.path.absolute().name,
        method=type(objective).__name__,
        corpus=f"the training queries of {sources}" if objective.learns_from is TrainingQuery else sources,
        base=start.words,
        base_model=start.model,
        license=work.config.export.licence,
        steps=trained.step,
        batch=work.config.batch,
        settings=show.settings(public),
        results=measured(work.path, trained.step),
    )
    print(export(trained.towers, work.saved_tokenizer(), work.path / "export", card))


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


def call(verb: str, asked: Invocation | Comparison, stop: Stop) -> None:
    """Runs `verb` with what its command line says; `stop` has the signals that come meanwhile.

    Raises:
        UserError: whatever is wrong, with its exit status.
    """
    workdir = writable(asked.workdir)
    if isinstance(asked, Comparison):
        print(compare(asked.folders, asked.against, workdir))
        return
    stages = VERBS | {"train": functools.partial(_train, stop=stop, restart=asked.restart)}
    with leaving_at_once(verb, polls=verb == "train"), naming_missing_platforms(os.environ):
        config, notes = fitted(asked.config, asked.given, workdir)
        if asked.topology:
            print(_plan(Workdir(workdir, config), asked.topology))
        elif verb in _TOGETHER:
            join_processes(os.environ)
            with _only_the_first_speaks():
                stages[verb](Workdir(workdir, config), asked.words)
        else:
            if verb != "train":
                check_alone(verb, os.environ)
            stages[verb](Workdir(workdir, config, notes), asked.words)


@contextlib.contextmanager
def _only_the_first_speaks() -> Iterator[None]:
    """Of several processes, which all find the same: the others print nothing but errors."""
    with contextlib.nullcontext() if is_process_0() else contextlib.redirect_stdout(io.StringIO()):
        yield


def _examples(work: Workdir) -> Examples:
    return work.examples_of(work.config, max(work.config.steps * work.config.batch, 1))

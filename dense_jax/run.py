"""The Python API: a workdir and the stages of its run as methods. The verbs of the command line are these methods.

    run = dense_jax.Run("runs/mine", dense_jax.load_config("ict:tiny", {"corpus.source": "docs.jsonl"}))
    run.prepare(); run.train(); run.search(["a query"])

Notes and progress go to standard error.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dense_jax.arrays import Float, np
from dense_jax.augmented import qa_report, question_answering
from dense_jax.augmented.loader import open_retrieval_loader
from dense_jax.augmented.refresher import refresh
from dense_jax.augmented.versions import VERSIONS, Versions
from dense_jax.config import Config, FusionConfig, Miner, Refresh
from dense_jax.config.overrides import LoadedConfig
from dense_jax.config.remembered import is_remembered, recall_config, remember, remembers_settings
from dense_jax.config.tree import to_dict, with_full_paths, without_folders
from dense_jax.data.pipeline import Examples
from dense_jax.data.preparation.collection import Collection, TextPassages
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.sources.lines import stem
from dense_jax.errors import ConfigError, Stopped, StorageError
from dense_jax.evaluation import EvaluationTable, evaluated
from dense_jax.hf.export import ExportReport, export
from dense_jax.hf.model_card import CardContent
from dense_jax.io import check_name, digest, writable
from dense_jax.mesh import process_mesh
from dense_jax.objective import Loader
from dense_jax.planning.topology import plan_report
from dense_jax.processes.locks import alone, only_one
from dense_jax.processes.multihost import is_process_0, on_process_0
from dense_jax.remote.paths import absolute
from dense_jax.report.page import write_report
from dense_jax.retrieval import search
from dense_jax.retrieval.consistency import filter_pairs
from dense_jax.retrieval.embed import encode_passages
from dense_jax.retrieval.encode import TowerOnMesh, encode_queries
from dense_jax.retrieval.fusion import Fusion, at_depth, describe
from dense_jax.retrieval.index import Index
from dense_jax.retrieval.mine import (
    BM25Retriever,
    DenseRetriever,
    HybridRetriever,
    Retriever,
    check_guide,
    mine,
    summary,
    write_guide,
)
from dense_jax.retrieval.results import claim_folder
from dense_jax.retrieval.search import Hit, TextSearch
from dense_jax.retrieval.vectors import Vectors
from dense_jax.run_results import HYBRID, measured
from dense_jax.terminal import show
from dense_jax.terminal.overview import overview
from dense_jax.terminal.stage_results import Counts, Overview, Sections, Training
from dense_jax.train.loader import LoaderContext, open_corpus_loader
from dense_jax.train.loop import make_program, train
from dense_jax.train.restart import move_aside
from dense_jax.train.restore import Trained
from dense_jax.train.same_run import Data, check_continues, record, recorded
from dense_jax.train.start import check_tokenizer, fitted
from dense_jax.train.warm_start import initial_weights, origin
from dense_jax.types import TrainingQuery
from dense_jax.workdir import Workdir

_OUT = "--out=DIR"


class Run:
    """A workdir and the stages of its run; a stage continues where an earlier call was stopped."""

    def __init__(
        self, workdir: str | Path, config: LoadedConfig | Config | None = None, *, out: str | Path | None = None
    ) -> None:
        """Without a `config` the run has the one that the workdir remembers.

        New files go to `out` in place of the workdir, which may then be read-only. `prepare`, `train` and `refresh`
        write to the workdir.

        Raises:
            ConfigError: there is no config, or its start does not fit it.
        """
        self.path = check_name(Path(workdir))
        self.out = None if out is None else Path(out)
        if config is None and not is_remembered(self.path):
            raise ConfigError(
                f"{self.path} remembers no config; give one, such as dense_jax.load_config('ict:tiny'), or name "
                "another workdir"
            )
        loaded = recall_config(self.path) if config is None else config
        loaded = LoadedConfig("", loaded) if isinstance(loaded, Config) else loaded
        self._loaded = LoadedConfig(loaded.name, with_full_paths(loaded.config), loaded.given)
        self._open()

    def _open(self) -> None:
        """Forget what was read of the workdir, since a stage has changed it."""
        config, notes = fitted(self._loaded.config, self._loaded.given, self.path)
        self._work = Workdir(self.path, config, notes, self.out)
        for name in ("_whole", "_trained", "_collection", "_find", "_find_hybrid", "_query_tower", "_passage_tower"):
            self.__dict__.pop(name, None)

    @property
    def config(self) -> Config:
        """The config, with the settings that follow from `init_from`."""
        return self._work.asked

    def show(self, *, full: bool = False) -> Overview | Sections:
        """The checked config, one decoded example, parameters, memory and the plan, on one screen. Writes nothing.

        With `full` all settings, the shape of each array of a batch and of each parameter too.
        """
        work = self._work
        program = make_program(work.config)
        if not full:
            examples = self._examples if self._has_examples else None
            return overview(program, work.config, examples, work.tokenizer)
        parameters = show.parameters(program.like.params)
        if not self._has_examples:
            return Sections({"settings": show.settings(work.config), "parameters": parameters})
        examples = self._examples
        return Sections(
            {
                "settings": show.settings(work.config),
                "compute type": show.compute_types(examples),
                "attention": show.attention(examples, work.config.batch),
                "example": show.example(examples, work.tokenizer),
                **({"salient spans": show.spans(examples, work.tokenizer)} if work.config.spans.sources else {}),
                "batch": show.batch(examples, work.config),
                "parameters": parameters,
                "memory": show.memory(program, examples),
                "plan": show.plan(examples, work.config),
            }
        )

    def plan(self, topology: str, *, traffic: bool = False) -> str:
        """Memory, step time and largest batch on TPUs elsewhere, such as v5e:16x16; nothing need be prepared.

        With `traffic`, also the lines of code whose operations move the most bytes.
        """
        words, known_by = self._work.planned_vocabulary()
        report = plan_report(self._work.asked, topology, words, traffic=traffic)
        return f"{report}\n\n== vocabulary\n{words:,} words, {known_by}"

    def prepare(self) -> Counts:
        """Documents to sentences, passages and tokens."""
        work = self._work
        writable(self.path)
        check_tokenizer(work.asked)
        _print_notes(self._work.notes)
        root = Path(work.asked.passages.workdir or work.path)
        with alone(root / "prepare.lock", f"{root} is being prepared"):
            self._remember_first()
            counts = prepare(work.asked, work.path)
        if recorded(self.path) is None:
            remember(self._loaded, self.path)
        elif not remembers_settings(self._loaded, self.path):
            note = "was trained and keeps the settings of its run; give changed ones to `dense-jax train`"
            print(f"note: {self.path} {note}", file=sys.stderr)
        self._open()
        return Counts(counts)

    def train(
        self,
        *,
        restart: bool = False,
        join: Callable[[], None] = lambda: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> Training:
        """Train to the last step, from the newest checkpoint if there is one.

        With `restart` the run starts over, and what it wrote before is moved aside. `join` is called once the data are
        known to be prepared, and before a device is used: to join other processes. `stop_requested` is called after
        each step; where it returns True, the run saves a checkpoint and raises Stopped.
        """
        work = self._work
        writable(self.path)
        passages, vocabulary = work.passages, work.vocabulary
        work.check_init_from()
        join()
        on_process_0(work.check_spans)
        with only_one(self.path / "train.lock", f"--workdir={self.path} is being trained"):
            if restart:
                move_aside(self.path)
            data = work.learned_data
            check_continues(work.config, self.path, data)
            self._print_start()
            try:
                train(
                    work.config,
                    passages,
                    vocabulary,
                    self.path,
                    warm_start=functools.partial(initial_weights, work.config),
                    record_start=functools.partial(self._record_start, data),
                    open_loader=self._open_loader,
                    validator=work.validator(),
                    digests=data.digests,
                    stop_requested=stop_requested,
                )
            except Stopped as stopped:
                if restart:
                    stopped.args = (f"{stopped}, without --restart",)
                raise
        self._open()
        return Training(self.path / "checkpoints", self.path / "metrics.jsonl")

    def _print_start(self) -> None:
        """Print the notes on the config and the attention kernels."""
        if is_process_0():
            _print_notes(self._work.notes)
            if recorded(self.path) is None:
                _print_notes(self._work.config.objective.notes(self._work.passages))
            if self._has_examples:
                print(f"compute type: {show.compute_types(self._examples)}", file=sys.stderr)
                print(f"attention: {show.attention(self._examples, self._work.config.batch)}", file=sys.stderr)

    def _record_start(self, data: Data) -> None:
        """Record the identity of a new run, and the config that later verbs are to use."""
        if on_process_0(lambda: recorded(self.path) is None):
            record(self._work.config, self.path, data)
        on_process_0(lambda: remember(self._loaded, self.path))

    def _open_loader(self, context: LoaderContext) -> Loader:
        library = self._work.library
        return open_retrieval_loader(context, library=library) if library else open_corpus_loader(context)

    def refresh(self) -> None:
        """Make the index of each snapshot, during a training that looks passages up."""
        work = self._work
        writable(self.path)
        library = work.library
        if library is None:
            raise ConfigError(f"{type(work.asked.objective).__name__} looks no passages up while it trains")
        config = work.config
        if config.neighbours.refresh is not Refresh.ASYNCHRONOUS:
            raise ConfigError(
                f"neighbours.refresh={config.neighbours.refresh.value}: the trainer makes its indexes itself; give "
                "both it and this --neighbours.refresh=asynchronous"
            )
        versions = Versions(work.path / VERSIONS, library, config, process_mesh())
        with only_one(work.path / "refresh.lock", f"--workdir={work.path} is being refreshed"):
            refresh(versions, work.path, config.steps, work.trained)

    def embed(self) -> Vectors:
        """The vectors of the searched collection, made as far as they are missing."""
        self._check_writable()
        return self._work.embeddings(self._collection, self._trained)

    def index(self) -> Index:
        """The nearest-neighbour index over the vectors, built again."""
        self._check_writable()
        for name in ("_find", "_find_hybrid"):
            self.__dict__.pop(name, None)
        return self._work.index(self._collection, self._trained, again=True)

    def search(self, queries: Sequence[str], k: int | None = None, *, hybrid: bool = False) -> list[list[Hit]]:
        """The k best documents for each query; `search.k` where no k is given. Makes missing vectors and indexes.

        With `hybrid` the ranking is fused with that of BM25, by the settings `fusion`.

        Raises:
            DataError: a query is empty.
            StorageError: vectors or index are missing, the workdir is read-only, and no `out` is given.
        """
        find = self._find_hybrid if hybrid else self._find
        k = k or self._work.config.search.k
        if hybrid:
            self._print_fusion(at_depth(self._work.config.fusion, k))
        return search.search(find, self._collection.store, queries, k)

    def encode_queries(self, texts: Sequence[str]) -> Float[np.ndarray, "q d"]:
        """The float32 vectors of queries: one of each."""
        return encode_queries(texts, self._query_tower, self._work.tokenizer)

    def encode_passages(self, texts: Sequence[str | tuple[str, str]]) -> Float[np.ndarray, "p *n d"]:
        """The float32 vectors of texts, or of pairs of title and text; of several views [p n d].

        They equal those that `embed` writes in float32 for documents of the same title and text, without `embed.split`.
        """
        tower, tokenizer = self._passage_tower, self._work.tokenizer
        passages = TextPassages(texts, tokenizer)
        found = encode_passages(passages, range(len(passages)), tower, tokenizer, self._work.config.embed.batch)
        views = tower.tower.encoder.views
        return found if views == 1 else found.reshape(len(passages), views, -1)

    def answer(self, questions: Sequence[str]) -> list[question_answering.Answer | None]:
        """The best span for each question, with its passage; None where nothing was found to read.

        Raises:
            ConfigError: the objective has no reader.
        """
        reader = self._reader()
        if reader is None:
            raise ConfigError(
                f"{type(self._work.config.objective).__name__} has no reader, so it finds passages and answers "
                "nothing; use `dense-jax search`, or measure it by questions with answers, --answer.questions=FILE"
            )
        store = self._collection.store
        ranking = self._find(questions, min(reader.reader.passages, len(store)))
        return [reading.answer for reading in reader.read(questions, ranking, store)]

    def score_answers(self) -> tuple[qa_report.Report, Path]:
        """Figures of the questions of `answer.questions`, and the folder that holds them."""
        work = self._work
        self._check_writable()
        settings, path = work.config.answer, absolute(work.config.answer.questions)
        trained = self._trained
        asked = qa_report.read_judged_questions(path, work.tokenizer, settings.patterns)
        reader = self._reader() if settings.read else None
        collection = self._collection
        about = qa_report.Provenance(path.name, collection.source, len(collection.store), trained.step)
        found = qa_report.report(asked, self._find, collection.store, reader, about)

        def write() -> str:
            target = claim_folder(work.written / "results", f"{stem(path)}-answers", settings.questions, digest(path))
            found.write(target)
            return str(target)

        return found, Path(on_process_0(write))

    def mine(self) -> Counts:
        """Hard negatives for all training queries, by the trained retriever, by BM25, or by both."""
        work = self._work
        self._check_writable()
        config, queries = work.config.mine, work.queries
        retriever, name, made_by = self._retriever(config.source)
        folder = work.written / "mined" / name
        made_by |= {"queries": queries.fingerprint}
        mined = mine(queries, queries.documents, retriever, config, folder, made_by)
        if config.guide:
            assert isinstance(retriever, DenseRetriever)
            on_process_0(lambda: write_guide(queries, retriever, folder))
        return Counts(summary(mined, config))

    def _retriever(self, source: Miner) -> tuple[Retriever, str, dict[str, Any]]:
        """A retriever of the documents of the training queries, the name of its file, and its settings."""
        match source:
            case Miner.BM25:
                return self._bm25_retriever()
            case Miner.DENSE:
                return self._dense_retriever()
        lexical, _, formula = self._bm25_retriever()
        dense, _, checkpoint = self._dense_retriever()
        config, positives = self._work.config, max(self._work.queries.positive_counts())
        fusion = at_depth(config.fusion, config.mine.depth + positives)  # for all queries the same
        self._print_fusion(fusion)
        made_by = formula | checkpoint | {"fusion": to_dict(fusion)}
        return HybridRetriever(lexical, dense, fusion), f"hybrid-{self._trained.step:08d}", made_by

    def _bm25_retriever(self) -> tuple[BM25Retriever, str, dict[str, Any]]:
        """BM25, its name and its settings, as `_retriever`."""
        settings, documents = self._work.config.evaluate, self._work.documents_of_queries
        self._remember_first()
        if is_process_0():
            print(f"{documents.described}; BM25", file=sys.stderr)
        made_by = {"bm25_k1": settings.bm25_k1, "bm25_b": settings.bm25_b}
        return BM25Retriever(self._work.bm25(documents)), "bm25", made_by

    def _dense_retriever(self) -> tuple[DenseRetriever, str, dict[str, Any]]:
        """The trained retriever, its name and its settings, as `_retriever`."""
        work, trained = self._work, self._trained
        check_guide(work.config.mine, trained.towers.passage.encoder.views)
        index = work.index(work.documents_of_queries, trained)
        dense = DenseRetriever(index, trained.towers.query, work.tokenizer)
        return dense, f"dense-{trained.step:08d}", {"checkpoint": trained.fingerprint}

    def filter(self) -> Counts:
        """The training pairs whose passage the trained retriever ranks among the best; what stays and what goes.

        Before training, the retriever is the model of `init_from`.
        """
        self._check_writable()
        work = self._work
        if work.asked.init_from and recorded(self.path) is None:
            work = replace(work, asked=replace(work.asked, steps=0, tokens=0))
        trained, queries = work.narrowed(work.trained(work.asked.embed.step)), work.queries
        vectors = work.embeddings(work.documents_of_queries, trained)
        tower = TowerOnMesh(trained.towers.query, process_mesh())
        made_by = {"checkpoint": trained.fingerprint, "queries": queries.fingerprint, "vectors": vectors.fingerprint}
        folder = work.written / "filtered" / f"dense-{trained.step:08d}"
        return Counts(filter_pairs(queries, vectors, tower, work.tokenizer, work.asked.filter, folder, made_by))

    def evaluate(self) -> EvaluationTable:
        """BM25, the parameters before training, those after it, and both together, on one test set."""
        self._check_writable()
        return evaluated(self._work, self._trained)

    def export(self) -> ExportReport:
        """A verified folder for transformers and sentence-transformers, with all numbers of the vectors."""
        work = self._work
        self._check_writable()
        trained = self._whole
        public, objective, start = without_folders(work.config), work.config.objective, origin(work.config.init_from)
        sources = ", ".join(public.corpus.sources)
        results = [result for place in work.places for result in measured(place, trained.step)]
        card = CardContent(
            name=work.path.absolute().name,
            method=type(objective).__name__,
            corpus=f"the training queries of {sources}" if objective.learns_from is TrainingQuery else sources,
            base=start.words,
            base_model=start.model,
            license=work.config.export.licence,
            steps=trained.step,
            batch=work.config.batch,
            settings=show.settings(public),
            results=tuple(dict.fromkeys(results)),
        )
        return export(trained.towers, work.saved_tokenizer(), work.written / "export", card)

    def report(self) -> Path:
        """Write `report.html`, one page about the run, and return its path."""
        self._check_writable()
        return write_report(self._work)

    def _check_writable(self) -> None:
        """
        Raises:
            ConfigError: what a stage writes can go neither to the workdir nor to `out`.
        """
        writable(self._work.written, f"name another one by {_OUT}")

    def _remember_first(self) -> None:
        """Record the config where the workdir has none; a read-only workdir stays as it is."""
        if not is_remembered(self.path):
            with contextlib.suppress(StorageError):
                remember(self._loaded, self.path)

    @property
    def _has_examples(self) -> bool:
        """False of a model that is only used, in no steps, and whose tokenizer has no mask."""
        return self._work.config.steps > 0 or self._work.vocabulary.mask is not None

    @property
    def _examples(self) -> Examples:
        config = self._work.config
        return self._work.examples_of(config, max(config.steps * config.batch, 1))

    @functools.cached_property
    def _trained(self) -> Trained:
        """The towers of the checkpoint `embed.step`, with vectors of `embed.width`."""
        return self._work.narrowed(self._whole)

    @functools.cached_property
    def _whole(self) -> Trained:
        """The towers of the checkpoint `embed.step`."""
        trained = self._work.trained(self._work.config.embed.step)
        if self.out is None:
            on_process_0(self._remember_first)
        return trained

    @functools.cached_property
    def _collection(self) -> Collection:
        """The documents that are searched."""
        return self._work.collection(self._trained.towers.passage)

    @functools.cached_property
    def _find(self) -> TextSearch:
        with self._naming_out():
            index = self._work.index(self._collection, self._trained)
        return search.dense_search(index, self._trained.towers.query, self._work.tokenizer)

    @functools.cached_property
    def _find_hybrid(self) -> TextSearch:
        work, dense = self._work, self._find
        with self._naming_out():
            bm25 = work.bm25(self._collection)
        return search.hybrid_search(bm25, dense, self._collection.store.ids(), work.config.fusion)

    def _print_fusion(self, fusion: FusionConfig) -> None:
        if is_process_0():
            print(f"{HYBRID}: {describe(Fusion(fusion))}", file=sys.stderr)

    @contextlib.contextmanager
    def _naming_out(self) -> Iterator[None]:
        """Add the fix, another folder, to the error of a read-only workdir that lacks what is searched."""
        try:
            yield
        except StorageError as error:
            if self.out is None and not os.access(self.path, os.W_OK):
                raise StorageError(f"{error}; name a folder for what is missing by {_OUT}") from error
            raise

    @functools.cached_property
    def _query_tower(self) -> TowerOnMesh:
        return TowerOnMesh(self._trained.towers.query, process_mesh())

    @functools.cached_property
    def _passage_tower(self) -> TowerOnMesh:
        return TowerOnMesh(self._trained.towers.passage, process_mesh())

    def _reader(self) -> question_answering.ReaderOnMesh | None:
        """The reader, if the objective has one."""
        trained, work = self._trained, self._work
        if trained.reader is None:
            return None
        length, batch = trained.towers.query.length, work.config.answer.batch
        return question_answering.ReaderOnMesh(trained.reader, work.tokenizer, length, process_mesh(), batch)


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)

"""A workdir: the one folder that data flows through, and where each stage leaves its part.

tokenizer  test  rejects.jsonl  passages-LENGTH       prepare (or spans-, chunks-; documents, queries-SPLIT)
config.json  checkpoints  metrics.jsonl  tensorboard  train
neighbours/STEP                                       train or refresh: the indexes that training searches
questions.json                                        train, with corpus.questions: which they are
probes.json  probe/NAME-SPLIT-QUERIES-DOCUMENTS       train, with probe.every
collections/NAME  embeddings/NAME-STEP                embed
index/NAME-STEP                                       index
mined/NAME.jsonl                                      mine
results/NAME-SPLIT                                    evaluate
results/NAME-answers                                  answer, with answer.questions
export                                                export
"""

import sys
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import jax

from dense_jax.agreement import first_then_all, of_first
from dense_jax.config import Config, Mixing, Unit, require
from dense_jax.config_tree import checked, differences, with_vocabulary
from dense_jax.contracts import Answered, Document, Retrieves, Tower, Vocabulary
from dense_jax.data.held_out import SPLIT
from dense_jax.data.pipeline import Examples, steps_for
from dense_jax.data.preparation.common import check_test_set
from dense_jax.data.preparation.prepare import open_collection, open_passages, passages_folder, prepare_collection
from dense_jax.data.preparation.queries import open_queries, queries_folder
from dense_jax.data.salient.chosen import spans_settings
from dense_jax.data.sources.judgements import beir_files
from dense_jax.data.sources.lines import stem
from dense_jax.data.stores.passage_store import PassageStore, is_finished
from dense_jax.data.stores.query_store import QueryStore
from dense_jax.data.stores.question_set import QuestionSet, check_same_questions
from dense_jax.data.tokenizer import Tokenizer, has_tokenizer, import_folder
from dense_jax.errors import ConfigError, StorageError
from dense_jax.files import AnyPath, digest, located
from dense_jax.locks import in_turn, lock_of
from dense_jax.mesh import own_mesh
from dense_jax.models.hf_config import check_padding
from dense_jax.progress import progress
from dense_jax.retrieval import index
from dense_jax.retrieval.beir import read_test_set
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.sample import write_sample
from dense_jax.retrieval.vectors import Vectors
from dense_jax.train.probe import Sample
from dense_jax.train.restore import Trained, load_trained
from dense_jax.train.versions import Library
from dense_jax.train.warm_start import as_run

_SAMPLE = 1_024  # examples that the number of tokens of an example is estimated from


@dataclass(frozen=True)
class Collection:
    """Passages that can be searched."""

    name: str
    store: PassageStore


@dataclass(frozen=True)
class Workdir:
    """A workdir and the config it is used with; its parts are opened when asked for."""

    path: Path
    asked: Config

    @cached_property
    def config(self) -> Config:
        """The config with the tokenizer's vocabulary size, and with steps where it asks for tokens."""
        check_padding(self.asked.objective, self.tokenizer.vocabulary.pad)
        config = replace(self.asked, objective=with_vocabulary(self.asked.objective, self.tokenizer.size))
        if not config.tokens:
            return config
        require(
            not isinstance(config.objective, Retrieves),
            f"tokens={config.tokens} cannot be counted ahead where passages are looked up; use --steps",
        )
        loader = replace(config.loader, mixing=Mixing.EXAMPLE)  # else few batches, and of them few sources, are seen
        sample = self.examples_of(replace(config, seed=0, loader=loader), _SAMPLE)  # all seeds take as many steps
        steps = steps_for(sample, config.tokens, config.batch)
        return checked(replace(config, tokens=0, steps=steps))

    def examples_of(self, config: Config, count: int) -> Examples:
        """The first `count` examples of a run."""
        return Examples(
            self.passages,
            config.objective,
            self.vocabulary,
            config.loader,
            config.seed,
            length=count,
            batch=config.batch,
            searched=self.library.passages if self.library else None,
        )

    @property
    def prepared(self) -> Path:
        """Where the tokenizer, the passages and the test set are.

        Raises:
            ConfigError: nothing was prepared there.
        """
        path = Path(self.asked.passages.workdir or self.path)
        passages, spans = self.asked.passages, self.asked.spans.sources
        asked = passages.unit is Unit.QUERIES
        folder = queries_folder(path, self.asked.corpus) if asked else passages_folder(path, passages, spans)
        if not is_finished(folder):
            kind = "queries" if asked else f"{passages.unit.value} of {passages.length} tokens"
            kind += f" with spans.{', spans.'.join(spans)}" if spans else ""
            raise ConfigError(f"{path} holds no prepared {kind}; run `dense-jax prepare` first")
        return path

    @property
    def tokenizer_folder(self) -> Path:
        return self.prepared / "tokenizer"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.tokenizer_folder)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the objective must know of the tokenizer."""
        return self.tokenizer.with_prompts(self.asked.objective.prompts())

    def planned_vocabulary(self) -> tuple[int, str]:
        """How many words the tokenizer has or will have, and how that is known; nothing need be prepared."""
        prepared, asked = Path(self.asked.passages.workdir or self.path) / "tokenizer", self.asked.tokenizer
        if has_tokenizer(prepared):
            return Tokenizer.load(prepared).size, f"of the tokenizer in {prepared}"
        if asked.path:
            return import_folder(Path(asked.path)).size, f"of tokenizer.path={asked.path}"
        return asked.vocab_size, "of tokenizer.vocab_size, since nothing is prepared"

    @cached_property
    def passages(self) -> PassageStore | QueryStore | QuestionSet:
        """What is trained on."""
        if self.asked.objective.learns_from is Answered:
            return self.questions
        if self.asked.passages.unit is Unit.QUERIES:
            return self.queries
        return self._blocks

    @cached_property
    def _blocks(self) -> PassageStore:
        """The prepared passages, spans or chunks."""
        return open_passages(self.prepared, self.asked.passages, self.asked.spans.sources)

    @cached_property
    def questions(self) -> QuestionSet:
        """The questions with answers that are learned from.

        Raises:
            ConfigError: none are named.
        """
        path = self.asked.corpus.questions
        require(
            bool(path),
            f"{type(self.asked.objective).__name__} learns from questions with answers; name their file by "
            "--corpus.questions=FILE",
        )
        questions = QuestionSet(located(path), self.tokenizer, self.asked.corpus.max_rejects)
        print(questions, file=sys.stderr)
        return questions

    def check_questions(self) -> None:
        """
        Raises:
            ConfigError: a run that began here learned from other questions.
        """
        if path := self.asked.corpus.questions:
            check_same_questions(located(path), self.path / "questions.json")

    def check_spans(self) -> None:
        """
        Raises:
            ConfigError: the prepared passages have other salient spans than those that the objective is to mask.
            DataError: a file of spans that the config names is not there.
        """
        if not self.asked.objective.masks_spans:
            return
        store, asked = self._blocks, spans_settings(self.asked.spans)
        if changes := list(differences(store.manifest["settings"]["spans"], asked, "spans.")):
            raise ConfigError(
                f"{store.folder} was prepared with other salient spans:\n  " + "\n  ".join(changes) + "\n"
                "use these settings again, or run `dense-jax prepare` in another --workdir or passages.workdir"
            )

    @cached_property
    def library(self) -> Library | None:
        """What an objective that retrieves looks passages up in; None for the others."""
        if not isinstance(self.asked.objective, Retrieves):
            return None
        passages = self._blocks
        return Library(passages, self.tokenizer, f"{passages.fingerprint}-{self.tokenizer.fingerprint}")

    @cached_property
    def queries(self) -> QueryStore:
        """The training queries, whatever is trained on.

        Raises:
            StorageError: none were prepared.
        """
        return open_queries(Path(self.asked.passages.workdir or self.path), self.asked.corpus)

    @cached_property
    def test_folder(self) -> AnyPath:
        """The BEIR folder that `evaluate` works on.

        Raises:
            ConfigError: none is named, and `prepare` held none out.
            StorageError: that which `prepare` held out has changed.
        """
        named = self.asked.evaluate.folder
        folder = located(named) if named else self.prepared / "test"
        if not folder.is_dir():
            raise ConfigError(
                f"there is no test set at {folder}; name a BEIR folder by --evaluate.folder=DIR, "
                "or have `prepare` hold documents out by --corpus.held_out=500"
            )
        if not named:
            check_test_set(self.prepared)
        return folder

    def collection(self, tower: Tower, source: str = "") -> Collection:
        """What `tower` embeds: `source`, what the config names, the held-out test set, or what was prepared.

        Spans lack the documents of a single one, and chunks are of several documents: in their place the corpus itself
        is embedded. With queries it is what they are about.

        Raises:
            ConfigError: that is more than one source.
        """
        held_out, searched = self.prepared / "test", self.asked.passages.unit is Unit.PASSAGES
        source = source or self.asked.embed.collection or (str(held_out) if held_out.is_dir() else "")
        if not source and self.asked.passages.unit is Unit.QUERIES:
            return self.documents_of_queries
        if not source and searched:
            return Collection("passages", self._blocks)
        source = source or self._only_source()
        split = tower.length if self.asked.embed.split else 0
        name = stem(Path(source)) + (f"-{split}" if split else "")
        folder = self.path / "collections" / name
        make = partial(prepare_collection, source, self.asked, self.tokenizer, folder, split=split)
        return Collection(name, first_then_all(make))

    @property
    def documents_of_queries(self) -> Collection:
        """The documents that the training queries are about, each whole."""
        return Collection("documents", self.queries.documents)

    def _only_source(self) -> str:
        first, *others = self.asked.corpus.sources
        require(
            not others,
            f"{self.asked.passages.unit.value} are not searched, and the corpus in their place has {len(others) + 1} "
            f"sources; name what to embed by --embed.collection, such as {first}",
        )
        return first

    def documents(self, source: str) -> list[Document]:
        """The documents of `source`, whole."""
        return [row for row in open_collection(source, self.asked) if isinstance(row, Document)]

    def sample(self) -> Sample:
        """What a run is probed on, made now if it is not there yet; all processes ask for it together.

        Raises:
            ConfigError: no test set is named, and `prepare` held none out.
            DataError: it lacks the split, or has no relevant document.
            StorageError: that which `prepare` held out has changed.
        """
        settings = self.asked.probe
        folder = located(settings.folder) if settings.folder else self.prepared / "test"
        require(
            bool(settings.folder) or folder.is_dir(),
            f"probe.every={settings.every}, but there are no judged queries; name a BEIR folder by "
            "--probe.folder=DIR, or have `prepare` hold documents out by --corpus.held_out=500",
        )
        split = settings.split if settings.folder else SPLIT
        target = Path(of_first(lambda: self._write_sample(folder, split)))
        collection = self.collection(self._passage_tower, str(target))
        test_set = read_test_set(target, split)
        fingerprint = f"{collection.store.fingerprint}-{digest(target / 'qrels' / f'{split}.tsv')}"
        return Sample(test_set, collection.store, self.tokenizer, fingerprint)

    def _write_sample(self, folder: AnyPath, split: str) -> str:
        """Where it is."""
        settings = self.asked.probe
        if not settings.folder:
            check_test_set(self.prepared)
        whole, corpus = read_test_set(folder, split), open_collection(str(folder), self.asked)
        name = f"{whole.name}-{split}-{settings.queries}-{settings.documents}".replace(".", "_")
        target = self.path / "probe" / name
        files = {path.name: digest(path) for path in beir_files(folder, split)}
        with in_turn(lock_of(target)):
            write_sample(
                target,
                whole,
                (row for row in progress(corpus, "sample", None, "documents") if isinstance(row, Document)),
                queries=settings.queries,
                size=settings.documents,
                made_from={"corpus": corpus.fingerprint(), "files": files},
            )
        return str(target)

    @property
    def _passage_tower(self) -> Tower:
        """With the shapes of its parameters in their place."""
        objective = self.config.objective
        return objective.towers(jax.eval_shape(objective.init, jax.random.key(0))).passage

    def check_init_from(self) -> None:
        """
        Raises:
            ConfigError: what `init_from` or `init_reader_from` names was trained on other token ids than those of this
                workdir.
        """
        for setting in ("init_from", "init_reader_from"):
            if path := getattr(self.asked, setting):
                self._check_ids(path, setting)

    def _check_ids(self, path: str, setting: str) -> None:
        run, folder = as_run(Path(path)), Path(path)
        if run is not None:
            folder = Path(run.config["passages"]["workdir"] or run.workdir) / "tokenizer"
        if not has_tokenizer(folder):
            print(
                f"note: {folder} has no tokenizer; are the token ids of {setting} those of this run?", file=sys.stderr
            )
            return
        theirs = Tokenizer.load(folder) if run is not None else import_folder(folder)
        self.tokenizer.check_ids(theirs, f"{setting}={path}")

    def trained(self, step: int) -> Trained:
        """The towers of checkpoint `step`; -1: of the one that probe.select says."""
        return load_trained(self.config, self.path, step)

    def embeddings(self, collection: Collection, trained: Trained) -> Vectors:
        """The vectors of `collection`, made now as far as they are not there yet."""
        settings = self.asked.embed
        return embed(
            collection.store,
            trained.towers.passage,
            self.tokenizer,
            own_mesh(),
            self.path / "embeddings" / _named(collection, trained),
            batch=settings.batch,
            shard_size=settings.shard_size,
            made_by={"checkpoint": trained.passage_fingerprint, "collection": collection.store.fingerprint},
        )

    def index_folder(self, collection: Collection, trained: Trained) -> Path:
        return self.path / "index" / _named(collection, trained)

    def index(self, collection: Collection, trained: Trained) -> index.Index:
        """The index over the vectors of `collection`, built now if it is not there yet."""
        vectors, folder = self.embeddings(collection, trained), self.index_folder(collection, trained)
        try:
            return index.load(folder, vectors, own_mesh())
        except StorageError:
            return index.build(vectors, self.asked.index, folder, own_mesh())


def _named(collection: Collection, trained: Trained) -> str:
    return f"{collection.name}-{trained.passage_step:08d}"

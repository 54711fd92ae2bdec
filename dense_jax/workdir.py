"""A workdir: the folder of one run, in which each stage writes its part.

tokenizer  test  rejects.jsonl  passages-LENGTH       prepare (or spans-, chunks-; documents, queries-SPLIT)
settings.json                                         the first verb, prepare, train: the config for later verbs
config.json  checkpoints  metrics.jsonl  tensorboard  train
neighbours/STEP                                       train or refresh: the indexes that training searches
validation.json  validation/NAME-SPLIT-QUERIES-DOCUMENTS  train, with validation.every
collections/NAME-DIGEST                               embed: a collection as a store; DIGEST: of content and tokenizer
embeddings/NAME-STEP-DIGEST                           embed; DIGEST: of texts, parameters and layout
index/NAME-STEP-DIGEST                                index
bm25/NAME-DIGEST                                      evaluate, search --hybrid, mine; DIGEST: of texts and formula
mined/NAME.jsonl                                      mine
filtered/NAME/kept, dropped                           filter
results/NAME-SPLIT                                    evaluate (a further set of one name: NAME-SPLIT-DIGEST)
results/NAME-answers                                  answer, with answer.questions (or NAME-answers-DIGEST)
export                                                export
report.html                                           report
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import jax

from dense_jax.artifact import is_finished
from dense_jax.augmented.versions import Library
from dense_jax.config import Config, Mixing, Unit, require
from dense_jax.config.tree import checked, with_vocabulary
from dense_jax.data.held_out import SPLIT
from dense_jax.data.pipeline import Examples, steps_for
from dense_jax.data.preparation.collection import (
    Collection,
    open_collection,
    prepare_collection,
    prepared_collection,
    whole_corpus,
)
from dense_jax.data.preparation.prepare import check_spans, open_passages, passages_folder
from dense_jax.data.preparation.queries import open_queries, queries_folder
from dense_jax.data.preparation.text import check_test_set, corpus_fingerprint, prepared_corpus
from dense_jax.data.sources.corpus import CheckedCorpus
from dense_jax.data.sources.lines import stem
from dense_jax.data.stores.guide import guide_fingerprint
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.data.stores.query_store import QueryStore
from dense_jax.data.stores.question_set import QuestionSet
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.data.tokenizer_import import has_tokenizer, import_folder
from dense_jax.errors import ConfigError
from dense_jax.hf.config import check_padding
from dense_jax.hf.sentence_transformers import print_note
from dense_jax.io import AnyPath, short_digest
from dense_jax.mesh import process_mesh
from dense_jax.processes.multihost import is_process_0, on_process_0, process_0_first
from dense_jax.remote.paths import absolute, located
from dense_jax.retrieval.bm25 import BM25, BM25Settings, open_or_index
from dense_jax.retrieval.embed import embed, embeddings_folder
from dense_jax.retrieval.index import Index, open_or_build
from dense_jax.retrieval.narrow import narrow
from dense_jax.retrieval.sample import make_sample
from dense_jax.retrieval.vectors import Vectors
from dense_jax.train import warm_start
from dense_jax.train.restore import Trained, load_trained
from dense_jax.train.same_run import DIGESTS, Data, Named, recorded
from dense_jax.train.start import check_token_ids, start_vocabulary
from dense_jax.train.validator import Sample, Validator, open_sample
from dense_jax.types import Passage, QAExample, Tower, Vocabulary

_SAMPLE = 1_024  # examples that the number of tokens of an example is estimated from


@dataclass(frozen=True)
class Workdir:
    """A workdir and its config; the parts are opened when they are used."""

    path: Path
    asked: Config
    notes: Sequence[str] = ()  # on settings that were fitted to what training starts from
    out: Path | None = None  # a folder in place of the workdir for what is written

    @property
    def written(self) -> Path:
        """The folder for new results, vectors and indexes."""
        return self.path if self.out is None else self.out

    @property
    def places(self) -> tuple[Path, ...]:
        """The folders that may hold results, vectors and indexes; the one that is written to comes last."""
        return (self.path,) if self.out is None else (self.path, self.out)

    @cached_property
    def config(self) -> Config:
        """The config with the vocabulary size of the tokenizer, and with steps computed from a budget of tokens."""
        check_padding(self.asked.objective, self.tokenizer.vocabulary.pad)
        size = self.tokenizer.size
        if recorded(self.path) is None:
            size = max(size, start_vocabulary(self.asked))
        config = replace(self.asked, objective=with_vocabulary(self.asked.objective, size))
        if not config.tokens:
            return config
        require(
            not config.objective.retrieves,
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
        """The folder of the prepared tokenizer, passages and test set.

        Raises:
            ConfigError: `prepare` has not finished there.
        """
        passages, spans = self.asked.passages, self.asked.spans.sources
        if not self.is_prepared:
            queries = passages.unit is Unit.QUERIES
            kind = "queries" if queries else f"{passages.unit.value} of {passages.length} tokens"
            kind += f" with spans.{', spans.'.join(spans)}" if spans else ""
            raise ConfigError(f"{self._root} holds no prepared {kind}; run `dense-jax prepare` first")
        return self._root

    @property
    def _root(self) -> Path:
        """The folder that `prepare` writes to."""
        return Path(self.asked.passages.workdir or self.path)

    @property
    def is_prepared(self) -> bool:
        """True if `prepare` has finished."""
        passages, corpus = self.asked.passages, self.asked.corpus
        if passages.unit is Unit.QUERIES:
            return is_finished(queries_folder(self._root, corpus))
        return is_finished(passages_folder(self._root, passages, self.asked.spans.sources))

    @property
    def _held_out(self) -> Path:
        """The folder of the held-out test set."""
        return Path(absolute(str(self._root / "test")))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The prepared tokenizer; of a model that is used as it is, its own, without preparation."""
        if self._is_as_it_is:
            return import_folder(Path(self.asked.tokenizer.path))
        return Tokenizer.load(self.prepared / "tokenizer")

    @property
    def _is_as_it_is(self) -> bool:
        """True for a model that is not trained and for which nothing was prepared."""
        asked = self.asked
        return bool(asked.tokenizer.path) and not asked.steps and not asked.tokens and not self.is_prepared

    def saved_tokenizer(self) -> Path:
        """The folder of the tokenizer, which is saved first if nothing was prepared."""
        if not self._is_as_it_is:
            return self.prepared / "tokenizer"
        folder = (self.out or self._root) / "tokenizer"
        self.tokenizer.save(folder)
        return folder

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The facts on the tokenizer that the objective needs, with the ids of its prompts."""
        return self.tokenizer.with_prompts(self.asked.objective.prompts())

    def planned_vocabulary(self) -> tuple[int, str]:
        """The present or future size of the vocabulary, and the source of that number. Nothing need be prepared."""
        prepared, asked = self._root / "tokenizer", self.asked.tokenizer
        if has_tokenizer(prepared):
            return Tokenizer.load(prepared).size, f"of the tokenizer in {prepared}"
        if asked.path:
            return import_folder(Path(asked.path)).size, f"of tokenizer.path={asked.path}"
        return asked.vocab_size, "of tokenizer.vocab_size, since nothing is prepared"

    @cached_property
    def passages(self) -> PassageStore | QueryStore | QuestionSet:
        """The training data: passages, queries, or questions with answers."""
        if self.asked.objective.learns_from is QAExample:
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
        """The questions with answers of `corpus.questions`.

        Raises:
            ConfigError: `corpus.questions` is empty.
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

    def check_spans(self) -> None:
        """
        Raises:
            ConfigError: the prepared passages have other salient spans than those that the objective is to mask.
            DataError: a file of spans that the config names is not there.
        """
        if self.asked.objective.masks_spans:
            check_spans(self._blocks, self.asked.spans)

    @property
    def used_data(self) -> Data:
        """The data at search time: the tokenizer, and the paths of the config."""
        start, asked = warm_start.init_fingerprint, self.asked
        paths = {
            "corpus.source": Named("corpus", lambda: corpus_fingerprint(asked)),
            "corpus.also": Named("corpus", lambda: corpus_fingerprint(asked)),
            "corpus.guide": Named("guide", lambda: guide_fingerprint(asked.corpus.guide)),
            "tokenizer.path": Named("tokenizer", lambda: self._named_tokenizer.fingerprint),
            "init_from": Named("init_from", lambda: start(asked.init_from)),
            "init_reader_from": Named("init_reader_from", lambda: start(asked.init_reader_from)),
        }
        return Data({"tokenizer": self.tokenizer.fingerprint}, paths)

    @property
    def learned_data(self) -> Data:
        """The data of training. The start, such as `init_from`, is recorded with a new run and not compared later."""
        used, known = self.used_data, recorded(self.path)
        digests = {"passages": self.passages.fingerprint, "corpus": prepared_corpus(self.prepared)}
        digests |= {"library": self.library.fingerprint} if self.library else {}
        if known is None:
            names = [name for name in ("init_from", "init_reader_from") if getattr(self.asked, name)]
            digests |= {name: used.paths[name].digest() for name in names}
        digests |= {"guide": guide_fingerprint(path)} if (path := self.asked.corpus.guide) else {}
        return replace(used, digests={**used.digests, **digests})

    @property
    def _named_tokenizer(self) -> Tokenizer:
        path = self.asked.tokenizer.path
        return import_folder(Path(path)) if path else self.tokenizer

    @cached_property
    def library(self) -> Library | None:
        """The passages that an objective searches while it trains; None for an objective that does not."""
        if not self.asked.objective.retrieves:
            return None
        passages = self._blocks
        return Library(passages, self.tokenizer, f"{passages.fingerprint}-{self.tokenizer.fingerprint}")

    @cached_property
    def queries(self) -> QueryStore:
        """The prepared training queries.

        Raises:
            StorageError: no queries were prepared.
        """
        return open_queries(self._root, self.asked.corpus)

    @cached_property
    def test_folder(self) -> AnyPath:
        """The BEIR folder of the test set.

        Raises:
            ConfigError: no folder is named, and `prepare` held no documents out.
            StorageError: the held-out test set has changed.
        """
        if named := self.asked.evaluate.folder:
            folder = absolute(named)
        else:
            folder = (self._root if self._is_as_it_is else self.prepared) / "test"
        if not folder.is_dir():
            raise ConfigError(
                f"there is no test set at {folder}; name a BEIR folder by --evaluate.folder=DIR, "
                "or have `prepare` hold documents out by --corpus.held_out=500"
            )
        if not named:
            check_test_set(self.prepared)
        return folder

    def collection(self, tower: Tower, source: str = "") -> Collection:
        """The documents to be searched: those of `source`, of embed.collection, or of the corpus, cut for `tower`.

        The corpus is whole, with the sentences that the test set holds out of training. Where nothing is held out, its
        prepared passages are searched; with queries, the documents that they are about.
        """
        if source := source or self.asked.embed.collection:
            folder = absolute(source)
            described = f"{source} (the held-out test set)" if folder == self._held_out else source
            corpus = partial(open_collection, source, self.asked)
            return self._prepared_collection(corpus, tower, stem(folder), described)
        unit, sources = self.asked.passages.unit, self.asked.corpus.sources
        if unit is Unit.QUERIES:
            return self.documents_of_queries
        if unit is Unit.PASSAGES and self.is_prepared and not self._holds_out:
            self._warn_of_other_text()
            return prepared_collection("passages", self._blocks)
        name = stem(absolute(sources[0])) if len(sources) == 1 else "corpus"
        return self._prepared_collection(partial(whole_corpus, self.asked, self._root), tower, name, ", ".join(sources))

    def _warn_of_other_text(self) -> None:
        """Warn of prepared passages that the run did not learn from; they can be searched all the same."""
        known = recorded(self.path) or {}
        theirs = known.get(DIGESTS, {}).get("passages")
        learned = self.asked.objective.learns_from is Passage and theirs is not None
        if learned and theirs != self._blocks.fingerprint and is_process_0():
            print(f"warning: {self._blocks.folder} holds other text than the run learned from", file=sys.stderr)

    @property
    def _holds_out(self) -> bool:
        """True if the prepared passages lack the first sentences of documents."""
        return bool(self._blocks.manifest["settings"]["corpus"]["held_out"])

    def _prepared_collection(
        self, corpus: Callable[[], CheckedCorpus], tower: Tower, name: str, source: str
    ) -> Collection:
        split = tower.length if self.asked.embed.split else 0
        name += f"-{split}" if split else ""

        def make() -> PassageStore:
            *others, folder = (place / "collections" for place in self.places)
            return prepare_collection(
                corpus(), self.asked, self.tokenizer, folder, name, split=split, finished_in=others
            )

        return Collection(name, source, process_0_first(make))

    @property
    def documents_of_queries(self) -> Collection:
        """The documents of the training queries, each whole."""
        return prepared_collection("documents", self.queries.documents)

    @property
    def is_validated(self) -> bool:
        """True if training is validated: every k steps, or before and after it where it starts from a trained model."""
        held_out = self.prepared / "test"
        judged = bool(self.asked.validation.folder) or held_out.is_dir()
        return self.asked.validation.every > 0 or (bool(self.asked.init_from) and judged and self.config.steps > 0)

    def validator(self) -> Validator | None:
        """The validator of a run; None if it is not validated. All processes call it together."""
        if not self.is_validated:
            return None
        return Validator(self.sample(), self.config.objective, self.config.embed.batch)

    def sample(self) -> Sample:
        """The sample that a run is validated on, made now if it does not exist; all processes call it together.

        Raises:
            ConfigError: no test set is named, and `prepare` held no documents out.
            DataError: it lacks the split, or has no relevant document.
            StorageError: the held-out test set has changed.
        """
        settings = self.asked.validation
        folder = located(settings.folder) if settings.folder else self.prepared / "test"
        require(
            bool(settings.folder) or folder.is_dir(),
            f"validation.every={settings.every}, but there are no judged queries; name a BEIR folder by "
            "--validation.folder=DIR, or have `prepare` hold documents out by --corpus.held_out=500",
        )
        split = settings.split if settings.folder else SPLIT

        def make() -> str:
            if not settings.folder:
                check_test_set(self.prepared)
            return str(make_sample(self.path / "validation", folder, split, self.asked))

        target, objective = Path(on_process_0(make)), self.config.objective
        shapes = objective.towers(jax.eval_shape(objective.init, jax.random.key(0)))
        store = self.collection(shapes.passage, str(target)).store
        return open_sample(target, split, store, self.tokenizer, self.asked.evaluate.drop_same_id)

    def check_init_from(self) -> None:
        """
        Raises:
            ConfigError: the model of `init_from` or `init_reader_from` was trained on other token ids.
        """
        if recorded(self.path) is None:
            check_token_ids(self.asked, self.tokenizer)

    def trained(self, step: int) -> Trained:
        """The towers of checkpoint `step`; -1: of the one that validation.select names."""
        if self._is_as_it_is and self.asked.tokenizer.path != self.asked.init_from:
            self.check_init_from()
        return load_trained(self.config, self.path, step, self.used_data)

    def narrowed(self, trained: Trained) -> Trained:
        """`trained` with vectors of `embed.width`; a note names a width that the objective was not trained with.

        Raises:
            ConfigError: the vectors of the model have fewer numbers.
        """
        width = self.asked.embed.width
        if not width or width == trained.towers.passage.encoder.width:
            return trained
        towers = narrow(trained.towers, width)
        learned = getattr(self.asked.objective, "matryoshka", ())
        if width not in learned and is_process_0():
            print_note(
                f"embed.width={width}: the objective was not trained with that width (objective.matryoshka={learned}); "
                "if the model that it started from was not either, expect lower figures"
            )
        return replace(trained, towers=towers)

    def embeddings(self, collection: Collection, trained: Trained) -> Vectors:
        """Return the vectors of `collection`; compute the missing ones. Prints the collection and the checkpoint."""
        if is_process_0():
            print(f"{collection.described}; {trained.described}", file=sys.stderr)
        store, tower, settings = collection.store, trained.towers.passage, self.asked.embed
        made_by = {"checkpoint": trained.passage_fingerprint, "collection": store.content}
        made_by |= {"width": tower.encoder.width, "precision": settings.precision.value}
        folder = embeddings_folder(
            [place / "embeddings" for place in self.places], collection.name, trained.passage_step, tower, made_by
        )
        return embed(
            store, tower, self.tokenizer, process_mesh(), folder,
            batch=settings.batch, shard_size=settings.shard_size, made_by=made_by, precision=settings.precision,
        )  # fmt: skip

    def index(self, collection: Collection, trained: Trained, *, again: bool = False) -> Index:
        """Return the index over the vectors of `collection`, built now if it is missing or `again` is set."""
        vectors = self.embeddings(collection, trained)
        folders = [place / "index" / vectors.folder.name for place in self.places]
        return open_or_build(vectors, self.asked.index, folders, process_mesh(), again=again)

    def bm25(self, collection: Collection) -> BM25:
        """Return BM25 over the documents of `collection`, indexed now if it is missing."""
        k1, b = self.asked.evaluate.bm25_k1, self.asked.evaluate.bm25_b
        settings = BM25Settings(collection=collection.store.content, k1=k1, b=b)
        folders = [place / "bm25" / f"{collection.name}-{short_digest(settings)}" for place in self.places]
        return open_or_index(collection.store, folders, settings)

"""ORQA's objective: what counts as an answer, its losses against reference numbers, what learns and what does not."""

import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orjson
import pytest

from dense_jax.augmented.neighbours import Neighbours
from dense_jax.augmented.objective import RetrievalAugmented
from dense_jax.augmented.versions import Library
from dense_jax.config import CheckpointConfig, Config, EmbedConfig, MeshConfig, NeighboursConfig, OptimizerConfig
from dense_jax.errors import ConfigError
from dense_jax.losses.collapse import alignment
from dense_jax.losses.similarity import MASKED_SCORE
from dense_jax.losses.spans import candidate_spans
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.objective import HostBatch, Objective
from dense_jax.objectives.orqa import Orqa, Positives, Scores
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.restore import load_trained
from dense_jax.types import QAExample, SearchResult
from tests.programs import train_workdir
from tests.test_neighbours import lines
from tests.toys import VOCABULARY, AnsweredStore, MemoryStore, ToyTokenizer

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "realm" / "orqa_normal.npz"))
BERT = BertConfig(layers=1, width=16, heads=2, feed_forward=32, vocab_size=VOCABULARY.size, positions=32)
SMALL = {"query_length": 6, "passage_length": 10, "reader_length": 10, "retrieved": 5, "read": 2, "span_width": 3}
STEP = jnp.zeros((), int)
CLS, SEP = VOCABULARY.cls, VOCABULARY.sep


def orqa(**settings) -> Orqa:
    return Orqa(**({"encoder": Encoder(BERT)} | SMALL | settings))


class Written(MemoryStore):
    """Passages whose texts are their tokens as numbers."""

    def __init__(self, *tokens):
        super().__init__(len(tokens))
        self.tokens = [np.array(ids, np.uint16) for ids in tokens]


PASSAGES = Written([15, 6, 7], [5, 6, 7], [8, 9], [7, 5, 6, 5, 6])
QUESTION = QAExample(0, np.array([20, 21]), ("5 6",), [np.array([5, 6])])


def joined(method: Orqa, rows=(0, 3, 1, 2, -1), question=QUESTION):
    """The batch of one question for which these rows were found."""
    example = method.example(question, VOCABULARY, np.random.default_rng(0))
    examples = HostBatch(jax.tree.map(lambda x: np.stack([x]), example), np.zeros(1, np.int32))
    vectors = np.random.default_rng(0).normal(size=(1, len(rows), 16)).astype(np.float32)
    return method.join(examples, SearchResult(np.array([rows]), vectors), PASSAGES, VOCABULARY)


def on_device(batch):
    return jax.tree.map(jnp.asarray, batch)


def test_an_example_is_the_question_and_its_answers_until_passages_are_found():
    found = orqa().example(QUESTION, VOCABULARY, np.random.default_rng(0))
    assert found["query"].ids.tolist() == [CLS, 20, 21, SEP, 0, 0]
    assert orjson.loads(str(found["answers"])) == {"texts": ["5 6"], "ids": [[5, 6]]}


def test_a_passage_holds_an_answer_by_its_text_even_inside_a_word_or_else_by_its_tokens():
    assert joined(orqa())["holds"].tolist() == [[True, True, True, False, False]]  # "15 6 7" has the text "5 6"
    by_tokens = joined(orqa(positives=Positives.WORDPIECE))
    assert by_tokens["holds"].tolist() == [[False, True, True, False, False]]


def test_the_reader_sees_question_and_passage_without_title_and_every_occurrence_is_an_answer():
    batch = joined(orqa())
    assert batch["read"].ids[0].tolist() == [
        [CLS, 20, 21, SEP, 15, 6, 7, SEP, 0, 0],
        [CLS, 20, 21, SEP, 7, 5, 6, 5, 6, SEP],
    ]
    assert batch["read"].types[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert batch["body"][0].sum(-1).tolist() == [3, 5]
    starts, ends = candidate_spans(10, 3)
    gold = [[(int(starts[i]), int(ends[i])) for i in np.flatnonzero(marks)] for marks in batch["gold"][0]]
    assert gold == [[], [(5, 6), (7, 8)]]


def test_a_passage_that_is_too_long_is_cut_and_what_is_cut_is_no_answer():
    batch = joined(orqa(reader_length=8), rows=(3, 3, -1, -1, -1))
    assert batch["read"].ids[0, 0].tolist() == [CLS, 20, 21, SEP, 7, 5, 6, SEP]
    assert batch["gold"][0].sum(-1).tolist() == [1, 1]


def test_an_answer_wider_than_all_candidates_is_none_of_them_but_its_passage_holds_it():
    long = QAExample(0, np.array([20]), ("7 5 6 5",), [np.array([7, 5, 6, 5])])
    batch = joined(orqa(), rows=(3, -1, -1, -1, -1), question=long)
    assert batch["holds"].tolist() == [[True, False, False, False, False]]
    assert not batch["gold"].any()


@pytest.mark.slow
def test_one_noisy_question_searches_and_scores():
    method = orqa(encoder=Encoder(replace(BERT, dropout=0.5)))
    batch, key = on_device(joined(method)), jax.random.key(7)
    params = jax.jit(method.init)(jax.random.key(0))
    scores = jax.jit(lambda params: method.encode(params, {}, batch, rng=key))(params)
    query = method.towers(params).query
    asked = jax.jit(lambda params: query.encoder.apply(params, batch["query"], rng=method.question_noise(key)))(
        query.params
    )
    there = batch["there"]
    expected = jnp.einsum("bd,bcd->bc", asked, batch["vectors"]) / method.temperature
    np.testing.assert_allclose(scores.passages[there], expected[there], rtol=1e-5)


@pytest.mark.slow
def test_passages_that_are_not_there_are_empty_and_never_chosen():
    method = orqa()
    batch = on_device(joined(method, rows=(1, -1, -1, -1, -1)))
    assert batch["there"].tolist() == [[True, False, False, False, False]]
    assert not batch["body"][0, 1].any()
    params = jax.jit(method.init)(jax.random.key(0))
    scores = jax.jit(lambda params: method.encode(params, {}, batch, rng=None))(params)
    assert (scores.passages[0, 1:] == MASKED_SCORE).all()
    loss, (metrics, _) = method.combine({}, scores, batch, step=STEP)
    assert np.isfinite(loss)
    assert metrics["early_loss"] == 0  # the only passage that is there holds an answer


# Its losses


def golden(**settings):
    """The method of the reference's question, and a batch of what was found for it."""
    shape = {"reader_length": GOLDEN["block_mask"].shape[-1], "span_width": int(GOLDEN["max_span_width"])}
    passages, spans = len(GOLDEN["retriever_logits"]), len(GOLDEN["span_logits"])
    method = orqa(**shape, retrieved=passages, read=spans, query_length=2, **settings)
    batch = {
        "holds": jnp.asarray(GOLDEN["retriever_correct"] == 1)[None],
        "gold": jnp.asarray(GOLDEN["reader_correct"] == 1)[None],
        "body": jnp.asarray(GOLDEN["block_mask"] == 1)[None],
    }
    return method, batch


def golden_loss(method, batch):
    """The loss and its gradients."""
    scores = jnp.asarray(GOLDEN["retriever_logits"])[None], jnp.asarray(GOLDEN["span_logits"])[None]

    def loss(scores):
        return method.combine({}, Scores(*scores), batch, step=STEP)[0]

    return jax.jit(jax.value_and_grad(loss))(scores)


def test_the_loss_and_its_gradients_are_the_references(x64):
    loss, (of_passages, of_spans) = golden_loss(*golden())
    np.testing.assert_allclose(loss, GOLDEN["loss"], rtol=1e-9)
    np.testing.assert_allclose(of_passages[0], GOLDEN["grad_retriever_logits"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_spans[0], GOLDEN["grad_span_logits"], rtol=1e-9, atol=1e-12)


def test_without_the_early_loss_the_readers_is_left(x64):
    np.testing.assert_allclose(golden_loss(*golden(early=False))[0], GOLDEN["reader_loss"], rtol=1e-9)


@pytest.mark.slow
def test_metrics_say_what_was_found_what_was_read_and_what_was_chosen():
    method = orqa()
    rows = jnp.arange(4)[:, None]
    holds = jnp.arange(5)[None] == jnp.array([0, 1, 4, 9])[:, None]  # read, read, only retrieved, not retrieved
    gold = jnp.zeros((4, 2, len(candidate_spans(10, 3).starts)), bool).at[0, 0, 4].set(True).at[1, 1, 4].set(True)
    spans = jnp.zeros(gold.shape).at[0, 0, 4].set(9.0).at[1, 0, 5].set(9.0)  # right; wrong
    batch = {"holds": holds, "gold": gold, "body": jnp.ones((4, 2, 10), bool)}
    scores = Scores(jnp.zeros((4, 5)) * rows, spans)
    _, (metrics, _) = method.combine({}, scores, batch, step=STEP)
    shares = {name: float(value) for name, value in metrics.items() if "loss" not in name}
    assert shares == {"answer_retrieved": 0.75, "answer_read": 0.5, "reader_oracle": 0.5, "exact_match": 0.25}


def gradients(batch, **settings):
    method = orqa(**settings)
    params = jax.jit(method.init)(jax.random.key(0))
    batch = on_device(batch)
    loss = lambda params: method.loss(params, {}, batch, rng=jax.random.key(1), step=STEP)[0]  # noqa: E731
    return jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(params))


def moves(part) -> bool:
    return any(np.any(leaf) for leaf in jax.tree.leaves(part))


@pytest.mark.slow
def test_questions_and_the_reader_learn_and_passages_do_not():
    found = gradients(joined(orqa()))
    assert moves(found["query"]) and moves(found["reader"]["encoder"]) and moves(found["reader"]["spans"])
    assert not moves(found["passage"])


@pytest.mark.slow
def test_the_early_loss_teaches_the_retriever_where_nothing_that_was_read_is_an_answer():
    batch = joined(orqa(), rows=(0, 2, 1, 3, -1))
    assert not batch["gold"].any()
    assert moves(gradients(batch)["query"])
    assert not moves(gradients(batch, early=False)["query"])
    assert not moves(gradients(batch)["reader"])


def test_both_towers_start_alike():
    params = jax.jit(orqa().init)(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params["query"], params["passage"])


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "compared"), [((2, 0, 1, 3, -1), 1), ((2, -1, -1, -1, -1), 0)])
def test_the_diagnosis_compares_a_question_with_the_first_passage_that_holds_an_answer_or_else_the_best(rows, compared):
    method, batch = orqa(), on_device(joined(orqa(), rows))
    params = method.init(jax.random.key(0))
    queries = method.encoder.apply(params["query"], batch["query"])
    signs = method.collapse_metrics(params, {}, batch)
    assert signs["alignment"] > 0.01
    assert signs["alignment"] == pytest.approx(float(alignment(queries, batch["vectors"][:, compared])), rel=1e-5)
    assert signs["query_norm"] == pytest.approx(float(jnp.linalg.norm(queries)), rel=1e-5)


@pytest.mark.slow
def test_the_diagnosis_shows_questions_that_collapse_although_the_passages_of_a_fixed_tower_cannot():
    method = orqa()
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x]), on_device(joined(method)))
    batch["vectors"] = batch["vectors"].at[1].multiply(-1)  # two questions that are one, of opposite passages
    signs = method.collapse_metrics(method.init(jax.random.key(0)), {}, batch)
    assert (signs["mean_cosine"], signs["rank_me"]) == (pytest.approx(1, abs=1e-5), pytest.approx(1, abs=1e-3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"read": 6}, "objective.read=6 passages are not among objective.retrieved=5"),
        ({"reader_length": 7}, "objective.reader_length=7 leaves no room for a passage after a question of "
                               "objective.query_length=6"),
        ({"reader_length": 33}, "objective.reader_length=33 exceeds objective.encoder.bert.positions=32"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        orqa(**settings)
    assert str(error.value) == message


# A run

QUESTIONS = AnsweredStore(24)
LIBRARY = Library(MemoryStore(24), ToyTokenizer(), "toys")  # of the same texts


def config(**settings) -> Config:
    dropout = replace(BERT, dropout=0.1)
    common = {"steps": 8, "batch": 8, "log_every": 1, "diagnose_every": 4, "neighbours": NeighboursConfig(every=0)}
    rest = {"optimizer": OptimizerConfig(0.01), "embed": EmbedConfig(batch=16), "mesh": MeshConfig()}
    return Config(**{"objective": orqa(encoder=Encoder(dropout))} | common | rest | settings)


def run(workdir, asked: Config) -> None:
    workdir.mkdir(exist_ok=True)
    train_workdir(asked, QUESTIONS, VOCABULARY, workdir, library=LIBRARY)


def params(workdir, step: int):
    checkpoints = Checkpoints(workdir / "checkpoints", CheckpointConfig(), read_only=True)
    return jax.tree.map(np.asarray, checkpoints.restore_params_as_saved(step))


@pytest.mark.slow
def test_a_run_leaves_the_passage_tower_as_it_was_to_the_last_bit(tmp_path):
    run(tmp_path, config())
    before, after = params(tmp_path, 0), params(tmp_path, 8)
    jax.tree.map(np.testing.assert_array_equal, before["passage"], after["passage"])  # no weight decay either
    for part in ("query", "reader"):
        changed = jax.tree.map(lambda a, b: bool((a != b).any()), before[part], after[part])
        assert all(jax.tree.leaves(changed))
    assert {row["index/step"] for row in lines(tmp_path)} == {0}
    first, last = (row["collapse/alignment"] for row in lines(tmp_path) if "collapse/alignment" in row)
    assert first > 0.01 and last > 0.01 and first != last


class Interrupted(Orqa):
    """Breaks off when passages were found for the sixth batch."""

    def join(self, examples, found, passages, vocabulary):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 6:
            raise KeyboardInterrupt
        return super().join(examples, found, passages, vocabulary)


@pytest.mark.slow
def test_the_search_before_a_step_has_the_noise_of_the_question_in_that_step(tmp_path, monkeypatch):
    keys, find = [], Neighbours.find_with
    monkeypatch.setattr(
        Neighbours, "find_with", lambda *args, rng, **rest: keys.append(rng) or find(*args, rng=rng, **rest)
    )
    run(tmp_path, config(steps=3, seed=5, diagnose_every=0))
    steps = [jax.random.split(jax.random.fold_in(jax.random.key(5), step))[0] for step in range(3)]
    assert [jax.random.key_data(key).tolist() for key in keys] == [jax.random.key_data(key).tolist() for key in steps]


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_a_restart_goes_on_to_the_last_bit_dropout_of_the_search_included(tmp_path, damaged):
    """Where the first checkpoint is damaged too: the tower of its index is in every other one."""
    run(tmp_path / "straight", config())
    every = {"checkpoint": CheckpointConfig(every=3)}
    broken = config(**every)
    broken.objective.__class__ = Interrupted
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "restarted", broken)
    shutil.copy(tmp_path / "straight" / "config.json", tmp_path / "restarted")  # without the class that broke off
    if damaged:
        file = next((tmp_path / "restarted" / "checkpoints" / "0").rglob("d/*"))
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    run(tmp_path / "restarted", config(**every))
    jax.tree.map(np.testing.assert_array_equal, params(tmp_path / "straight", 8), params(tmp_path / "restarted", 8))
    told = [
        [{name: value for name, value in row.items() if name not in ("index/step", "index/staleness") or not damaged}
         for row in lines(tmp_path / workdir)] for workdir in ("straight", "restarted")
    ]  # fmt: skip
    assert told[0] == told[1]
    assert load_trained(config(**every), tmp_path / "restarted", 8).passage_step == (8 if damaged else 0)


def test_an_index_that_would_be_made_again_of_a_tower_that_stays_is_refused():
    with pytest.raises(ConfigError, match=r"neighbours.every=500 would make the same index again: Orqa leaves"):
        config(neighbours=NeighboursConfig())


def test_it_satisfies_the_contract():
    assert isinstance(orqa(), Objective) and isinstance(orqa(), RetrievalAugmented)
    assert (orqa().learns_from, orqa().fresh, orqa().depth) == (QAExample, True, 5)

"""What every method owes to the contract, and what each owes to its paper. Methods are found by listing configs/."""

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.augmented.objective import RetrievalAugmented
from dense_jax.config import Config, LoaderConfig, MeshConfig
from dense_jax.config.tree import checked, with_vocabulary
from dense_jax.data.pipeline import Examples, host_batches
from dense_jax.errors import ConfigError
from dense_jax.mesh import batch_sharding, make_mesh
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.models.layers import Dtype
from dense_jax.objective import Objective
from dense_jax.objectives.dual_encoder import Pairs
from dense_jax.objectives.ict import ICT
from dense_jax.objectives.mlm import MLM
from dense_jax.train.optimizer import decay_mask
from dense_jax.train.sharding import state_sharding
from dense_jax.types import Layout, Passage, QAExample, SearchResult, Similarity, Tokens, TrainingQuery, Vocabulary
from tests.toys import VOCABULARY, AnsweredStore, MemoryStore, QuestionStore

FILES = sorted(
    p for p in (Path(__file__).parent.parent / "configs").glob("[!_]*.py") if p.stem not in ("finetune", "pretrained")
)
BATCH = 16
SMALL = {"layers": 1, "width": 16, "heads": 2, "feed_forward": 32, "dropout": 0.0, "attention_dropout": 0.0}
EXACT = SMALL | {"dropout": 0.1, "attention_dropout": 0.1, "dtype": Dtype.FLOAT64}  # dropout is on trial too


def load(path: Path, variant: str) -> Config:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return checked(module.get_config(variant))


def shrunk(node, dtype=Dtype.FLOAT64):
    """The same method on a model of a few thousand parameters, computed in float64."""
    if isinstance(node, BertConfig):
        return dataclasses.replace(node, **EXACT | {"dtype": dtype})
    nodes = {f.name: v for f in dataclasses.fields(node) if dataclasses.is_dataclass(v := getattr(node, f.name))}
    fewer = {"retrieved": 12, "read": 2} if hasattr(node, "retrieved") else {}  # passages of a question
    return dataclasses.replace(node, **fewer, **{name: shrunk(value, dtype) for name, value in nodes.items()})


def sentences_store() -> MemoryStore:
    """Passages of four sentences of three tokens, under a title of two, with a salient span in the first two."""
    store = MemoryStore(passages=32)
    rng = np.random.default_rng(0)
    store.tokens = [rng.integers(5, 50, size=12).astype(np.uint16) for _ in range(32)]
    plain = type(store).__getitem__
    store.__class__ = type(
        "SentencesStore",
        (MemoryStore,),
        {
            "__getitem__": lambda self, row: dataclasses.replace(
                plain(self, row),
                title=np.array([7, 8], np.uint16),
                sentences=np.array([0, 3, 6, 9], np.int32),
                spans=np.array([[0, 2], [4, 5]], np.int32),
            )
        },
    )
    return store


def batch_of(objective: Objective, size: int = BATCH, vocabulary: Vocabulary = VOCABULARY):
    of_nouns = {TrainingQuery: QuestionStore, QAExample: AnsweredStore, Passage: sentences_store}
    store = of_nouns[objective.learns_from]()
    prompts = {prompt: np.array([45, 46], np.int32) for prompt in objective.prompts()} | vocabulary.prompts
    vocabulary = dataclasses.replace(vocabulary, prompts=prompts)
    examples = Examples(store, objective, vocabulary, LoaderConfig(), seed=0, length=size, batch=size)
    batch = next(host_batches(examples, size, start=0))
    if isinstance(objective, RetrievalAugmented):
        joined = objective.join(batch, found_for(objective, size), sentences_store(), vocabulary)
        return jax.tree.map(jnp.asarray, joined)
    return jax.tree.map(jnp.asarray, batch.inputs)


def found_for(objective: RetrievalAugmented, size: int) -> SearchResult:
    """Random passages of `sentences_store` for each of so many questions, with random vectors; not all depths there."""
    rng, depth = np.random.default_rng(0), objective.depth
    there = min(depth, 32)
    rows = np.stack([rng.permutation(32)[:there] for _ in range(size)])
    vectors = rng.normal(size=(size, depth, objective.encoder.width)).astype(np.float32)
    return SearchResult(np.pad(rows, ((0, 0), (0, depth - there)), constant_values=-1), vectors)


@dataclasses.dataclass(frozen=True)
class Case:
    """A shrunk method at its start, and one batch for it."""

    objective: Objective
    params: Any
    carry: Any
    batch: Any

    @classmethod
    def of(cls, path: Path) -> "Case":
        objective = with_vocabulary(shrunk(load(path, "tiny").objective), VOCABULARY.size)
        params = jax.jit(objective.init)(jax.random.key(0))
        wide = jax.tree.map(lambda x: x.astype(jnp.float64), params)  # and so the gradients
        carry = jax.jit(objective.init_carry, static_argnums=1)(wide, BATCH, jax.random.key(1))
        batch = batch_of(objective)
        if carry:  # as a step leaves it: what there is to be compared with may come from earlier batches
            call = {"rng": jax.random.key(2), "step": jnp.zeros((), int)}
            _, (_, carry) = jax.jit(functools.partial(objective.loss, **call))(wide, carry, batch)
        return cls(objective, wide, carry, batch)

    @functools.cached_property
    def gradients(self):
        """(params, carry, batch, key) -> loss and its gradients: one function, so that it is compiled once."""

        def loss(params, carry, batch, key):
            return self.objective.loss(params, carry, batch, rng=key, step=jnp.zeros((), int))[0]

        return jax.jit(jax.value_and_grad(loss))

    @functools.cached_property
    def over_one(self):
        """Loss and gradients on one device."""
        return self.gradients(self.params, self.carry, self.batch, jax.random.key(1))


@pytest.fixture(scope="module")
def cases():
    return functools.cache(Case.of)


QUICK = ("cocondenser", "ict")  # a method with a masked-word loss, and one without; the others are slow tests
CASES = [path if path.stem in QUICK else pytest.param(path, marks=pytest.mark.slow) for path in FILES]


@pytest.fixture(params=CASES, ids=lambda path: path.stem)
def case(request, cases, x64) -> Case:
    return cases(request.param)


def variants(path: Path) -> list[str]:
    """All variants of a config file, as its error for an unknown one lists them."""
    with pytest.raises(ConfigError) as caught:
        load(path, "?")
    return str(caught.value).rpartition("it has ")[2].split(", ")


def two_layers(node):
    """The same method on its model's first two layers: a name in them is a name in all of them, traced in less time."""
    if isinstance(node, BertConfig):
        return dataclasses.replace(node, layers=min(node.layers, 2))
    nodes = {f.name: v for f in dataclasses.fields(node) if dataclasses.is_dataclass(v := getattr(node, f.name))}
    changes = {name: two_layers(value) for name, value in nodes.items()}
    if hasattr(node, "skip_from"):
        changes["skip_from"] = min(node.skip_from, 1)  # a layer of those that are left
    return dataclasses.replace(node, **changes)


@pytest.mark.parametrize(
    ("path", "variant"),
    [pytest.param(path, variant, id=f"{path.stem}-{variant}") for path in FILES for variant in variants(path)],
)
def test_every_config_holds_and_every_parameter_has_its_rules(path, variant):
    config = load(path, variant)
    method = two_layers(with_vocabulary(config.objective, 30_522))
    assert isinstance(method, Objective)
    params = jax.eval_shape(lambda: method.init(jax.random.key(0)))
    carry = jax.eval_shape(lambda params: method.init_carry(params, config.batch, jax.random.key(0)), params)
    state_sharding({"params": params, "carry": carry}, make_mesh(MeshConfig(data=2, fsdp=4)))
    decay_mask(params)


def test_loss_is_a_finite_number_with_a_gradient_for_every_parameter(case):
    loss, gradient = case.over_one
    assert np.isfinite(loss)
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)}
    assert all(np.isfinite(leaf).all() for leaf in flat.values())
    still = [name for name, leaf in flat.items() if not np.any(leaf)]
    frozen = tuple(f"['{part}']" for part in case.objective.frozen)
    assert [name for name in flat if name.startswith(frozen) and name not in still] == []
    # a softmax ignores what is added to all its scores: by attention's key bias, or the last one of a span scorer
    ignored = (*frozen, "['reader']['spans']['score']['bias']")
    assert [name for name in still if "key" not in name and not name.startswith(ignored)] == []


def check_equal_on(case: Case, asked: MeshConfig) -> None:
    mesh = make_mesh(asked)
    start = case.params, case.carry
    spread = jax.device_put(start, state_sharding(start, mesh))
    batch = jax.device_put(case.batch, batch_sharding(mesh))
    with jax.set_mesh(mesh):
        over_eight = case.gradients(*spread, batch, jax.random.key(1))
    assert {leaf.dtype for leaf in jax.tree.leaves(over_eight)} == {np.dtype("float64")}
    # float64 sums in another order
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), case.over_one, over_eight)


@pytest.mark.slow
def test_loss_and_gradients_over_all_axes_of_a_mesh_equal_one_device(case):
    check_equal_on(case, MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contriever", "ict"])
def test_so_they_do_over_slices(cases, x64, name):
    check_equal_on(cases(FILES[0].with_stem(name)), MeshConfig(dcn=2, data=2, fsdp=2))


def test_the_same_key_gives_the_same_loss_and_another_key_another(case):
    loss = lambda key: case.gradients(case.params, case.carry, case.batch, jax.random.key(key))[0]  # noqa: E731
    assert loss(1) == case.over_one[0]
    assert loss(2) != case.over_one[0]


def test_towers_turn_tokens_into_as_many_vectors_of_the_width_as_they_say(case):
    tokens = Tokens(jnp.full((2, 4), 9), jnp.zeros((2, 4), int), jnp.ones((2, 4), bool))
    towers = case.objective.towers(case.params)
    assert towers.query.encoder.views == 1
    for tower in (towers.query, towers.passage):
        views = (tower.encoder.views,) if tower.encoder.views > 1 else ()
        assert jax.jit(tower.encoder.apply)(tower.params, tokens).shape == (2, *views, tower.encoder.width)


def encoder(**settings) -> Encoder:
    return Encoder(BertConfig(**SMALL, vocab_size=VOCABULARY.size), **settings)


def ict(**settings) -> ICT:
    return ICT(**({"encoder": encoder(), "query_length": 8, "passage_length": 20} | settings))


def test_an_ict_example_is_a_sentence_without_title_and_its_passage_with_title():
    passage = sentences_store()[0]
    found = ict(removal_rate=1.0).example(passage, VOCABULARY, np.random.default_rng(0))
    query = found["query"].ids[found["query"].mask].tolist()
    body = found["passage"].ids[found["passage"].mask].tolist()
    assert (query[0], query[-1]) == (VOCABULARY.cls, VOCABULARY.sep)
    assert body[:4] == [VOCABULARY.cls, 7, 8, VOCABULARY.sep]
    assert sorted(query[1:-1] + body[4:-1]) == sorted(passage.tokens.tolist())
    assert found["removed"]


def start(method: Objective):
    """Parameters before training."""
    return jax.jit(method.init)(jax.random.key(0))


def test_two_ict_encoders_have_parameters_of_their_own():
    method = ict(shared=False)
    towers = method.towers(start(method))
    query, passage = (t.params["bert"]["word"]["embedding"] for t in (towers.query, towers.passage))
    assert not np.array_equal(query, passage)


def test_ict_reports_its_two_accuracies_apart_and_how_full_its_sequences_are():
    method = ict(removal_rate=1.0)
    batch = batch_of(method) | {"removed": jnp.arange(16) < 4}
    own = jnp.eye(16)
    _, (metrics, _) = method.combine({}, Pairs(own, own.at[:2].set(own[1::-1])), batch, step=jnp.zeros((), int))
    assert metrics == {
        "removed": 4 / 16,
        "accuracy_removed": 2 / 4,  # the first two find each other's passages
        "accuracy_kept": 1.0,
        "query_fill": 5 / 8,  # a sentence of 3 tokens between [CLS] and [SEP]
        "passage_fill": pytest.approx(14 / 20),  # the other 9, a title of 2 and three special tokens
    }


def test_a_normalising_encoder_is_compared_by_cosine_and_another_by_dot():
    params = start(ict())
    assert ict().towers(params).similarity is Similarity.DOT
    assert ict(encoder=encoder(normalize=True)).towers(params).similarity is Similarity.COSINE


def test_ict_base_has_the_released_projection():
    method = load(FILES[0].parent / "ict.py", "base").objective
    assert method.encoder.pooling is Pooling.POOLER
    assert (method.encoder.projection, method.query_length, method.passage_length) == (128, 64, 288)
    assert (method.removal_rate, method.layout, method.temperature) == (0.9, Layout.PAIR, 1.0)


def test_only_a_mean_can_leave_prompts_out():
    with pytest.raises(
        ConfigError, match=r"pool_prompts=false concerns a mean, but objective\.encoder\.pooling=cls; use"
    ):
        MLM(encoder=encoder(), passage_length=20, pool_prompts=False)


def test_an_mlm_example_hides_tokens_and_labels_them():
    method = MLM(encoder=encoder(), passage_length=20)
    found = method.example(sentences_store()[0], VOCABULARY, np.random.default_rng(0))
    assert found["weights"].sum() == 2  # 15 % of two title tokens and twelve others
    whole = [VOCABULARY.cls, 7, 8, *sentences_store()[0].tokens.tolist(), VOCABULARY.sep]
    positions = found["positions"][found["weights"] == 1]
    assert [whole[p] for p in positions] == found["labels"][found["weights"] == 1].tolist()
    untouched = [i for i in range(len(whole)) if i not in positions]
    assert found["tokens"].ids[untouched].tolist() == [whole[i] for i in untouched]


def test_mlm_loss_at_the_start_is_near_that_of_guessing():
    method = MLM(encoder=encoder(), passage_length=20)
    settings = {"rng": jax.random.key(1), "step": jnp.zeros((), int)}
    loss, _ = jax.jit(functools.partial(method.loss, **settings))(start(method), {}, batch_of(method))
    assert loss == pytest.approx(np.log(VOCABULARY.size), rel=0.05)  # weights of standard deviation 0.02

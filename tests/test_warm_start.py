"""init_from: what a new run takes over from a run of ours or from a Hugging Face folder, and what it says of it."""

import functools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dense_jax.config import CheckpointConfig, Config, NeighboursConfig, SpansConfig
from dense_jax.config.tree import to_dict
from dense_jax.errors import ConfigError, StorageError
from dense_jax.hf.config import config_json
from dense_jax.hf.families import FAMILIES
from dense_jax.io import write_json
from dense_jax.losses.spans import candidate_spans
from dense_jax.mesh import batch_sharding
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objectives.cocondenser import CoCondenser
from dense_jax.objectives.condenser import Condenser
from dense_jax.objectives.ict import ICT
from dense_jax.objectives.mlm import MLM
from dense_jax.objectives.orqa import Orqa
from dense_jax.objectives.realm import Realm
from dense_jax.objectives.retromae import RetroMAE
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.loop import initial_state, make_program
from dense_jax.train.state import TrainState
from dense_jax.train.warm_start import Origin, initial_weights, origin, warm_start, with_initial_weights
from dense_jax.types import Tokens
from tests.bert_folders import flat
from tests.toys import BagOfTokens

BERT = BertConfig(layers=1, width=16, heads=2, feed_forward=16, vocab_size=30, positions=8)
ENCODER = Encoder(BERT)
SHORT = {"query_length": 4, "passage_length": 8}
CONDENSER = Condenser(ENCODER, head_layers=1, skip_from=0, **SHORT)
COCONDENSER = CoCondenser(ENCODER, head_layers=1, skip_from=0, **SHORT)
MASKED = MLM(ENCODER, **SHORT)
SHARED = ICT(ENCODER, query_length=4, passage_length=8)
TWO = replace(SHARED, shared=False)


def params(objective, value=None):
    """Random parameters; with a `value` all are that."""
    shapes, rng = jax.eval_shape(lambda: objective.init(jax.random.key(0))), np.random.default_rng(1)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) if value is None else np.full(x.shape, value), x.dtype), shapes
    )


def trained(workdir, objective, *steps, change=lambda tree: tree):
    """A workdir with checkpoints whose parameters are all the number of their step."""
    workdir.mkdir()
    spans = SpansConfig(titles=isinstance(objective, Realm))
    write_json(workdir / "config.json", to_dict(Config(objective, steps=10, batch=8, spans=spans)))
    checkpoints = Checkpoints(workdir / "checkpoints", CheckpointConfig())
    for step in steps:
        tree = change(params(objective, float(step)))
        checkpoints.save(step, TrainState(jnp.asarray(step), tree, (), {}), {})
    checkpoints.close()
    return str(workdir)


def values(tree):
    return {float(x) for leaf in flat(tree).values() for x in np.unique(leaf)}


def changed(tree, before):
    """The parts of `tree`, such as "encoder" or "mlm", of which an array is not as it was `before`."""
    return {name.partition("/")[0] for name, leaf in flat(tree).items() if not np.array_equal(leaf, flat(before)[name])}


# A run of ours


def test_the_newest_checkpoint_of_a_workdir_is_taken_or_the_one_that_is_named(tmp_path):
    workdir = trained(tmp_path / "mlm", MASKED, 1, 5)
    assert values(warm_start(params(MASKED), workdir, MASKED)[0]) == {5.0}
    found, report = warm_start(params(MASKED), f"{workdir}/checkpoints/1", MASKED)
    assert values(found) == {1.0}
    assert str(report).splitlines()[0] == f"{workdir}/checkpoints/1: 26 arrays loaded"


def test_a_step_without_a_checkpoint_is_refused(tmp_path):
    workdir = trained(tmp_path / "mlm", MASKED, 1, 5)
    with pytest.raises(StorageError, match=r"has no checkpoint of step 3; use one of \[1, 5\]"):
        warm_start(params(MASKED), f"{workdir}/checkpoints/3", MASKED)


def test_one_encoder_fills_both_towers(tmp_path):
    workdir = trained(tmp_path / "ict", SHARED, 3)
    found, report = warm_start(params(TWO), workdir, TWO)
    assert values(found["query"]) == values(found["passage"]) == {3.0}
    assert report.initialised == report.ignored == []


def test_two_towers_cannot_become_one_encoder(tmp_path):
    workdir = trained(tmp_path / "ict", TWO, 3)
    with pytest.raises(ConfigError) as error:
        warm_start(params(SHARED), workdir, SHARED)
    assert (
        "has passage/bert/layer_0/attention/key/bias and query/bert/layer_0/attention/key/bias, and either could"
        in str(error.value)
    )
    assert "become encoder/bert/layer_0/attention/key/bias; start from a run with one encoder" in str(error.value)


@pytest.mark.slow
def test_two_towers_fill_two_towers_each_its_own(tmp_path):
    def other_query(tree):
        return {**tree, "query": jax.tree.map(lambda x: x + 1, tree["query"])}

    workdir = trained(tmp_path / "ict", TWO, 3, change=other_query)
    found, _ = warm_start(params(TWO), workdir, TWO)
    assert (values(found["query"]), values(found["passage"])) == ({4.0}, {3.0})


@pytest.mark.slow
def test_cocondenser_takes_backbone_and_both_heads_from_condenser(tmp_path):
    workdir = trained(tmp_path / "condenser", CONDENSER, 3)
    found, report = warm_start(params(COCONDENSER), workdir, COCONDENSER)
    assert values(found) == {3.0}
    assert report.initialised == report.ignored == []


def test_condenser_from_masked_language_modelling_starts_with_a_fresh_head_and_says_so(tmp_path):
    workdir, before = trained(tmp_path / "mlm", MASKED, 3), params(CONDENSER)
    found, report = warm_start(before, workdir, CONDENSER)
    assert changed(found, before) == {"encoder", "mlm"}
    assert len(report.initialised) == 16  # one layer
    assert "16 newly initialised\n  condenser/layer_*/attention/key/bias" in str(report)


def test_what_the_new_objective_has_no_place_for_is_ignored_and_listed(tmp_path):
    workdir = trained(tmp_path / "condenser", CONDENSER, 3)
    _, report = warm_start(params(SHARED), workdir, SHARED)
    assert len(report.ignored) == 16 + 5
    assert "21 ignored, of the folder\n  condenser/layer_*/attention/key/bias" in str(report)


@pytest.mark.slow
def test_a_heads_other_depth_is_refused_where_layers_would_stay_fresh(tmp_path):
    workdir, deeper = trained(tmp_path / "condenser", CONDENSER, 3), replace(COCONDENSER, head_layers=2)
    with pytest.raises(
        StorageError, match=r"a part is incomplete: condenser/layer_1/attention/key/bias, .* is missing"
    ):
        warm_start(params(deeper), workdir, deeper)


def test_a_part_that_is_there_by_half_is_refused(tmp_path):
    def without_norm(tree):
        return {**tree, "mlm": {name: leaf for name, leaf in tree["mlm"].items() if name != "norm"}}

    workdir = trained(tmp_path / "mlm", MASKED, 3, change=without_norm)
    with pytest.raises(StorageError, match=r"a part is incomplete: mlm/norm/bias, mlm/norm/scale is missing"):
        warm_start(params(MASKED), workdir, MASKED)


def test_a_run_with_nothing_in_common_is_refused(tmp_path):
    workdir = trained(tmp_path / "toy", BagOfTokens(), 3)
    with pytest.raises(StorageError, match="holds no parameters of this objective"):
        warm_start(params(MASKED), workdir, MASKED)


def test_another_architecture_is_refused_with_the_flags_that_make_it_the_same(tmp_path):
    """Heads and epsilon change what a model computes, but no shape of its parameters."""
    workdir = trained(tmp_path / "mlm", MASKED, 3)
    other = replace(MASKED, encoder=Encoder(replace(BERT, heads=4, epsilon=1e-5)))
    with pytest.raises(ConfigError) as error:
        warm_start(params(other), workdir, other)
    path = "objective.encoder.bert"
    assert str(error.value).splitlines() == [
        f"{path}.heads=4, but {workdir} has 2; use --{path}.heads=2",
        f"{path}.epsilon=1e-05, but {workdir} has 1e-12; use --{path}.epsilon=1e-12",
    ]


def test_a_larger_vocabulary_there_is_refused(tmp_path):
    workdir = trained(tmp_path / "mlm", MASKED, 3)
    smaller = replace(MASKED, encoder=Encoder(replace(BERT, vocab_size=20)))
    with pytest.raises(
        ConfigError, match=r"vocab_size=20 is smaller than the 30 of .*run `dense-jax prepare` with the same flags"
    ):
        warm_start(params(smaller), workdir, smaller)


def test_a_projection_of_another_width_is_refused_by_its_shapes(tmp_path):
    narrow = replace(SHARED, encoder=Encoder(BERT, Pooling.POOLER, projection=4))
    wide = replace(SHARED, encoder=Encoder(BERT, Pooling.POOLER, projection=6))
    workdir = trained(tmp_path / "ict", narrow, 3)
    with pytest.raises(StorageError, match=r"projection/dense/bias is \[6\], but \[4\] there"):
        warm_start(params(wide), workdir, wide)


@pytest.mark.slow
def test_a_run_prints_the_report_and_begins_with_what_was_loaded_on_its_own_mesh(tmp_path, capsys):
    workdir = trained(tmp_path / "mlm", MASKED, 3)
    program = make_program(Config(CONDENSER, steps=10, batch=8, init_from=workdir))
    state = initial_state(program, functools.partial(initial_weights, program.config))
    assert values(state.params["encoder"]) == {3.0}
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, program.like)
    assert "26 arrays loaded" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["_METADATA", "largest"])
def test_a_damaged_checkpoint_is_refused_by_its_file(tmp_path, name):
    workdir = Path(trained(tmp_path / "mlm", MASKED, 3))
    files = [path for path in (workdir / "checkpoints/3/params").rglob("*") if path.is_file()]
    victim = next((path for path in files if path.name == name), max(files, key=lambda path: path.stat().st_size))
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(StorageError, match=rf"checkpoint of step 3: .*{victim.name}: digest"):
        warm_start(params(MASKED), str(workdir), MASKED)


# A reader

REALM = Realm(ENCODER, query_length=4, passage_length=4)
ORQA = Orqa(ENCODER, query_length=4, passage_length=8, reader_length=8, retrieved=2, read=1)


def begun(objective, **sources):
    """Parameters that are random where nothing was loaded, the part that was changed of each, and the reports."""
    before = params(objective)
    rest = {"neighbours": NeighboursConfig(every=0), "spans": SpansConfig(titles=objective is REALM)}
    found, reports = with_initial_weights(before, Config(objective, steps=10, batch=8, **rest, **sources))
    return found, changed(found, before), reports


@pytest.mark.slow
def test_orqa_takes_both_towers_and_the_reader_from_the_one_encoder_of_ict(tmp_path):
    found, loaded, (report,) = begun(ORQA, init_from=trained(tmp_path / "ict", SHARED, 3))
    assert loaded == {"query", "passage", "reader"}
    assert values(found["query"]) == values(found["passage"]) == values(found["reader"]["encoder"]) == {3.0}
    assert {name.partition("/")[2].partition("/")[0] for name in report.initialised} == {"spans"}


@pytest.mark.slow
def test_the_reader_may_come_from_elsewhere_with_a_report_of_its_own(tmp_path):
    ict, mlm = trained(tmp_path / "ict", TWO, 3), trained(tmp_path / "mlm", MASKED, 5)
    found, _, (of_towers, of_reader) = begun(ORQA, init_from=ict, init_reader_from=mlm)
    assert values(found["query"]) == values(found["passage"]) == {3.0}
    assert values(found["reader"]["encoder"]) == {5.0}
    assert (of_towers.initialised, of_towers.ignored) == ([], [])
    assert {name.partition("/")[0] for name in of_reader.ignored} == {"mlm"}


def test_the_reader_may_come_from_a_hugging_face_folder_and_the_towers_from_nowhere(tmp_path):
    folder = published(tmp_path / "hf", MASKED)
    found, loaded, (report,) = begun(REALM, init_reader_from=str(folder))
    assert loaded == {"reader"}
    assert values(found["reader"]) == {1.0}  # its masked-LM head too
    assert report.initialised == []


@pytest.mark.slow
def test_realms_reader_becomes_orqas_and_its_encoder_both_towers(tmp_path):
    def other_reader(tree):
        return {**tree, "reader": jax.tree.map(lambda x: x + 1, tree["reader"])}

    workdir = trained(tmp_path / "realm", REALM, 3, change=other_reader)
    found, _, (report,) = begun(ORQA, init_from=workdir)
    assert values(found["query"]) == values(found["passage"]) == {3.0}
    assert values(found["reader"]["encoder"]) == {4.0}
    assert {name.partition("/")[2].partition("/")[0] for name in report.ignored} == {"mlm"}


def test_what_has_no_reader_takes_nothing_from_one(tmp_path):
    found, _, (report,) = begun(MASKED, init_from=trained(tmp_path / "realm", REALM, 3))
    assert values(found["encoder"]) == {3.0}
    assert {name.partition("/")[0] for name in report.ignored} == {"reader"}
    assert {name.partition("/")[0] for name in report.initialised} == {"mlm"}


@pytest.mark.slow
def test_which_of_two_towers_becomes_the_reader_is_asked_for(tmp_path):
    workdir = trained(tmp_path / "ict", TWO, 3)
    for sources in ({"init_from": workdir}, {"init_reader_from": workdir}):
        with pytest.raises(ConfigError) as error:
            begun(ORQA, **sources)
        assert str(error.value).startswith(f"{next(iter(sources))}={workdir} has passage/bert/layer_0/")
        assert str(error.value).endswith(
            "could become reader/encoder/bert/layer_0/attention/key/bias; name a run with one encoder, or a Hugging "
            "Face folder, by --init_reader_from"
        )


def test_a_reader_for_what_has_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"init_reader_from=somewhere initialises a reader, but ICT has no reader"):
        begun(SHARED, init_reader_from="somewhere")


@pytest.mark.slow
def test_a_run_that_starts_both_towers_from_one_encoder_can_be_trained(tmp_path):
    """The same array in two places could not give its memory to the next state."""
    config = Config(
        ORQA, steps=10, batch=8, init_from=trained(tmp_path / "ict", SHARED, 3), neighbours=NeighboursConfig(every=0)
    )
    program = make_program(config)
    examples = {"query": (4,), "read": (1, 8)}
    tokens = {name: Tokens(*(jnp.ones((8, *shape), int) for _ in range(2)), jnp.ones((8, *shape), bool))
              for name, shape in examples.items()}  # fmt: skip
    spans = len(candidate_spans(8, 10).starts)
    batch = tokens | {
        "vectors": jnp.ones((8, 2, 16)),
        "there": jnp.ones((8, 2), bool),
        "holds": jnp.ones((8, 2), bool),
        "body": jnp.ones((8, 1, 8), bool),
        "gold": jnp.ones((8, 1, spans), bool),
    }
    start = functools.partial(initial_weights, program.config)
    state, _ = program.step(initial_state(program, start), jax.device_put(batch, batch_sharding(program.mesh)))
    assert values(state.params["passage"]) == {3.0}


# A Hugging Face folder


def published(path, objective, beside=None):
    """`objective` as Condenser's authors publish it, all of it ones: a BERT, and its head in a file of its own."""
    path.mkdir()
    ours = {name: np.ones_like(x.T if name.endswith("kernel") else x) for name, x in flat(params(objective)).items()}
    named = {FAMILIES["bert"].tensor_name(name): x for name, x in ours.items()}
    head = {name: tensor for name, tensor in named.items() if name.startswith("c_head.")}
    save_file({name: tensor for name, tensor in named.items() if name not in head}, path / "model.safetensors")
    save_file(head | (beside or {}), path / "head.safetensors")
    write_json(path / "config.json", config_json(BERT, "BertForMaskedLM", pad=0))
    return path


@pytest.mark.parametrize("method", [CONDENSER, RetroMAE(ENCODER, **SHORT)], ids=["condenser", "retromae"])
def test_a_head_in_a_second_file_is_taken(tmp_path, method):
    found, report = warm_start(params(method), str(published(tmp_path / "hf", method)), method)
    assert values(found) == {1.0}
    assert report.initialised == report.ignored == []


def test_the_authors_buffer_of_targets_is_ignored_and_listed(tmp_path):
    folder = published(tmp_path / "hf", CONDENSER, {"co_target": np.arange(4)})
    _, report = warm_start(params(COCONDENSER), str(folder), COCONDENSER)
    assert report.initialised == []
    assert str(report).endswith("1 ignored, of the folder\n  co_target")


def test_a_pickled_head_is_ignored_with_the_command_that_converts_it(tmp_path):
    folder = published(tmp_path / "hf", CONDENSER)
    (folder / "head.safetensors").rename(folder / "model.pt")
    before = params(CONDENSER)
    found, report = warm_start(before, str(folder), CONDENSER)
    assert changed(found, before) == {"encoder", "mlm"}
    assert len(report.initialised) == 16
    assert "1 ignored, of the folder\n  model.pt, a pickle; to use it: python -c " in str(report)
    assert f'"{folder}/head.safetensors"' in str(report)


@pytest.mark.slow
def test_the_command_for_a_pickled_head_makes_one_that_is_taken(tmp_path):
    torch = pytest.importorskip("torch", reason="the command is for a machine with PyTorch")
    folder = published(tmp_path / "hf", CONDENSER)
    torch.save(
        {name: torch.tensor(x) for name, x in load_file(folder / "head.safetensors").items()}, folder / "model.pt"
    )
    (folder / "head.safetensors").unlink()
    _, report = warm_start(params(CONDENSER), str(folder), CONDENSER)
    command = report.ignored[0].partition("to use it: python")[2]
    subprocess.run(sys.executable + command, shell=True, check=True)
    assert values(warm_start(params(CONDENSER), str(folder), CONDENSER)[0]) == {1.0}


def test_other_files_beside_the_model_are_not_read(tmp_path):
    folder = published(tmp_path / "hf", CONDENSER)
    save_file({"adapter.weight": np.ones(3)}, folder / "adapter.safetensors")
    assert warm_start(params(CONDENSER), str(folder), CONDENSER)[1].ignored == ["adapter.safetensors"]


def test_a_head_that_the_objective_has_no_use_for_is_not_read(tmp_path):
    folder = published(tmp_path / "hf", CONDENSER)
    (folder / "head.safetensors").write_bytes(b"not a header at all")
    assert warm_start(params(MASKED), str(folder), MASKED)[1].ignored == ["head.safetensors"]


def test_half_a_head_is_refused(tmp_path):
    folder = published(tmp_path / "hf", CONDENSER)
    head = load_file(folder / "head.safetensors")
    save_file({name: x for name, x in head.items() if "intermediate" not in name}, folder / "head.safetensors")
    with pytest.raises(StorageError, match=r"its Condenser head or decoder lacks c_head\.0\.intermediate\.dense\.bias"):
        warm_start(params(CONDENSER), str(folder), CONDENSER)


def test_a_folder_that_is_neither_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none/config\.json: no such file"):
        warm_start(params(MASKED), str(tmp_path / "none"), MASKED)


def test_an_origin_is_followed_through_the_runs_before_it(tmp_path):
    assert origin("") == Origin("", "")
    assert origin(str(tmp_path / "all-MiniLM")) == Origin("all-MiniLM", "all-MiniLM")
    (tmp_path / "ict" / "checkpoints").mkdir(parents=True)
    objective = MLM(Encoder(BERT), passage_length=8, query_length=8)
    record = to_dict(Config(objective, steps=7, batch=8, init_from=str(tmp_path / "all-MiniLM")))
    write_json(tmp_path / "ict" / "config.json", record)
    words = "the run ict (MLM, 5 steps), which started from all-MiniLM"
    assert origin(str(tmp_path / "ict" / "checkpoints" / "5")) == Origin(words, "all-MiniLM")
    assert origin(str(tmp_path / "gone" / "checkpoints" / "5")) == Origin("the run gone", "")

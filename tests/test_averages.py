"""Means of models: exact parameters, and models that have none."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import dense_jax
from dense_jax.__main__ import run
from dense_jax.averages import average
from dense_jax.config.command_line import parse_average
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, StorageError
from dense_jax.hf import tensors
from dense_jax.io import write_json
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from tests.faults.command_line import write_corpus
from tests.sources import sentence


def write_model(folder: Path, seed: int, width: int = 16, words: int = 20, **settings) -> Path:
    """A plain BERT folder of random numbers, with its tokenizer."""
    tokenizer = Tokenizer.train([sentence(i) for i in range(words)], 80, lowercase=True)
    bert = BertConfig(layers=1, width=width, heads=2, feed_forward=24, vocab_size=90, positions=40, dropout=0.0)
    params = {"bert": Encoder(bert).init(jax.random.key(seed))["bert"]}
    vocabulary = tokenizer.vocabulary
    tensors.save_params(params, bert, folder, pad=vocabulary.pad, ends=(vocabulary.cls, vocabulary.sep))
    tokenizer.save(folder, max_length=40)
    if settings:
        modules = {"": "Transformer", "1_Pooling": "Pooling"}
        chain = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules.items()]
        write_json(folder / "modules.json", chain)
        write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": settings.pop("pooling", "mean")})
        write_json(folder / "config_sentence_transformers.json", settings)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [write_model(folder / name, seed) for seed, name in enumerate(("one", "two"))]


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def assert_mean(found: Path, parts: list[dict[str, np.ndarray]], shares: list[float]) -> None:
    written = weights_of(found)
    assert written.keys() == parts[0].keys()
    for name, tensor in written.items():
        assert tensor.dtype == np.float32
        expected = sum(np.float32(share) * part[name] for share, part in zip(shares, parts, strict=True))
        np.testing.assert_array_equal(tensor, expected, err_msg=name)


def test_the_function_of_the_package_is_not_hidden_by_a_module_of_its_name():
    assert dense_jax.average is average  # the second call in a process found the module


@pytest.mark.slow
def test_the_verb_writes_the_weighted_mean_as_a_folder_that_gives_its_vectors(models, tmp_path, capsys):
    assert run(["average", *map(str, models), "--weights=3,1", f"--workdir={tmp_path / 'mean'}"]) == 0
    assert "the vectors of 9 sample texts differ from ours by at most" in capsys.readouterr().out
    export = tmp_path / "mean" / "export"
    assert_mean(export, [weights_of(model) for model in models], [0.75, 0.25])
    card = (export / "README.md").read_text()
    assert "the mean of the parameters of one (weight 0.75), two (weight 0.25) as it is, without further" in card
    average([export, *models], tmp_path / "again")  # a mean is a model like others
    assert_mean(tmp_path / "again" / "export", [weights_of(model) for model in (export, *models)], [1 / 3] * 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 8}, r"query\.encoder\.bert\.width is 16 in one, and 8 in other"),
        ({"words": 12}, "the tokenizer of other is another one than that of one"),
        ({"pooling": "cls"}, r"passage\.encoder\.pooling is 'mean' in one, and 'cls' in other"),
        ({"similarity_fn_name": "dot"}, "similarity is 'cosine' in one, and 'dot' in other"),
        ({"prompts": {"query": "q: "}}, r"query\.prompt is '' in one, and 'q: ' in other"),
    ],
)
def test_models_that_differ_in_more_than_parameters_are_refused_by_name(models, changes, message, tmp_path):
    other = write_model(tmp_path / "other", 2, **changes)
    with pytest.raises(ConfigError, match=f"(?s)only models of one architecture.*{message}"):
        average([models[0], other], tmp_path / "mean")
    assert not (tmp_path / "mean" / "export").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "average takes workdirs or folders of models, and --workdir=DIR"),
        (["one", "two"], "average takes workdirs or folders of models, and --workdir=DIR"),
        (["one", "--workdir=mean"], "one model alone has no mean; name another one, or --last=K"),
        (["one", "two", "--weights=1", "--workdir=mean"], "--weights=1 is not one number for each of 2 models"),
        (["one", "two", "--weights=1,0", "--workdir=mean"], "--weights=1,0: each must be more than 0"),
        (["one", "two", "--weights=1,x", "--workdir=mean"], "--weights=1,x is not numbers with commas between them"),
        (
            ["one", "two", "--last=2", "--workdir=mean"],
            "--last=2 takes the checkpoints of one run, and one two is not one",
        ),
        (["one", "--last=two", "--workdir=mean"], "--last=two is not a number of checkpoints"),
        (
            ["one", "two", "--seed=1", "--workdir=mean"],
            "unknown flag --seed; the flags are --workdir, --weights, --last",
        ),
    ],
)
def test_mistakes_of_the_command_line_are_named_with_their_fix(models, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(models[0].parent)
    assert run(["average", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def workdir(models, tmp_path_factory) -> Path:
    """A run of six steps from the first model, with checkpoints of steps 0, 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"steps": 6, "batch": 8, "checkpoint.every": 2, "log_every": 1, "optimizer.learning_rate": 1e-2}
    settings |= {"corpus.source": str(write_corpus(folder / "docs.jsonl")), "passages.length": 30}
    trained = dense_jax.Run(folder / "trained", dense_jax.load_config(f"pretrained:{models[0]}", settings))
    trained.prepare()
    trained.train()
    return folder / "trained"


def exported(workdir: Path, step: int) -> dict[str, np.ndarray]:
    config = dense_jax.Run(workdir).config
    config.embed.step = step
    return weights_of(dense_jax.Run(workdir, config).export().folder)


@pytest.mark.slow
def test_a_mean_of_the_last_checkpoints_and_one_of_a_run_with_its_start(models, workdir, tmp_path):
    average([workdir], tmp_path / "last", last=2)
    four, six = exported(workdir, 4), exported(workdir, 6)
    assert not np.array_equal(four["embeddings.word_embeddings.weight"], six["embeddings.word_embeddings.weight"])
    assert_mean(tmp_path / "last" / "export", [four, six], [0.5, 0.5])
    average([workdir / "checkpoints" / "4", workdir], tmp_path / "named", weights=[0.5, 0.5])
    assert_mean(tmp_path / "named" / "export", [four, six], [0.5, 0.5])
    average([workdir, models[0]], tmp_path / "robust", weights=[0.7, 0.3])
    assert_mean(tmp_path / "robust" / "export", [six, weights_of(models[0])], [0.7, 0.3])
    card = (tmp_path / "robust" / "export" / "README.md").read_text()
    assert "the mean of the parameters of trained at step 6 (weight 0.7), one (weight 0.3)" in card
    assert "base_model: one" in card


@pytest.mark.slow
def test_a_run_keeps_its_own_export_and_its_damage_is_found(models, workdir, tmp_path):
    with pytest.raises(ConfigError, match="is that of a run, whose export the mean would replace"):
        average(models, workdir)
    with pytest.raises(ConfigError, match=r"--last=4, but .* holds 3 checkpoints of training; use a number from 2"):
        average([workdir], tmp_path / "mean", last=4)
    damaged = Path(shutil.copytree(workdir, tmp_path / "damaged"))
    digests = damaged / "checkpoints" / "digests-4.json"
    digests.write_text(json.dumps(dict.fromkeys(json.loads(digests.read_text()), "0" * 32)))
    with pytest.raises(StorageError, match="checkpoints/4"):
        average([damaged], tmp_path / "mean", last=2)


def test_models_of_the_hub_keep_their_names():
    line = parse_average(["hf://lab/model@v1", "lab/other", "~/runs/mine", "--workdir=mean"])
    assert line.models == ["hf://lab/model@v1", "lab/other", str(Path("~/runs/mine").expanduser())]

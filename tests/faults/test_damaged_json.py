"""JSON of the wrong shape: each file that is read, with each kind of damage, ends in a message or is taken as it is."""

import copy
import json
import shutil

import pytest

from dense_jax.artifact import claim
from dense_jax.config import Config, IndexConfig
from dense_jax.data.dedup import read_duplicates
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.stores.passage_store import PassageStore, StoreWriter
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.data.tokenizer_import import import_folder
from dense_jax.errors import ConfigError, StorageError, UserError
from dense_jax.hf.config import read_config
from dense_jax.hf.sentence_transformers import read_sentence_folder
from dense_jax.io import read_json
from dense_jax.mesh import process_mesh
from dense_jax.retrieval import embed, index
from dense_jax.retrieval.results import claim_folder
from dense_jax.retrieval.vectors import Vectors
from dense_jax.run_results import read_run
from dense_jax.train.checkpoint_files import COMMIT, CheckpointFiles
from dense_jax.train.metrics import MetricsLog
from dense_jax.train.same_run import NO_DATA, check_continues, record, recorded
from dense_jax.train.validation import read_history
from tests import toys
from tests.bert_folders import sentence_folder
from tests.sources import config, rows, write

TEXTS = ["", " ", "null", "3", "true", '"text"', "[]", "{}", "[1]", '[{"a": 1}]', "{", "NaN", "\0" * 99, "\ufeff{}"]
TEXTS += ["[" * 100_000, '{"a":' * 100_000, "9" * 5_000]
VALUES = [None, "text", "7", -1, 0.5, 1e9, 10**9, 10**30, True, [], {}, [None], [[]], {"a": None}]


def damaged(text, depth):
    """`text` with each of its values replaced by each of VALUES, and each of its keys left out; after that, TEXTS."""
    value = json.loads(text)

    def parent(copied, path):
        for key in path[:-1]:
            copied = copied[key]
        return copied

    for path in paths(value, depth):
        for other in VALUES:
            copied = copy.deepcopy(value)
            parent(copied, path)[path[-1]] = other
            yield f"{path} is {other!r}", json.dumps(copied)
        copied = copy.deepcopy(value)
        del parent(copied, path)[path[-1]]
        yield f"no {path}", json.dumps(copied)
    yield from ((text[:20], text) for text in TEXTS)


def paths(value, depth):
    """The places in a JSON value, the first of each list."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, below in items:
        yield (key,)
        if depth > 1:
            yield from ((key, *rest) for rest in paths(below, depth - 1))


def outcomes(path, read, allowed, depth=3):
    """Reads `path` with each damage; the message of each that is refused. Whatever is no UserError fails the test."""
    original = path.read_text()
    found = {}
    for what, text in damaged(original, depth):
        path.write_text(text)
        try:
            read()
        except allowed as error:
            found[what] = str(error)
        except Exception as error:
            pytest.fail(f"{path.name}: {what}: {type(error).__name__}: {error}")
    path.write_text(original)
    read()
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    source = write(root / "rows.jsonl", rows(6))
    prepare(config(source), root / "work")
    return source, root / "work"


def store_folder(tmp_path, prepared):
    return shutil.copytree(prepared[1] / "passages-32", tmp_path / "passages-32")


def all_refused_but(found, path, *, sound=("\ufeff",)):
    """The whole file replaced by another value is always refused."""
    missing = [text[:20] for text in TEXTS if text[:20] not in found and not text.startswith(sound)]
    assert not missing, f"{path.name}: taken: {missing}"


def test_the_manifest_of_passages(tmp_path, prepared):
    folder = store_folder(tmp_path, prepared)

    def read():
        store = PassageStore(folder)
        store.passages([0, len(store) - 1])

    found = outcomes(folder / "manifest.json", read, StorageError)
    all_refused_but(found, folder / "manifest.json")
    assert "damaged (count: Input should be" in found["('count',) is 'text'"]
    assert "remove it and run again what wrote it" in found["('count',) is 'text'"]


def test_the_progress_of_passages(tmp_path, prepared):
    folder = tmp_path / "passages-32"
    claim(folder, {"a": {"b": 1}}, {"usable": 1, "rejected": 0})
    state = read_json(prepared[1] / "passages-32" / "manifest.json")
    (folder / "progress.json").write_text(json.dumps(state))
    outcomes(folder / "progress.json", lambda: StoreWriter(folder, 4, 10).read_of(0), StorageError)


def test_what_was_prepared_of_the_text(prepared, tmp_path):
    source, work = prepared[0], shutil.copytree(prepared[1], tmp_path / "work")
    original = (work / "text.json").read_text()
    for text in (text for text in TEXTS if text.strip()):
        (work / "text.json").write_text(text)
        with pytest.raises(UserError):
            prepare(config(source), work)
    (work / "text.json").write_text(original)
    prepare(config(source), work)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_the_tokenizer_of_a_workdir(tmp_path, name):
    folder = tmp_path / "tokenizer"
    Tokenizer.train(["a b c"], 32, True).save(folder)

    def read():
        loaded = Tokenizer.load(folder)
        loaded.encode(["a b"])
        assert loaded.vocabulary.size < 1 << 24

    outcomes(folder / name, read, (StorageError, ConfigError))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_the_tokenizer_of_a_model_folder(tmp_path, name):
    folder = tmp_path / "tokenizer"
    Tokenizer.train(["a b c"], 32, True).save(folder)
    original = (folder / name).read_text()
    for text in TEXTS:
        (folder / name).write_text(text)
        try:
            import_folder(folder).vocabulary  # noqa: B018
        except ConfigError as error:
            assert str(folder) in str(error)
    (folder / name).write_text(original)
    import_folder(folder)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    root, method = tmp_path_factory.mktemp("embedded"), toys.BagOfTokens()
    tower = method.towers(method.init(__import__("jax").random.key(0))).passage
    store, tokenizer = toys.MemoryStore(), toys.ToyTokenizer()
    made = {"batch": 8, "shard_size": 16, "made_by": {"checkpoint": "x"}}

    def make(folder):
        return embed.embed(store, tower, tokenizer, process_mesh(), folder, **made)

    index.build_index(make(root / "vectors"), IndexConfig(), root / "index", process_mesh())
    return root, make


def test_the_manifest_of_embeddings(tmp_path, embedded):
    folder = shutil.copytree(embedded[0] / "vectors", tmp_path / "vectors")
    all_refused_but(outcomes(folder / "manifest.json", lambda: Vectors(folder).verify(), StorageError), folder)


def test_the_ids_of_embeddings(tmp_path, embedded):
    folder = shutil.copytree(embedded[0] / "vectors", tmp_path / "vectors")
    outcomes(folder / "ids.json", lambda: Vectors(folder).ids, StorageError)


def test_the_claim_of_unfinished_embeddings(tmp_path, embedded):
    folder = shutil.copytree(embedded[0] / "vectors", tmp_path / "vectors")

    def read():
        (folder / "manifest.json").unlink(missing_ok=True)
        return embedded[1](folder)

    found = outcomes(folder / "claim.json", read, (StorageError, ConfigError), depth=2)
    all_refused_but(found | {"": "an empty claim is written again"}, folder)


def test_the_manifest_of_an_index(tmp_path, embedded):
    folder, vectors = shutil.copytree(embedded[0] / "index", tmp_path / "index"), Vectors(embedded[0] / "vectors")
    read = lambda: index.open_index(folder, vectors, process_mesh()).summary  # noqa: E731
    all_refused_but(outcomes(folder / "manifest.json", read, (StorageError, ConfigError)), folder)


@pytest.mark.slow
def test_the_settings_of_a_run(tmp_path):
    asked = Config(objective=toys.BagOfTokens(), steps=4, batch=8)
    record(asked, tmp_path, NO_DATA)
    (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    (tmp_path / "checkpoints" / "digests-0.json").write_text('{"commit_success.txt": "0"}')
    assert recorded(tmp_path) is not None
    read = lambda: check_continues(asked, tmp_path, NO_DATA)  # noqa: E731
    outcomes(tmp_path / "config.json", read, (StorageError, ConfigError), depth=1)


def test_the_validations_of_a_run(tmp_path):
    known = {"sample": "s", "measure": "nDCG@10", "select": "best", "patience": 0}
    (tmp_path / "validation.json").write_text(json.dumps(known | {"results": [{"step": 1, "nDCG@10": 0.5}]}))

    def read():
        history = read_history(tmp_path)
        assert history.best in history.steps or not history.steps
        assert history.ended in ("",) or history.patience

    outcomes(tmp_path / "validation.json", read, StorageError)


def test_the_set_that_results_are_of(tmp_path):
    folder = claim_folder(tmp_path, "toys-test", "evaluate.folder", [1])
    found = outcomes(folder / "set.json", lambda: claim_folder(tmp_path, "toys-test", "", [1]), StorageError)
    assert "damaged (name: Input should be" in found["('name',) is -1"]


def test_the_digests_and_the_save_of_a_checkpoint(tmp_path):
    files = CheckpointFiles(tmp_path)
    files.path(1).mkdir()
    (files.path(1) / COMMIT).write_text("x")
    files.seal(1)
    all_refused_but(outcomes(tmp_path / "digests-1.json", lambda: files.verify(1), StorageError), tmp_path, sound=())
    files.begin(2)
    outcomes(tmp_path / "saving.json", lambda: files.saving() is None or files.saving() >= 0, ())


def finished(work):
    work.mkdir(exist_ok=True)
    (work / "config.json").write_text(json.dumps({"steps": 2, "seed": 0, "objective": {"class": "X"}}))
    (work / "metrics.jsonl").write_text('{"step": 1, "tokens": 1.0, "seconds": 1.0}\n')
    with (work / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "tokens": 2.0, "seconds": 2.0}\n')
    result = {"collection": "c/test", "split": "test", "step": 2}
    scores = {"nDCG@10": 0.5, "MRR@10": 0.5, "Recall@100": 0.5}
    path = work / "results" / "c-test" / "after_training.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"mean": scores, "per_query": {"q": scores}}))
    return work


@pytest.mark.parametrize("name", ["config.json", "results/c-test/after_training.json"])
def test_what_a_finished_run_left(tmp_path, name):
    work = finished(tmp_path / "work")
    found = outcomes(work / name, lambda: read_run(work), UserError)
    all_refused_but(found, work / name)


def test_a_line_of_metrics_that_was_cut_short_is_not_the_last(tmp_path):
    work = finished(tmp_path / "work")
    for cut in ('{"step": 3, "tok', "\0" * 60, "[" * 100_000):
        finished(work)
        with (work / "metrics.jsonl").open("a") as file:
            file.write(cut)
        assert read_run(work).steps == 2


@pytest.mark.parametrize(
    "line", ["null", "3", '{"step": "x"}', '{"step": 2}', '{"step": -1, "tokens": 1, "seconds": 1}']
)
def test_a_line_of_metrics_of_another_shape_is_named(tmp_path, line):
    work = finished(tmp_path / "work")
    with (work / "metrics.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(StorageError, match=r"metrics\.jsonl:3: damaged"):
        read_run(work)


@pytest.mark.parametrize("line", ["null", "3", '{"step": "x"}', '{"step": 1}', "[" * 100_000, "\0" * 60, "9" * 5_000])
def test_training_goes_on_after_a_damaged_line_of_metrics(tmp_path, line):
    finished(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(line)
    MetricsLog(tmp_path, first=2, last=4, every=1, batch=1, names=str).close()
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_a_line_of_near_duplicates_that_is_damaged_is_named(tmp_path):
    path = tmp_path / "duplicates.jsonl"
    for line in ("null", "{", "[]", '{"id": 3, "duplicate_of": "a"}', "[" * 100_000):
        path.write_text('{"id": "b", "duplicate_of": "a"}\n' + line + "\n")
        with pytest.raises(StorageError, match=r"duplicates\.jsonl:2: damaged"):
            read_duplicates(path, 2)


SENTENCE_FILES = ["config.json", "modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"]
SENTENCE_FILES += ["sentence_bert_config.json", "tokenizer_config.json"]


@pytest.mark.parametrize("name", SENTENCE_FILES)
def test_a_folder_of_sentence_transformers(tmp_path, name):
    prompts = {"query": "q: ", "document": "d: "}
    folder = sentence_folder(tmp_path, {"pooling_mode": "cls"}, prompts=prompts, similarity_fn_name="cosine")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 9}')
    if name == "tokenizer_config.json":
        (folder / "sentence_bert_config.json").unlink()
        (folder / name).write_text('{"model_max_length": 9}')

    def read():
        found = read_sentence_folder(folder)
        assert 0 < found.length <= 12
        assert found.encoder.bert.layers <= 1_000

    found = outcomes(folder / name, read, (ConfigError, StorageError))
    shapes = [text for text in TEXTS if text.strip() and text[0] not in "{\ufeff"]
    refused = {what: message for what, message in found.items() if what in {text[:20] for text in shapes}}
    assert len(refused) >= len({text[:20] for text in shapes if not text.startswith("[{")})
    (folder / name).write_text("null")
    with pytest.raises(ConfigError, match="the value: Input should be a valid"):
        read()


def test_a_model_of_absurd_size_is_refused_before_memory_is_asked_for(tmp_path):
    folder = sentence_folder(tmp_path, {"pooling_mode": "cls"})
    for key in ("num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings"):
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(raw | {key: 10**9}))
        with pytest.raises(ConfigError, match=f"config.json: damaged \\({key}: Input should be less than"):
            read_config(folder)
        (folder / "config.json").write_text(json.dumps(raw))

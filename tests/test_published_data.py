"""Data sets by name: hf: read by `datasets` from folders in the Hub's layout, ir: by ir_datasets."""

import json
import shutil
from pathlib import Path

import pytest

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.corpus import open_corpus
from dense_jax.errors import DataError, MachineError
from dense_jax.remote import cache, data_sets
from dense_jax.remote.data_sets import local_data
from dense_jax.retrieval.beir import read_test_set

DOCUMENTS = [{"_id": f"d{i}", "title": f"Title {i}", "text": f"Text of document {i}.\nA line."} for i in range(5)]
QUERIES = [{"_id": "q1", "text": "the first"}, {"_id": "q2", "text": "the second"}]
GRADES = [{"query-id": "q1", "corpus-id": "d0", "score": 1}, {"query-id": "q2", "corpus-id": "d3", "score": 2}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    local_data.cache_clear()


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason="the extra hf")


def in_layout_of_the_hub(folder: Path, parts: dict[str, dict[str, list[dict]]]) -> Path:
    """A folder with a file for each configuration and split, which its card lists."""
    lines = ["---", "configs:"]
    for part, splits in parts.items():
        lines += [f"- config_name: {part}", "  data_files:"]
        for split, rows in splits.items():
            path = folder / part / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            lines += [f"  - split: {split}", f"    path: {part}/{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


def test_rows_of_a_split_are_streamed_into_a_file_once(datasets, tmp_path, capsys):
    folder = in_layout_of_the_hub(tmp_path / "questions", {"default": {"train": DOCUMENTS, "test": DOCUMENTS[:2]}})
    path = local_data(f"hf:{folder}:test")
    assert path.name == "questions.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == DOCUMENTS[:2]
    assert "reading it once into" in capsys.readouterr().err
    local_data.cache_clear()
    assert local_data(f"hf:{folder}:test") == path
    assert "reading" not in capsys.readouterr().err
    assert len(list(open_corpus(CorpusConfig(source=f"hf:{folder}")))) == 5


@pytest.mark.parametrize("part", ["qrels", "default"])
def test_a_collection_of_the_hub_becomes_a_beir_folder(datasets, tmp_path, part):
    parts = {
        "corpus": {"corpus": DOCUMENTS},
        "queries": {"queries": QUERIES},
        part: {"train": GRADES[:1], "test": GRADES},
    }
    folder = local_data(f"hf:{in_layout_of_the_hub(tmp_path / 'nano', parts)}")
    assert folder.name == "nano"
    test_set = read_test_set(folder, "test")
    assert test_set.queries == {"q1": "the first", "q2": "the second"}
    assert test_set.qrels == {"q1": {"d0": 1}, "q2": {"d3": 2}}
    assert list(read_test_set(folder, "train").qrels) == ["q1"]
    corpus = open_corpus(CorpusConfig(source=f"hf:{tmp_path / 'nano'}"), with_queries=True)
    assert next(document.text for document in corpus) == DOCUMENTS[0]["text"]


def test_a_configuration_or_split_that_is_missing_is_named(datasets, tmp_path):
    several = in_layout_of_the_hub(tmp_path / "several", {"en": {"train": DOCUMENTS}, "de": {"train": DOCUMENTS}})
    with pytest.raises(DataError, match=r"several: name one of its configurations, (en, de|de, en): hf:"):
        local_data(f"hf:{several}")
    one = in_layout_of_the_hub(tmp_path / "one", {"default": {"train": DOCUMENTS}})
    with pytest.raises(DataError, match=r"one:dev: has no split 'dev'; there are: train"):
        local_data(f"hf:{one}:dev")
    with pytest.raises(DataError, match=r"hf:squad is no name of a data set; write hf:ORG/NAME"):
        local_data("hf:squad")
    assert not list((tmp_path / "cache").glob("**/.*"))  # nothing in part


def test_a_split_of_a_collection_is_refused_and_judgements_without_a_column_are_named(datasets, tmp_path):
    parts = {"corpus": {"corpus": DOCUMENTS}, "queries": {"queries": QUERIES}}
    folder = in_layout_of_the_hub(tmp_path / "nano", {**parts, "qrels": {"test": GRADES}})
    with pytest.raises(DataError, match=r"nano:test: is a collection, of which all splits are read; leave :test out"):
        local_data(f"hf:{folder}:test")
    graded = [{"query-id": "q1", "document": "d0", "score": 1}]
    folder = in_layout_of_the_hub(tmp_path / "odd", {**parts, "qrels": {"test": graded}})
    with pytest.raises(DataError, match=r"have the fields query-id, document, score, but not corpus-id"):
        local_data(f"hf:{folder}")


def test_a_library_that_fails_is_one_message_and_leaves_nothing_in_part(tmp_path, monkeypatch):
    ir_datasets = pytest.importorskip("ir_datasets", reason="the extra ir")
    (tmp_path / "docs.tsv").write_text("d0\tA text\n")
    made = ir_datasets.create_dataset(docs_tsv=str(tmp_path / "docs.tsv"))
    monkeypatch.setitem(ir_datasets.registry._registered, "lab/broken", made)
    monkeypatch.setattr(ir_datasets, "docs_parent_id", lambda name: name)
    assert len(list(open_corpus(CorpusConfig(source="ir:lab/broken")))) == 1  # documents alone
    shutil.rmtree(tmp_path / "cache")
    local_data.cache_clear()
    monkeypatch.setattr(data_sets, "_ir_document", lambda document: 1 / 0)
    with pytest.raises(DataError, match=r"ir:lab/broken: cannot be read \(ZeroDivisionError: division by zero\)"):
        local_data("ir:lab/broken")
    assert list((tmp_path / "cache" / "dense_jax" / "ir").iterdir()) == []


def test_of_two_processes_the_first_to_end_wins(tmp_path):
    def write(folder):
        cache.write_rows(folder / "rows.jsonl", DOCUMENTS[:2])
        cache.write_rows(tmp_path / "place" / "rows.jsonl", DOCUMENTS)  # of another process, meanwhile

    path = cache.written_once(tmp_path / "place", "rows", write)
    assert path.read_text().count("\n") == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["place"]


def test_without_a_network_the_newest_revision_in_the_cache_is_read(datasets, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MachineError, match=r"hf:lab/set: is not in the cache, and the Hub cannot be reached"):
        local_data("hf:lab/set")
    cache.write_rows(cache.cached("hf", "lab/set") / "train-0123456789ab" / "set.jsonl", DOCUMENTS)
    assert local_data("hf:lab/set").read_text().count("\n") == 5


def test_a_collection_of_ir_datasets_becomes_a_beir_folder(tmp_path, monkeypatch):
    ir_datasets = pytest.importorskip("ir_datasets", reason="the extra ir")
    (tmp_path / "docs.tsv").write_text("".join(f"{d['_id']}\t{d['title']}\n" for d in DOCUMENTS))
    (tmp_path / "queries.tsv").write_text("".join(f"{q['_id']}\t{q['text']}\n" for q in QUERIES))
    (tmp_path / "qrels").write_text("q1 0 d0 1\nq2 0 d3 2\n")
    made = ir_datasets.create_dataset(
        docs_tsv=str(tmp_path / "docs.tsv"),
        queries_tsv=str(tmp_path / "queries.tsv"),
        qrels_trec=str(tmp_path / "qrels"),
    )
    monkeypatch.setitem(ir_datasets.registry._registered, "lab/dev/small", made)
    monkeypatch.setattr(ir_datasets, "docs_parent_id", lambda name: "lab")
    folder = local_data("ir:lab/dev/small")
    assert folder.name == "lab-dev-small"
    assert read_test_set(folder, "dev-small").qrels == {"q1": {"d0": 1}, "q2": {"d3": 2}}
    assert [document.id for document in open_corpus(CorpusConfig(source="ir:lab/dev/small"))] == [
        d["_id"] for d in DOCUMENTS
    ]


def test_an_unknown_collection_and_a_missing_library_are_named(monkeypatch):
    pytest.importorskip("ir_datasets", reason="the extra ir")
    with pytest.raises(DataError, match=r"ir:lab/none: ir_datasets \S+ has no collection of this name"):
        local_data("ir:lab/none")
    monkeypatch.setattr(data_sets.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError))
    with pytest.raises(MachineError, match=r"hf:a/b: needs datasets; pip install 'dense_jax\[hf\]'"):
        local_data("hf:a/b")

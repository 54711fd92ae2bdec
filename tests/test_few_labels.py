"""examples/few_labels.py: queries are divided, settings chosen, runs measured once, and gains tested."""

import json
import shutil
from pathlib import Path

import pytest

import dense_jax
from dense_jax.retrieval.beir import read_test_set
from examples.few_labels import main, table, with_splits, without_known_answers
from tests.query_files import write
from tests.sources import rows, sentence
from tests.test_averages import write_model


@pytest.fixture
def collection(tmp_path) -> Path:
    """A BEIR folder of test queries alone; query i is a sentence of document i, which answers it."""
    folder = tmp_path / "collection"
    write(folder / "corpus.jsonl", rows(60))
    write(folder / "queries.jsonl", [{"_id": f"q{i}", "text": sentence(10 * i)} for i in range(60)])
    write(folder / "qrels" / "test.tsv", "".join(f"q{i}\td{i}\t1\n" for i in range(60)))
    return folder


def queries_of(folder: Path) -> dict[str, list[str]]:
    return {path.stem: list(read_test_set(folder, path.stem).queries) for path in (folder / "qrels").iterdir()}


def test_test_queries_alone_are_divided_into_five_and_the_corpus_is_the_same(collection, tmp_path):
    divided = with_splits(collection, tmp_path / "divided", choices=True)
    found = queries_of(divided)
    assert found["train"][:4] == ["q0", "q1", "q5", "q6"]
    assert found["dev"][:3] == ["q2", "q7", "q12"]
    assert found["test"][:4] == ["q3", "q4", "q8", "q9"]
    assert sum(map(len, found.values())) == 60
    assert (divided / "corpus.jsonl").read_bytes() == (collection / "corpus.jsonl").read_bytes()


def test_training_queries_are_divided_only_where_there_is_something_to_choose(collection, tmp_path):
    write(collection / "qrels" / "train.tsv", "".join(f"q{i}\td{i}\t1\n" for i in range(10)))
    write(collection / "qrels" / "test.tsv", "".join(f"q{i}\td{i}\t1\n" for i in range(10, 20)))
    assert with_splits(collection, tmp_path / "divided", choices=False) == collection
    found = queries_of(with_splits(collection, tmp_path / "divided", choices=True))
    assert found["dev"] == ["q4", "q9"]
    assert found["test"] == [f"q{i}" for i in range(10, 20)]
    assert with_splits(tmp_path / "divided", tmp_path / "again", choices=True) == tmp_path / "divided"


def test_queries_are_found_whose_documents_answer_no_training_query(collection, tmp_path):
    judged = "q3\td3\t1\nq4\td3\t1\nq8\td8\t1\nq0\td3\t1\nq1\td8\t0\n"
    write(collection / "qrels" / "train.tsv", "".join(line + "\n" for line in judged.splitlines()[3:]))
    write(collection / "qrels" / "test.tsv", "".join(line + "\n" for line in judged.splitlines()[:3]))
    assert without_known_answers(collection) == {"q8"}


def record(dense: float, hybrid: float) -> dict:
    """Four queries, of which BM25 ranks each at 0.5."""
    measured = {"BM25": 0.5, "dense": dense, "hybrid": hybrid}
    return {
        side: {f"q{i}": {"nDCG@10": value + i / 100, "MRR@10": value, "Recall@100": value} for i in range(4)}
        for side, value in measured.items()
    }


def test_gains_are_those_of_the_mean_over_seeds_over_each_reference():
    lines = table(record(0.4, 0.6), {"all": [record(0.5, 0.6), record(0.7, 0.8)]}).splitlines()
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert cells["MODEL"][0] == "0.415"
    assert cells["all"][:3] == ["0.615 ± 0.141", "0.600", "0.600"]
    assert cells["all"][3:5] == ["+0.200 (+0.200 to +0.200), p 0.12", "+0.100 (+0.100 to +0.100), p 0.12"]
    assert cells["all, with BM25"][5] == "+0.100 (+0.100 to +0.100), p 0.12"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_best_on_dev_queries_is_measured_on_others_and_a_second_call_repeats_nothing(
    collection, tmp_path, capsys, monkeypatch
):
    model = write_model(tmp_path / "model", 0, similarity_fn_name="cosine")
    other = shutil.copytree(collection, tmp_path / "other")
    command = [str(model), str(collection), str(tmp_path / "work"), "--others", str(other), "--documents=30"]
    for setting in (
        "steps=2",
        "batch=8",
        "loader.order=shuffle",
        "optimizer.warmup_share=0",
        "validation.documents=20",
    ):
        command += ["--set", setting]
    command += ["--try", "negatives=none,bm25+far", "--shares", "0.5", "--seeds", "0", "1"]
    main(command)
    printed = capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "work" / "runs.jsonl").read_text().splitlines()]
    dev = {found["what"]["dev"]["negatives"]: found["curve"][-1] for found in records if "dev" in found["what"]}
    best = max(dev, key=dev.__getitem__)
    assert len(dev) == 2
    assert f"'negatives': '{best}'" in printed.splitlines()[0]
    tested = [found for found in records if found["what"].get("test", {}).get("steps") == "2"]
    assert [(found["what"]["on"][:5], found["what"]["mean"], found["what"]["test"]["seed"]) for found in tested] == [
        (name, mean, seed) for name in ("colle", "other") for mean in (False, True) for seed in (0, 1)
    ]
    assert all(found["what"]["test"]["negatives"] == best for found in tested)
    assert set(tested[0]["dense"]) == {f"q{i}" for i in range(60) if i % 5 > 2}

    monkeypatch.setattr(dense_jax.Run, "train", None)
    monkeypatch.setattr(dense_jax.Run, "evaluate", None)
    main(command)
    assert capsys.readouterr().out == printed

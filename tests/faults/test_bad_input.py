"""T22 to T26 and T29: corpora, judgements and models that cannot be used as they are, on the command line."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from dense_jax.__main__ import run
from dense_jax.data.beir_folder import write_beir
from dense_jax.io import digest
from dense_jax.types import Document
from tests.bert_folders import write_config
from tests.faults.command_line import arguments, write_corpus
from tests.faults.pickles import write_pickle

BAD_LINES = {
    "cut short": b'{"_id": "x", "text": "a',
    "no object": b"[1]",
    "without a text": b'{"_id": "x"}',
    "a number as text": b'{"_id": "x", "text": 3}',
    "not UTF-8": b'{"_id": "x", "text": "\xff"}',
    "a lone surrogate": b'{"_id": "x", "text": "\\ud800"}',
    "NaN": b'{"_id": "x", "text": NaN}',
    "nested": b'{"_id": "x", "text": ' + b"[" * 100_000,
}


def prepare(corpus: Path, workdir: Path, *more: str) -> int:
    return run(["prepare", *arguments(corpus, workdir, *more)])


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_t22_a_bad_line_is_named_and_may_be_left_out_on_request(tmp_path, capsys, line):
    corpus = write_corpus(tmp_path / "documents.jsonl")
    lines = corpus.read_bytes().splitlines()
    corpus.write_bytes(b"\n".join([*lines[:3], line, *lines[3:]]) + b"\n")
    assert prepare(corpus, tmp_path / "refused") == 3
    said = capsys.readouterr().err
    assert f"{corpus}:4: " in said and "Traceback" not in said
    assert prepare(corpus, tmp_path / "run", "--corpus.max_rejects=0.05") == 0
    (reject,) = map(json.loads, (tmp_path / "run" / "rejects.jsonl").read_text().splitlines())
    assert reject["line"] == 4 and reject["reason"]


def test_t22_a_mark_windows_line_ends_and_blank_lines_change_nothing(tmp_path, made):
    corpus = tmp_path / "documents.jsonl"
    plain = (made / "documents.jsonl").read_bytes()
    corpus.write_bytes(b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n\r\n"))
    assert prepare(corpus, tmp_path / "run") == 0
    manifests = [
        json.loads((path / "passages-96" / "manifest.json").read_text()) for path in (tmp_path / "run", made / "run")
    ]
    assert manifests[0]["files"] == manifests[1]["files"]


def test_t23_documents_without_text_are_counted_and_a_corpus_of_them_is_refused(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "documents.jsonl")
    empty = [json.dumps({"_id": f"e{i}", "title": "", "text": text}) for i, text in enumerate(["", " \n\t"])]
    with corpus.open("a") as file:
        file.write("\n".join(empty) + "\n")
    assert prepare(corpus, tmp_path / "run") == 3
    assert f"{corpus}:61: " in capsys.readouterr().err
    assert prepare(corpus, tmp_path / "run", "--corpus.max_rejects=0.05") == 0
    assert len((tmp_path / "run" / "rejects.jsonl").read_text().splitlines()) == 2
    corpus.write_text("\n".join(empty) + "\n")
    capsys.readouterr()
    assert prepare(corpus, tmp_path / "nothing") == 3
    assert "Traceback" not in capsys.readouterr().err


def test_t24_a_duplicate_id_is_refused_with_both_lines_as_a_number_and_as_a_string(tmp_path, capsys):
    corpus = tmp_path / "documents.jsonl"
    corpus.write_text(
        '{"_id": 7, "text": "One river."}\n{"_id": "8", "text": "A bridge."}\n{"_id": "7", "text": "A."}\n'
    )
    assert prepare(corpus, tmp_path / "run") == 3
    said = capsys.readouterr().err
    assert f"{corpus}:3: has the id '7' of {corpus}:1" in said


def test_t24_ids_are_never_paths(tmp_path):
    (tmp_path / "in").mkdir()
    corpus = write_corpus(tmp_path / "in" / "documents.jsonl")
    with corpus.open("a") as file:
        for identifier in ("../../escaped", "/tmp/escaped", "a\tb c"):
            file.write(json.dumps({"_id": identifier, "text": "The river met the bridge. And more."}) + "\n")
    assert prepare(corpus, tmp_path / "in" / "run") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert not list((tmp_path / "in").rglob("*escaped*"))


@pytest.mark.slow
@pytest.mark.parametrize("header", ["query-id\tcorpus-id\tscore\n", ""])
def test_t25_judgements_have_a_header_or_none_and_the_first_row_counts(made, workdir, tmp_path, header, capsys):
    folder = judged(tmp_path / "set", header + "q0\td0\t1\nq1\td1\t1\nq2\tnone\t1\nq9\td3\t1\n")
    assert run(["evaluate", *evaluation(made, workdir, folder)]) == 0
    said = capsys.readouterr().out
    (results,) = filter(Path.is_dir, (workdir / "results").iterdir())
    (figures,) = results.glob("after_training.json")
    found = json.loads(figures.read_text())
    assert set(found["per_query"]) == {"q0", "q1", "q2"}
    assert "1 judged queries have no text and are left out" in said
    assert "1 judged documents are not in the corpus and cannot be found" in said


def test_t25_a_judgement_that_is_no_number_is_refused_with_its_line(made, workdir, tmp_path, capsys):
    folder = judged(tmp_path / "set", "query-id\tcorpus-id\tscore\nq0\td0\tmuch\n")
    assert run(["evaluate", *evaluation(made, workdir, folder)]) == 3
    assert "test.tsv:2: " in capsys.readouterr().err


def evaluation(made: Path, workdir: Path, folder: Path) -> list[str]:
    more = (f"--evaluate.folder={folder}", "--evaluate.before=false")
    return arguments(made / "documents.jsonl", workdir, *more)


def judged(folder: Path, judgements: str) -> Path:
    documents = [Document(f"d{i}", "", f"The river {i} met the bridge.") for i in range(12)]
    write_beir(folder, documents, {f"q{i}": f"river {i}" for i in range(3)}, {"q0": {"d0": 1}}, "test")
    (folder / "qrels" / "test.tsv").write_text(judgements)
    return folder


def test_t26_a_packed_corpus_that_is_cut_is_named_with_its_line(tmp_path, made, capsys):
    packed = gzip.compress((made / "documents.jsonl").read_bytes())
    corpus = tmp_path / "documents.jsonl.gz"
    corpus.write_bytes(packed[: len(packed) // 2])
    assert prepare(corpus, tmp_path / "run") == 3
    said = capsys.readouterr().err
    assert str(corpus) in said and "Traceback" not in said


@pytest.mark.parametrize("damage", ["flip", "empty", "missing"])
def test_t26_a_damaged_shard_of_passages_is_named_by_train(made, workdir, damage, capsys):
    (shard,) = (workdir / "passages-96").glob("passages-*")
    raw = shard.read_bytes()
    shard.unlink()
    if damage != "missing":
        shard.write_bytes(b"" if damage == "empty" else raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
    assert run(["train", *arguments(made / "documents.jsonl", workdir)]) == 4
    said = capsys.readouterr().err
    assert shard.name in said and "Traceback" not in said


def test_t26_an_archive_is_no_corpus(tmp_path, made, capsys):
    archive = Path(shutil.make_archive(str(tmp_path / "documents"), "tar", made, "documents.jsonl"))
    assert prepare(archive, tmp_path / "run") == 3
    assert str(archive) in capsys.readouterr().err


def test_t29_pickled_weights_are_refused_and_run_nothing(tmp_path, made, capsys):
    folder, tokenizer = (
        write_config(tmp_path / "model", vocab_size=120, max_position_embeddings=96),
        made / "run" / "tokenizer",
    )
    canary = write_pickle(folder / "pytorch_model.bin")
    more = (f"--init_from={folder}", f"--tokenizer.path={tokenizer}")
    argv = [one for one in arguments(made / "documents.jsonl", tmp_path / "run", *more) if "encoder.bert" not in one]
    assert run(["prepare", *argv]) == 0
    assert run(["train", *argv]) == 4
    assert f"{folder} holds pickled weights only" in capsys.readouterr().err
    assert not canary.exists()


@pytest.mark.slow
def test_t29_a_pickle_in_the_place_of_vectors_is_refused_and_runs_nothing_even_under_a_digest_that_fits(
    made, workdir, capsys
):
    argv = arguments(made / "documents.jsonl", workdir, "sea")
    assert run(["search", *argv]) == 0
    (vectors,) = workdir.rglob("vectors-*.npy")
    before = digest(vectors)
    canary = write_pickle(vectors)
    manifest = vectors.parent / "manifest.json"
    manifest.write_text(manifest.read_text().replace(before, digest(vectors)))
    assert run(["search", *argv]) == 4
    assert f"{vectors}: damaged" in capsys.readouterr().err
    assert not canary.exists()


def test_t29_code_that_lies_in_a_workdir_or_a_model_is_not_run(tmp_path, made, workdir):
    canary = tmp_path / "canary"
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    for place in (workdir, workdir / "checkpoints", workdir / "checkpoints" / "6", workdir / "tokenizer"):
        for name in ("config.py", "modeling.py", "tokenizer.py", "sitecustomize.py"):
            (place / name).write_text(code)
    assert run(["search", *arguments(made / "documents.jsonl", workdir), "--", "river"]) == 0
    assert not canary.exists()

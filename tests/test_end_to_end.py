"""The verbs as a user types them, on a corpus of a few hundred sentences."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dense_jax.__main__ import run
from dense_jax.data.beir_folder import write_beir
from dense_jax.io import digests
from dense_jax.types import Document

ROOT = Path(__file__).parent.parent
TOPICS = ["rivers", "engines", "violins", "planets", "bridges", "glaciers", "markets", "forests", "poems", "harbours"]
VERBS_OF_TEXT = ["cross", "carry", "shape", "follow", "measure", "surround", "feed", "divide"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Documents of five sentences, each about two topics."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    with path.open("w") as file:
        for i in range(300):
            a, b = rng.sample(TOPICS, 2)
            said = [f"The {a} number {rng.randrange(999)} {rng.choice(VERBS_OF_TEXT)} the old {b}." for _ in range(5)]
            file.write(json.dumps({"_id": f"d{i}", "title": f"{a} and {b} {i}", "text": " ".join(said)}) + "\n")
    return path


def arguments(corpus: Path, workdir: Path, *more: str) -> list[str]:
    small = {
        "corpus.source": corpus,
        "corpus.held_out": 20,
        "tokenizer.vocab_size": 200,
        "objective.encoder.bert.width": 32,
        "objective.encoder.bert.feed_forward": 64,
        "batch": 16,
        "steps": 20,
        "optimizer.warmup_share": 0.1,
        "checkpoint.every": 10,
        "log_every": 5,
    }
    flags = [f"--{key}={value}" for key, value in small.items()]
    return [f"--config={ROOT / 'configs' / 'ict.py'}:tiny", f"--workdir={workdir}", *flags, *more]


def process(verb: str, *argv: str, **settings) -> subprocess.Popen:
    command = [sys.executable, "-m", "dense_jax", verb, *argv]
    return subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE, **settings)


def train(corpus: Path, workdir: Path, *more: str) -> subprocess.CompletedProcess:
    running = process("train", *arguments(corpus, workdir, *more), stdout=subprocess.PIPE)
    out, err = running.communicate(timeout=200)
    return subprocess.CompletedProcess(running.args, running.returncode, out, err)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    assert run(["prepare", *arguments(corpus, workdir)]) == 0
    running = process("train", f"--workdir={workdir}", stdout=subprocess.PIPE)  # which remembers all other flags
    _, said = running.communicate(timeout=200)
    assert running.returncode == 0, said
    return workdir


@pytest.mark.slow
def test_show_prints_settings_a_decoded_example_shapes_parameters_and_the_plan(corpus, trained, capsys):
    assert run(["show", *arguments(corpus, trained), "--full"]) == 0
    said = capsys.readouterr().out
    assert "removal_rate: 0.9" in said
    assert "query: " in said
    assert "[CLS] the " in said
    assert "xla (cpu has no fused kernel)" in said
    assert "encoder/bert/word/embedding" in said
    assert "20 steps of 16 examples, 320 in all" in said


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["tiny", "base"])
def test_show_fits_on_one_screen(corpus, trained, capsys, variant):
    config, *flags = arguments(corpus, trained)
    sizes = () if variant == "tiny" else ("encoder.bert.", "batch", "steps", "warmup")
    flags = [flag for flag in flags if not any(size in flag for size in sizes)]
    assert run(["show", config.replace("tiny", variant), *flags, "--passages.length=96"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert 24 <= len(said) <= 40
    assert max(map(len, said)) <= 100
    for part in ("batch=", "[CLS] the ", "examples, ", "encoder/bert/layers", "activations of", "total"):
        assert any(part in line for line in said), part


@pytest.mark.slow
def test_training_leaves_metrics_events_and_checkpoints(trained):
    steps = [json.loads(line)["step"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert steps == [5, 10, 15, 20]
    assert list((trained / "tensorboard").iterdir())
    kept = {path.name for path in (trained / "checkpoints").iterdir() if path.is_dir()}
    assert kept == {"0", "10", "20"}


@pytest.mark.slow
def test_embed_index_search_find_a_document_by_its_words(corpus, trained, capsys):
    for verb in ("embed", "index"):
        assert run([verb, *arguments(corpus, trained)]) == 0
    capsys.readouterr()
    assert run(["search", *arguments(corpus, trained), "--search.k=3", "The old planets follow"]) == 0
    said = capsys.readouterr().out
    assert said.count(" and ") >= 3  # the titles of three documents


@pytest.mark.slow
def test_search_takes_queries_from_standard_input(corpus, trained, capsys, monkeypatch):
    import io

    assert run(["index", *arguments(corpus, trained)]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"rivers\n\nengines\n")))
    assert run(["search", *arguments(corpus, trained)]) == 0
    said = capsys.readouterr().out
    assert said.index("rivers") < said.index("engines")


@pytest.mark.slow
def test_search_makes_the_vectors_and_the_index_that_are_missing(corpus, trained, tmp_path, capsys):
    source = tmp_path / "three.jsonl"
    source.write_text("".join(corpus.read_text().splitlines(keepends=True)[:3]))
    argv = [*arguments(corpus, trained), f"--embed.collection={source}", "--search.k=5", "rivers"]
    assert run(["search", *argv]) == 0
    said = capsys.readouterr()
    assert all(f"  d{i}  " in said.out for i in range(3)) and "   4  " not in said.out
    assert f"{source}: 3 documents; checkpoint of step 20 in {trained}" in said.err
    assert run(["search", *argv]) == 0
    assert "embed:" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_test_collection_with_an_empty_row_is_measured_at_another_length_than_in_training(
    corpus, trained, tmp_path, capsys
):
    rows = [json.loads(line) for line in corpus.read_text().splitlines()[:40]]
    documents = [Document(row["_id"], row["title"], row["text"]) for row in rows]
    queries = {f"q{i}": row["text"].partition(".")[0] for i, row in enumerate(rows)}
    judged = {f"q{i}": {row["_id"]: 1, "gone": 1} for i, row in enumerate(rows)}
    write_beir(tmp_path / "toys", [*documents, Document("gone", "", "")], queries, judged, "test")
    more = (f"--evaluate.folder={tmp_path / 'toys'}", "--objective.query_length=24")
    assert run(["evaluate", *arguments(corpus, trained, *more)]) == 0
    said = capsys.readouterr().out
    assert f"1 row is left out: {tmp_path / 'toys' / 'corpus.jsonl'}:41 (text and title are empty)" in said
    assert "1 judged documents are not in the corpus and cannot be found" in said


@pytest.mark.slow
def test_search_covers_the_corpus_and_not_the_copy_that_the_test_queries_are_cut_from(corpus, trained, capsys):
    identifier = (trained / "test" / "qrels" / "test.tsv").read_text().splitlines()[1].split("\t")[1]
    rows = {row["_id"]: row for row in map(json.loads, corpus.read_text().splitlines())}
    first = rows[identifier]["text"].partition(".")[0] + "."
    argv = [*arguments(corpus, trained), "--search.k=300", rows[identifier]["text"]]
    assert run(["search", *argv]) == 0
    said = capsys.readouterr()
    assert f"{corpus}: 300 documents" in said.err
    place = said.out.index(f"  {identifier}  ")
    assert first in " ".join(said.out[place:].split())[:400]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["manifest", pytest.param("outdated", marks=pytest.mark.slow)])
def test_an_index_that_cannot_be_used_is_named_and_index_builds_it_again(corpus, trained, tmp_path, capsys, damage):
    source = Path(shutil.copy(corpus, tmp_path / f"{damage}.jsonl"))
    with source.open("a") as file:
        file.write(json.dumps({"_id": damage, "text": f"The {damage} of the rivers."}) + "\n")
    argv = [*arguments(corpus, trained), f"--embed.collection={source}"]
    assert run(["index", *argv]) == 0
    (manifest,) = (trained / "index").glob(f"{damage}-*/manifest.json")
    text = manifest.read_text()
    manifest.write_text(text[:-20] if damage == "manifest" else text.replace('"embeddings": "', '"embeddings": "0'))
    capsys.readouterr()
    assert run(["search", *argv, "rivers"]) == (4 if damage == "manifest" else 2)
    said = capsys.readouterr().err
    assert str(manifest.parent) in said and ("remove it and run again" in said or "run `dense-jax index` again" in said)
    assert run(["index", *argv]) == 0
    assert run(["search", *argv, "rivers"]) == 0


@pytest.mark.slow
def test_damaged_vectors_are_refused_with_what_to_do(corpus, trained, tmp_path, capsys):
    source = tmp_path / "few.jsonl"
    source.write_text("".join(corpus.read_text().splitlines(keepends=True)[:5]))
    argv = [*arguments(corpus, trained), f"--embed.collection={source}", "rivers"]
    assert run(["search", *argv]) == 0
    (path,) = (trained / "embeddings").glob("few-*/vectors-*.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert run(["search", *argv]) == 4
    assert f"remove {path.parent} and run `dense-jax embed` again" in capsys.readouterr().err
    shutil.rmtree(path.parent)
    assert run(["search", *argv]) == 0


@pytest.mark.slow
def test_a_method_without_a_reader_is_measured_by_answer_recall_alone(corpus, trained, tmp_path, capsys):
    questions = tmp_path / "asked.jsonl"
    questions.write_text('{"question": "what of the rivers", "answer": ["no such answer", "the old bridges"]}\n')
    assert run(["index", *arguments(corpus, trained)]) == 0
    capsys.readouterr()
    assert run(["answer", *arguments(corpus, trained), f"--answer.questions={questions}"]) == 0
    said = capsys.readouterr().out
    assert "AnswerRecall@20" in said and "exact_match" not in said
    assert "answer recall of the retriever; no reader" in said
    figures = json.loads((trained / "results" / "asked-answers" / "figures.json").read_text())
    assert list(figures["figures"]) == [f"AnswerRecall@{k}" for k in (1, 5, 20, 100)]


@pytest.mark.slow
def test_sets_of_questions_of_one_family_have_results_of_their_own(corpus, trained, tmp_path):
    assert run(["index", *arguments(corpus, trained)]) == 0
    for split in ("dev", "train"):
        questions = tmp_path / f"NQ-open.{split}.jsonl"
        questions.write_text(json.dumps({"question": f"what of the {split}", "answer": ["the old bridges"]}) + "\n")
        assert run(["answer", *arguments(corpus, trained), f"--answer.questions={questions}"]) == 0
    files = [trained / "results" / f"NQ-open.{split}-answers" / "figures.json" for split in ("dev", "train")]
    assert [json.loads(file.read_text())["questions"] for file in files] == ["NQ-open.dev.jsonl", "NQ-open.train.jsonl"]


@pytest.mark.slow
def test_a_method_without_a_reader_answers_no_question(corpus, trained, capsys):
    assert run(["answer", *arguments(corpus, trained), "what of the rivers"]) == 2
    assert "ICT has no reader, so it finds passages and answers nothing; use `dense-jax search`" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_evaluate_prints_a_row_for_bm25_and_for_before_and_after_training(corpus, trained, capsys):
    assert run(["evaluate", *arguments(corpus, trained)]) == 0
    said = capsys.readouterr().out
    assert all(
        name in said for name in ("BM25", "before training", "after training", "nDCG@10", "MRR@10", "Recall@100")
    )
    results = trained / "results" / "test-test"  # the held-out set is the folder test, its judgements test.tsv
    assert str(results) in said
    assert (results / "table.md").read_text() in said
    figures = json.loads((results / "after_training.json").read_text())
    assert 0 <= figures["mean"]["nDCG@10"] <= 1
    steps = {name: json.loads((results / f"{name}.json").read_text())["step"] for name in ("BM25", "before_training")}
    assert (steps, figures["step"]) == ({"BM25": None, "before_training": 0}, 20)
    hybrid = json.loads((results / "hybrid_after_training.json").read_text())
    assert (hybrid["step"], hybrid["fusion"]["depth"]) == (20, 100) and "| BM25 + dense " in said
    assert (results / "after_training.trec").read_text().count("\n") == 20 * 100


@pytest.mark.slow
def test_test_sets_of_one_name_have_results_of_their_own_and_the_same_texts_are_embedded_once(
    corpus, trained, tmp_path, capsys
):
    documents = corpus.read_text().splitlines(keepends=True)[:20]
    for place, query in (("a", "rivers"), ("b", "engines"), ("c", "violins")):
        folder = tmp_path / place / ("other" if place == "c" else "twins")
        (folder / "qrels").mkdir(parents=True)
        (folder / "corpus.jsonl").write_text("".join(documents))
        (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": query}) + "\n")
        (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
        for _ in range(2):
            argv = [*arguments(corpus, trained), f"--evaluate.folder={folder}"]
            assert run(["evaluate", *argv, "--evaluate.before=false"]) == 0
            said = capsys.readouterr()
            assert f"{folder}: 20 documents; checkpoint of step 20 in {trained}" in said.err
    first, second = (json.loads(p.read_text()) for p in sorted((trained / "results").glob("twins-test*/set.json")))
    assert [first["place"], second["place"]] == [str(tmp_path / "a" / "twins"), str(tmp_path / "b" / "twins")]
    assert (trained / "results" / "other-test" / "set.json").is_file()
    assert len(list((trained / "embeddings").glob("twins-*/"))) == 1
    assert not list((trained / "embeddings").glob("other-*"))


@pytest.mark.slow
def test_a_step_before_the_end_of_training_is_called_by_its_number(corpus, trained, capsys):
    argv = [*arguments(corpus, trained), "--embed.step=10", "--evaluate.before=false"]
    assert run(["evaluate", *argv]) == 0
    said = capsys.readouterr().out
    assert "| step 10 of 20 |" in said and "after training" not in said
    assert json.loads((trained / "results" / "test-test" / "step_10.json").read_text())["step"] == 10


@pytest.mark.slow
def test_two_processes_find_what_one_finds_and_only_the_first_one_says_it(corpus, trained, together, tmp_path):
    assert run(["evaluate", *arguments(corpus, trained)]) == 0
    made = shutil.ignore_patterns("embeddings", "index", "results", "collections")
    shutil.copytree(trained, tmp_path / "two", ignore=made)
    argv = arguments(corpus, tmp_path / "two", "--embed.shard_size=64")
    commands = [["embed", *argv], ["index", *argv], ["evaluate", *argv], ["search", *argv, "The old planets follow"]]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    first, second = together(2).do("tests.search_together.call_verbs", tmp_path)
    one, two = (workdir / "results" / "test-test" / "after_training.json" for workdir in (trained, tmp_path / "two"))
    assert json.loads(two.read_text())["mean"] == pytest.approx(json.loads(one.read_text())["mean"], abs=1e-3)
    said = ("300 vectors of width 32", "exact index", "BM25", "The old planets follow")
    assert all(text in first for text in said)
    assert not any(text in second for text in (*said, "after training"))


@pytest.mark.slow
def test_a_run_on_running_text_of_two_sources_is_searched_by_the_test_set_of_both(corpus, tmp_path, capsys):
    also = tmp_path / "more.jsonl"
    also.write_text("".join(corpus.read_text().splitlines(keepends=True)[:100]).replace("The ", "An "))
    more = (f"--corpus.also={also}", "--passages.unit=chunks", "--loader.mixing=batch")
    assert run(["prepare", *arguments(corpus, tmp_path / "run", *more)]) == 0
    done = train(corpus, tmp_path / "run", *more)
    assert done.returncode == 0, done.stderr
    capsys.readouterr()
    assert run(["evaluate", *arguments(corpus, tmp_path / "run", *more)]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("BM25", "before training", "after training"))
    ranked = (tmp_path / "run" / "results" / "test-test" / "BM25.trec").read_text().splitlines()
    assert {line.split()[2].partition("/")[0] for line in ranked} == {"documents.jsonl", "more.jsonl"}


@pytest.mark.slow
def test_export_writes_a_folder_and_says_where(corpus, trained, capsys):
    assert run(["export", *arguments(corpus, trained)]) == 0
    assert str(trained / "export") in capsys.readouterr().out
    assert (trained / "export" / "modules.json").is_file()


@pytest.mark.slow
def test_t06_sigterm_saves_exits_75_and_the_next_start_continues_until_ctrl_c(corpus, trained, tmp_path):
    more = ("--steps=100000", f"--passages.workdir={trained}", "--log_every=1")
    running = process("train", *arguments(corpus, tmp_path, *more), stdout=subprocess.DEVNULL)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 75, said
    assert "saved; start the same command to continue" in said
    newest = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    again = process("train", *arguments(corpus, tmp_path, *more), stdout=subprocess.DEVNULL)
    for line in again.stderr:
        if "continuing" in line:
            assert f"continuing from step {newest:,}" in line
            break
    else:
        pytest.fail("the second start did not continue")
    again.send_signal(signal.SIGINT)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 130, said
    assert "Traceback" not in said


@pytest.mark.slow
def test_t01_kill_minus_nine_and_a_restart_give_the_same_parameters_to_the_last_bit(corpus, trained, tmp_path):
    more = ("--steps=60", f"--passages.workdir={trained}", "--checkpoint.every=5")
    assert train(corpus, tmp_path / "straight", *more).returncode == 0
    running = process("train", *arguments(corpus, tmp_path / "killed", *more), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("checkpoints/digests-1?.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.kill()
    running.communicate()
    assert train(corpus, tmp_path / "killed", *more).returncode == 0
    last = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("straight", "killed")
    ]
    assert last[0]["loss"] == last[1]["loss"]
    assert run(["embed", *arguments(corpus, tmp_path / "straight", *more)]) == 0
    assert run(["embed", *arguments(corpus, tmp_path / "killed", *more)]) == 0
    vectors = [np.load(next((tmp_path / name / "embeddings").rglob("*.npy"))) for name in ("straight", "killed")]
    np.testing.assert_array_equal(*vectors)


@pytest.mark.slow
def test_one_process_of_a_job_of_four_does_not_train_alone(corpus, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    done = train(corpus, tmp_path, f"--passages.workdir={trained}")
    assert done.returncode == 6, done.stderr
    assert "dense-jax train: SLURM_NTASKS=4 says that this is one of 4 processes, but 1 is together" in done.stderr
    assert not (tmp_path / "checkpoints").exists()


def test_what_is_the_work_of_one_process_is_refused_to_several(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert run(["prepare", *arguments(corpus, tmp_path)]) == 6
    assert "`dense-jax prepare` takes one" in capsys.readouterr().err


def told_to_stop(function: str, call: int, verb: str, argv: list[str]) -> None:
    """A verb that gets SIGTERM at a call of one of its functions."""
    module, _, name = function.rpartition(".")
    command = [sys.executable, "-m", "tests.told_to_stop", module, name, str(call), verb, *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 75, done.stderr
    assert f"dense-jax {verb}: stopped; finished parts are kept, start the same command to continue" in done.stderr


@pytest.mark.slow
def test_t08_prepare_goes_on_where_sigterm_stopped_it(corpus, tmp_path):
    more = ("--passages.shard_size=50",)
    told_to_stop(
        "dense_jax.data.stores.shards.write_records", 4, "prepare", arguments(corpus, tmp_path / "stopped", *more)
    )
    assert not list(tmp_path.rglob("passages-*/manifest.json"))
    for workdir in (tmp_path / "stopped", tmp_path / "straight"):
        assert run(["prepare", *arguments(corpus, workdir, *more)]) == 0
    assert digests(tmp_path / "stopped") == digests(tmp_path / "straight")


@pytest.mark.slow
def test_t08_embed_goes_on_where_sigterm_stopped_it(corpus, trained, tmp_path):
    others = tmp_path / "others.jsonl"
    others.write_text(corpus.read_text().replace("The ", "An "))
    argv = arguments(corpus, trained, f"--embed.collection={others}", "--embed.shard_size=64")
    told_to_stop("dense_jax.retrieval.embed.encode_passages", 3, "embed", argv)
    (made,) = (trained / "embeddings").glob("others-*/")
    assert len(list(made.glob("vectors-*.npy"))) == 2 and not (made / "manifest.json").is_file()
    assert run(["embed", *argv]) == 0
    continued = digests(made)
    shutil.rmtree(made)
    assert run(["embed", *argv]) == 0
    assert digests(made) == continued


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "function", "call", "made"),
    [
        ("index", "dense_jax.retrieval.index._tune", 1, "index"),
        ("evaluate", "dense_jax.retrieval.evaluate.score_ranking", 3, "results"),  # after BM25 and before training
    ],
)
def test_t08_what_sigterm_stopped_is_not_taken_for_finished_and_is_made_again(
    corpus, trained, tmp_path, verb, function, call, made
):
    for workdir in (tmp_path / "stopped", tmp_path / "straight"):
        shutil.copytree(trained, workdir, ignore=shutil.ignore_patterns("index", "results"))
    assert run(["embed", *arguments(corpus, tmp_path / "stopped")]) == 0
    told_to_stop(function, call, verb, arguments(corpus, tmp_path / "stopped"))
    assert not [path for name in ("manifest.json", "table.md") for path in (tmp_path / "stopped" / made).rglob(name)]
    for workdir in (tmp_path / "stopped", tmp_path / "straight"):
        assert run([verb, *arguments(corpus, workdir)]) == 0
    assert digests(tmp_path / "stopped" / made) == digests(tmp_path / "straight" / made)


def test_a_verb_before_its_turn_names_the_one_to_run_first(corpus, tmp_path, capsys):
    assert run(["train", *arguments(corpus, tmp_path)]) == 2
    assert "run `dense-jax prepare` first" in capsys.readouterr().err


def test_an_unknown_verb_is_answered_with_the_nearest_or_all_of_them(capsys):
    assert run(["pretrain"]) == 2
    assert "no verb 'pretrain'; did you mean train?" in capsys.readouterr().err
    assert run(["fly"]) == 2
    assert "no verb 'fly'; the verbs are show, prepare, train" in capsys.readouterr().err


def test_words_for_a_verb_that_takes_none_are_refused(corpus, tmp_path, capsys):
    assert run(["prepare", *arguments(corpus, tmp_path), "steps=5"]) == 2
    assert "prepare takes no words, but got steps=5" in capsys.readouterr().err


def test_help_is_printed(capsys):
    assert run([]) == 0
    assert "usage: dense-jax VERB" in capsys.readouterr().out


def test_a_bad_corpus_ends_with_status_three_and_file_and_line(tmp_path, capsys):
    source = tmp_path / "bad.jsonl"
    source.write_text('{"_id": "a", "text": "Fine text here."}\nnot json\n')
    assert run(["prepare", *arguments(source, tmp_path / "run")]) == 3
    assert f"{source.name}:2" in capsys.readouterr().err
    assert '"reason"' in (tmp_path / "run" / "rejects.jsonl").read_text()

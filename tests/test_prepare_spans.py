"""Salient spans in prepared passages: which sources find what, and that nothing else of a preparation changes."""

import json
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest

from dense_jax.__main__ import run
from dense_jax.config import PassagesConfig, SpansConfig, Unit
from dense_jax.config.command_line import parse
from dense_jax.config.tree import checked, without_folders
from dense_jax.data.preparation import prepare as module
from dense_jax.data.preparation.prepare import open_passages, passages_folder, prepare
from dense_jax.data.stores import passage_store as store
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.terminal import show
from dense_jax.types import NO_SPANS, Tower
from dense_jax.workdir import Workdir
from tests.sources import config, contents, killed_at, write
from tests.test_end_to_end import ROOT, process
from tests.test_flags import config_file  # noqa: F401  a fixture
from tests.toys import BagOfTokens, MeanEmbedding

FIRST = "In {} Ann Lee saw the Old Harbour. A keeper left the lamp of Rome behind."
ALL = SpansConfig(patterns=True, capitals=True, titles=True)
NAMES = ["Old Harbour", "Rome", "Long Bay"]


def rows(count=12):
    """Documents of three to five sentences; the first begins in 1912."""
    more = " The sea was calm. In {} the {} was far from here, and Ann Lee slept."
    texts = [
        FIRST.format(1912 + i) + "".join(more.format(1912 + i + j, NAMES[i % 3]) for j in range(1 + i % 2))
        for i in range(count)
    ]
    return [{"_id": f"d{i}", "title": NAMES[i % 3], "text": text} for i, text in enumerate(texts)]


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in" / "rows.jsonl", rows())


def asked(source, spans, limit=0, **settings):
    found = config(source, vocab_size=300, **settings)
    return checked(replace(found, spans=spans, corpus=replace(found.corpus, limit=limit)))


def precomputed(path, **spans):
    """A file that has `spans` of the documents that are named, and none of the others."""
    return write(path, [{"id": row["_id"], "spans": spans.get(row["_id"], [])} for row in rows()])


def prepared(asked_for, workdir):
    """What `prepare` counts and stores."""
    counts = prepare(asked_for, workdir)
    return counts, open_passages(workdir, asked_for.passages, asked_for.spans.sources)


def of_document(found, workdir, name="d0"):
    """The spans of a document in words."""
    tokenizer = Tokenizer.load(workdir / "tokenizer")
    own = [found[row] for row, known in enumerate(found.ids()) if known == name]
    return [tokenizer.decode(passage.tokens[start:end]) for passage in own for start, end in passage.spans]


@pytest.mark.parametrize(
    ("source_of_spans", "expected"),
    [
        ({"patterns": True}, ["1912"]),
        ({"capitals": True}, ["ann lee", "old harbour", "rome"]),
        ({"titles": True}, ["old harbour", "rome"]),
        ({"answers": "answers.jsonl"}, ["lamp of rome"]),
        ({"precomputed": "spans.jsonl"}, ["keeper", "lamp of"]),
        ({"patterns": True, "capitals": True, "titles": True}, ["1912", "ann lee", "old harbour", "rome"]),
        # of overlapping ones the longest
        ({"titles": True, "precomputed": "spans.jsonl", "answers": "answers.jsonl"},
         ["old harbour", "keeper", "lamp of rome"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_each_source_finds_its_spans(source, tmp_path, source_of_spans, expected, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "answers.jsonl", [{"question": "what was left", "answer": ["lamp of Rome", "no such answer"]}])
    precomputed(tmp_path / "spans.jsonl", d0=[[39, 45], [55, 62, "lamp of"], [29, 38]])  # the last crosses an end
    _, found = prepared(asked(source, replace(SpansConfig(), **source_of_spans), length=60), tmp_path / "work")
    assert of_document(found, tmp_path / "work")[: len(expected)] == expected  # those of its first two sentences


def test_random_spans_are_of_the_share_and_the_length_that_is_asked_for(source, tmp_path):
    _, found = prepared(asked(source, SpansConfig(random=0.3, random_mean=1.0)), tmp_path / "work")
    words = [len(span.split()) for row in rows() for span in of_document(found, tmp_path / "work", row["_id"])]
    assert set(words) == {1}
    assert 0.2 < len(words) / sum(len(row["text"].split()) for row in rows()) < 0.4
    _, other = prepared(asked(source, SpansConfig(random=0.3, random_mean=1.0, random_seed=1)), tmp_path / "other")
    assert [p.spans.tolist() for p in other.passages(range(9))] != [p.spans.tolist() for p in found.passages(range(9))]


@pytest.mark.parametrize("spans", [ALL, SpansConfig(random=0.2)], ids=["salient", "random"])
def test_spans_are_in_order_apart_and_each_in_one_sentence(source, tmp_path, spans):
    _, found = prepared(asked(source, spans, length=60), tmp_path / "work")
    for passage in found.passages(range(len(found))):
        ends = [0, *passage.spans.reshape(-1).tolist(), len(passage.tokens)]
        assert ends == sorted(ends) and (passage.spans[:, 0] < passage.spans[:, 1]).all()
        first, last = (np.searchsorted(passage.sentences, place, "right") for place in (passage.spans - [0, 1]).T)
        assert (first == last).all()


@pytest.mark.parametrize("held_out", [0, 4])
def test_passages_and_texts_are_those_of_a_preparation_without_spans(source, tmp_path, held_out):
    prepare(asked(source, SpansConfig(), held_out=held_out), tmp_path / "work")
    plain = contents(tmp_path / "work")
    assert not any("spans" in name for name in plain) and b"salient" not in b"".join(plain.values())
    assert "spans" not in json.loads(plain["passages-32/manifest.json"]).keys() | json.loads(plain["text.json"]).keys()

    prepare(asked(source, ALL, held_out=held_out), tmp_path / "work")
    both, folder = contents(tmp_path / "work"), "passages-32-salient-patterns-capitals-titles"
    assert {name: both[name] for name in plain} == plain  # what was there stays, and is shared
    new = {name.rpartition("/")[2]: data for name, data in both.items() if name.startswith(f"{folder}/")}
    shards = {name for name in plain if name.startswith("passages-32/") and "json" not in name}
    assert {name: new[name.rpartition("/")[2]] for name in shards} == {name: plain[name] for name in shards}
    assert new.keys() - {name.rpartition("/")[2] for name in plain} == {
        f"spans-{i:05d}.array_record" for i in range(len(shards) // 2)
    }
    assert new.keys() - {"claim.json", "manifest.json"} == json.loads(new["manifest.json"])["files"].keys()


@pytest.mark.parametrize("documents", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 11))])
def test_an_interrupted_preparation_ends_with_the_same_files(source, tmp_path, documents):
    settings = asked(source, ALL, held_out=3, shard_size=4)
    prepare(settings, tmp_path / "whole")

    with killed_at(module, "salient_entries", documents):
        prepare(settings, tmp_path / "again")
    prepare(settings, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert json.loads(
        (passages_folder(tmp_path / "whole", settings.passages, ALL.sources) / "manifest.json").read_text()
    )["passages_per_shard"][1:]  # of several shards


def test_the_yield_is_counted(source, tmp_path):
    counts, found = prepared(asked(source, ALL, shard_size=4), tmp_path / "work")
    spans = [passage.spans for passage in found.passages(range(len(found)))]
    number = sum(map(len, spans))
    assert counts["salient spans"] == number
    assert counts["spans a passage"] == f"{number / len(found):.2f}"
    assert counts["wordpieces a span"] == f"{sum(int(np.diff(own).sum()) for own in spans) / number:.2f}"
    assert counts["passages with a span"] == f"{sum(len(own) > 0 for own in spans) / len(found):.1%}"
    assert "salient spans" not in prepare(asked(source, SpansConfig()), tmp_path / "work")


def test_each_choice_of_sources_has_a_folder_of_its_own(tmp_path):
    def name(spans, **passages):
        return passages_folder(tmp_path, PassagesConfig(length=64, **passages), spans.sources).name

    assert name(SpansConfig()) == name(SpansConfig(random_seed=3)) == "passages-64"
    assert name(SpansConfig(random=0.15)) == "passages-64-salient-random"
    assert name(SpansConfig(precomputed="/a/b.jsonl", titles=True)) == "passages-64-salient-titles-precomputed"
    assert name(SpansConfig(answers="a"), titled=False) == "passages-64-untitled-salient-answers"


def test_a_file_of_spans_counts_by_its_content_and_not_by_its_place(source, tmp_path):
    first = precomputed(tmp_path / "spans.jsonl", d0=[[8, 15]])
    counts = prepare(asked(source, SpansConfig(precomputed=str(first))), tmp_path / "work")
    moved = shutil.move(first, tmp_path / "moved.jsonl")
    assert prepare(asked(source, SpansConfig(precomputed=str(moved))), tmp_path / "work") == counts
    other = precomputed(tmp_path / "other.jsonl", d0=[[8, 14]])
    with pytest.raises(ConfigError, match=r"other settings:\n  spans.precomputed: \w+ -> \w+\n"):
        prepare(asked(source, SpansConfig(precomputed=str(other))), tmp_path / "work")


def test_settings_of_sources_that_are_not_used_make_no_difference(source, tmp_path):
    counts = prepare(asked(source, SpansConfig(patterns=True)), tmp_path / "work")
    assert prepare(asked(source, SpansConfig(patterns=True, random_seed=7)), tmp_path / "work") == counts
    prepare(asked(source, SpansConfig(random=0.2)), tmp_path / "work")
    with pytest.raises(ConfigError, match=r"other settings:\n  spans.random_seed: 0 -> 7\n"):
        prepare(asked(source, SpansConfig(random=0.2, random_seed=7)), tmp_path / "work")


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([[8, 15, "Ann Leo"]], r"spans.jsonl: document 'd7': the span \[8, 15\] holds 'Ann Lee', and not 'Ann Leo'"),
        ([[8, 9_999]], r"spans.jsonl: document 'd7': the span \[8, 9999\] ends beyond its \d+ characters"),
    ],
)
def test_spans_that_do_not_fit_the_text_are_refused_before_anything_is_written(source, tmp_path, spans, message):
    path = precomputed(tmp_path / "spans.jsonl", d7=spans)
    settings = asked(source, SpansConfig(precomputed=str(path)))
    with pytest.raises(DataError, match=message):
        prepare(settings, tmp_path / "work")
    assert not list((tmp_path / "work").glob("passages*"))
    precomputed(path, d7=[[8, 15, "Ann Lee"]])
    _, found = prepared(settings, tmp_path / "work")
    assert of_document(found, tmp_path / "work", "d7") == ["ann lee"]


def test_spans_of_a_file_count_in_the_whole_document_of_which_a_sentence_is_held_out(source, tmp_path):
    rest = "Then the sea by the old rock lay still, and Ann Lee slept."
    texts = [f"In 18{i} Ann Lee and Bob Ray saw it. {rest}" for i in range(10, 22)]
    write(source, [{"_id": f"d{i}", "title": "Rock", "text": text} for i, text in enumerate(texts)])
    last = texts[0].index("Ann Lee slept")
    spans = [[3, 7], [last, last + 7, "Ann Lee"]]
    path = write(tmp_path / "spans.jsonl", [{"id": f"d{i}", "spans": spans} for i in range(12)])
    settings = asked(source, SpansConfig(precomputed=str(path)), held_out=4, length=60)
    _, found = prepared(settings, tmp_path / "work")
    of_each = [of_document(found, tmp_path / "work", f"d{i}") for i in range(12)]
    assert sorted(map(len, of_each)) == [1] * 4 + [2] * 8
    assert all(own[-1] == "ann lee" for own in of_each)


def test_documents_of_several_sources_are_found_in_a_file_by_the_ids_of_the_whole_corpus(source, tmp_path):
    other = write(tmp_path / "in" / "more.jsonl", rows(3))
    one = asked(source, SpansConfig(precomputed=str(tmp_path / "spans.jsonl")), limit=3)
    both = replace(one, corpus=replace(one.corpus, also=(str(other),)))
    names = [f"{file}/d{i}" for file in ("rows.jsonl", "more.jsonl") for i in range(3)]
    write(tmp_path / "spans.jsonl", [{"id": name, "spans": [[8, 15]] if "more" in name else []} for name in names])
    _, found = prepared(both, tmp_path / "work")
    assert [of_document(found, tmp_path / "work", name) for name in names] == [[]] * 3 + [["ann lee"]] * 3


def test_a_source_that_finds_nothing_is_an_error(source, tmp_path):
    path = precomputed(tmp_path / "spans.jsonl")
    for _ in range(2):
        with pytest.raises(DataError, match=r"spans.precomputed: no salient span in \d+ passages; use other sources"):
            prepare(asked(source, SpansConfig(precomputed=str(path))), tmp_path / "work")


@pytest.mark.parametrize("name", ["answers", "precomputed"])
def test_a_missing_file_is_named_with_its_setting(source, tmp_path, name):
    with pytest.raises(DataError, match=rf"spans.{name}: .*absent.jsonl: no such file"):
        prepare(asked(source, replace(SpansConfig(), **{name: str(tmp_path / "absent.jsonl")})), tmp_path / "work")


def test_answers_that_are_regular_expressions_are_no_names(source, tmp_path):
    path = write(tmp_path / "trec.jsonl", [{"question": "who", "answer": ["Ann.*"], "answers_are": "regex"}])
    with pytest.raises(DataError, match=r"spans.answers: .*trec.jsonl: the answers of 'who' are regular expressions"):
        prepare(asked(source, SpansConfig(answers=str(path))), tmp_path / "work")


def test_random_spans_are_used_alone():
    with pytest.raises(ConfigError) as error:
        SpansConfig(random=0.15, titles=True, precomputed="a.jsonl")
    assert str(error.value) == (
        "spans.random=0.15 is to show what salient spans are worth, and is not joined with spans.titles, "
        "spans.precomputed; use one or the other"
    )


@pytest.mark.parametrize("unit", [Unit.SPANS, Unit.CHUNKS])
def test_only_passages_have_salient_spans(source, unit):
    message = (
        rf"spans.patterns, spans.capitals, spans.titles find .*, and passages.unit={unit.value} have none; use --pas"
    )
    with pytest.raises(ConfigError, match=message):
        asked(source, ALL, unit=unit)


def test_sources_are_chosen_by_flags(config_file):  # noqa: F811
    spans = ["--spans.patterns=true", "--spans.precomputed=a.jsonl", "--spans.titles=true"]
    found = parse([f"--config={config_file}", "--workdir=w", *spans, "--spans.titles=false"]).config
    assert found.spans.sources == ("patterns", "precomputed")
    random = parse([f"--config={config_file}", "--workdir=w", "--spans.random=0.15"]).config
    assert random.spans == SpansConfig(random=0.15)
    with pytest.raises(ConfigError, match=r"unknown flag --spans.title; did you mean --spans.titles"):
        parse([f"--config={config_file}", "--workdir=w", "--spans.title=true"])


def test_what_is_published_of_a_config_names_no_folder_of_spans(source):
    spans = SpansConfig(precomputed="/home/ada/spans.jsonl", answers="/home/ada/nq.jsonl")
    public = without_folders(asked(source, spans)).spans
    assert (public.precomputed, public.answers) == ("spans.jsonl", "nq.jsonl")


def test_a_workdir_without_the_spans_that_are_asked_for_says_so(source, tmp_path):
    prepare(asked(source, SpansConfig()), tmp_path / "work")
    message = r"holds no prepared passages of 32 tokens with spans.patterns, spans.capitals, spans.titles; run"
    with pytest.raises(ConfigError, match=message):
        _ = Workdir(tmp_path / "work", asked(source, ALL)).prepared


@dataclass
class MaskerOfSpans(BagOfTokens):
    masks_spans = True


def trained_on(source, spans, workdir, shared="", objective=None):
    """The workdir of a run that is about to train on `spans`."""
    settings = replace(asked(source, spans, workdir=str(shared)), objective=objective or MaskerOfSpans())
    return Workdir(workdir, settings)


def test_other_spans_than_the_prepared_ones_are_not_trained_on(source, tmp_path):
    prepare(asked(source, SpansConfig(random=0.15)), tmp_path / "work")
    trained_on(source, SpansConfig(random=0.15), tmp_path / "work").check_spans()
    with pytest.raises(ConfigError) as error:
        trained_on(source, SpansConfig(random=0.5, random_seed=3), tmp_path / "work").check_spans()
    assert str(error.value) == (
        f"{tmp_path / 'work' / 'passages-32-salient-random'} was prepared with other salient spans:\n"
        "  spans.random: 0.15 -> 0.5\n"
        "  spans.random_seed: 0 -> 3\n"
        "use these settings again, or run `dense-jax prepare` in another --workdir or passages.workdir"
    )


def test_a_run_that_shares_a_preparation_masks_the_spans_that_are_there_or_none(source, tmp_path):
    shared, own = tmp_path / "shared", tmp_path / "run"
    one, other = (precomputed(tmp_path / f"{end}.jsonl", d0=[[8, end]]) for end in (15, 11))
    prepare(asked(source, SpansConfig(precomputed=str(one))), shared)
    moved = SpansConfig(precomputed=shutil.copy(one, f"{tmp_path}/moved.jsonl"))
    trained_on(source, moved, own, shared).check_spans()  # a file counts by its content
    others, message = SpansConfig(precomputed=str(other)), r"salient spans:\n  spans.precomputed: \w+ -> \w+\n"
    with pytest.raises(ConfigError, match=message):
        trained_on(source, others, own, shared).check_spans()
    trained_on(source, others, own, shared, objective=BagOfTokens()).check_spans()  # it masks none


@pytest.mark.slow
def test_train_refuses_other_spans_before_the_first_step(source, tmp_path):
    def arguments(random):
        settings = {"corpus.source": source, "tokenizer.vocab_size": 300, "passages.length": 32, "corpus.held_out": 0}
        settings |= {"spans.patterns": False, "spans.capitals": False, "spans.titles": False, "spans.random": random}
        flags = [f"--{name}={value}" for name, value in settings.items()]
        return [f"--config={ROOT / 'configs' / 'realm.py'}:tiny", f"--workdir={tmp_path / 'work'}", *flags]

    assert run(["prepare", *arguments(0.15)]) == 0
    training = process("train", *arguments(0.5))
    _, said = training.communicate(timeout=200)
    assert training.returncode == 2 and "spans.random: 0.15 -> 0.5\n" in said
    assert not (tmp_path / "work" / "config.json").exists()


def test_a_workdir_gives_passages_with_or_without_spans_as_the_config_says(source, tmp_path):
    for spans in (SpansConfig(), ALL):
        prepare(asked(source, spans), tmp_path / "work")
    plain, salient = (Workdir(tmp_path / "work", asked(source, spans)).passages for spans in (SpansConfig(), ALL))
    assert plain[0].spans is NO_SPANS and len(salient[0].spans)
    assert plain[0].tokens.tolist() == salient[0].tokens.tolist()


def test_passages_with_spans_are_searched_as_others_are(source, tmp_path):
    prepare(asked(source, ALL), tmp_path / "work")
    found = Workdir(tmp_path / "work", asked(source, ALL)).collection(Tower(MeanEmbedding(), {}, 16))
    assert found.store.folder.name == "passages-32-salient-patterns-capitals-titles"


def test_a_missing_shard_of_spans_is_named(source, tmp_path):
    _, found = prepared(asked(source, ALL), tmp_path / "work")
    (found.folder / "spans-00000.array_record").unlink()
    with pytest.raises(
        StorageError, match=r"spans-00000.array_record: missing; remove its folder and run `dense-jax prepare`"
    ):
        store.PassageStore(found.folder)


def test_the_spans_of_an_example_are_shown_in_its_passage(source, tmp_path):
    settings = asked(source, ALL, length=60)
    prepare(settings, tmp_path / "work")
    work = Workdir(tmp_path / "work", settings)
    examples = work.examples_of(settings, 1)
    text = show.spans(examples, work.tokenizer)
    passage = work.passages[int(examples[0].row)]
    assert text.startswith(f"{len(passage.spans)} in {len(passage.tokens)} tokens: ")
    assert "in [[1912]] [[ann lee]] saw the [[old harbour]]. a keeper left the lamp of [[rome]] behind." in text
    assert text.partition(": ")[2].replace("[[", "").replace("]]", "") == work.tokenizer.decode(passage.tokens)

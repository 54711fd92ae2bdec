import json
import shutil
from dataclasses import replace

import pytest

from dense_jax.artifact import is_finished
from dense_jax.data.preparation import entries, text
from dense_jax.data.preparation import prepare as module
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.stores import passage_store as store
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, DataError
from dense_jax.types import Document
from tests.sources import WORDS, KilledError, config, contents, killed_at, rows, write

PASSAGES = "passages-32"  # the folder of passages of 32 tokens


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "source" / "rows.jsonl", rows(30))


def test_a_workdir_gets_its_tokenizer_its_passages_and_an_empty_list_of_rejects(source, tmp_path):
    counts = prepare(config(source), tmp_path / "work")
    passages = PassageStore(tmp_path / "work" / PASSAGES)
    tokenizer = Tokenizer.load(tmp_path / "work" / "tokenizer")
    assert (counts["documents"], counts["rejected rows"], counts["held-out queries"]) == (30, 0, 0)
    assert counts["passages"] == len(passages)
    assert counts["tokens"] == sum(len(p.tokens) for p in passages.passages(range(len(passages))))
    assert counts["vocabulary"] == tokenizer.size
    assert (tmp_path / "work" / "rejects.jsonl").read_text() == ""
    assert not (tmp_path / "work" / "test").exists()


def test_passages_are_whole_sentences_that_fit_with_title_and_special_tokens(source, tmp_path):
    prepare(config(source, length=32), tmp_path / "work")
    passages = PassageStore(tmp_path / "work" / PASSAGES)
    tokenizer = Tokenizer.load(tmp_path / "work" / "tokenizer")
    for passage in passages.passages(range(len(passages))):
        document = passages.document(passage.row)
        assert 3 + len(passage.title) + len(passage.tokens) <= 32 or len(passage.sentences) == 1
        assert tokenizer.decode(passage.title) == document.title.lower()
        sentences = [tokenizer.decode(passage.tokens[passage.sentence(i)]) for i in range(len(passage.sentences))]
        assert " ".join(sentences) == document.text.lower()
    texts = [passages.document(i).text for i in range(len(passages)) if passages.ids()[i] == "d3"]
    assert " ".join(texts) == rows(30)[3]["text"]


def test_a_second_call_does_nothing_and_says_the_same(source, tmp_path):
    first = prepare(config(source, held_out=4), tmp_path / "work")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*")}
    assert prepare(config(source, held_out=4), tmp_path / "work") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*")} == before


def test_the_result_depends_on_nothing_but_the_text_and_the_settings(source, tmp_path):
    for name in ("a", "b"):
        prepare(config(source, held_out=4), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("documents", [0, 1, 7, 17, 29])
def test_an_interrupted_preparation_ends_with_the_same_files(source, tmp_path, documents):
    prepare(config(source, held_out=4, shard_size=8), tmp_path / "whole")

    with killed_at(module, "entries", documents):
        prepare(config(source, held_out=4, shard_size=8), tmp_path / "again")
    assert not is_finished(tmp_path / "again" / PASSAGES)
    prepare(config(source, held_out=4, shard_size=8), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_a_preparation_killed_before_its_tokenizer_was_made_ends_with_the_same_files(source, tmp_path, monkeypatch):
    prepare(config(source, held_out=4), tmp_path / "whole")

    def killed(*arguments):
        raise KilledError

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(Tokenizer, "train", killed)
        prepare(config(source, held_out=4), tmp_path / "again")
    assert not (tmp_path / "again" / "text.json").exists()
    prepare(config(source, held_out=4), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_finished_shards_are_not_tokenised_again(source, tmp_path, monkeypatch):
    asked = []

    def counted(documents, *arguments):
        return entries.entries((asked.append(d.id) or d for d in documents), *arguments)

    def killed(writer):
        raise KilledError

    monkeypatch.setattr(module, "entries", counted)
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(store.StoreWriter, "finish", killed)
        prepare(config(source, shard_size=8), tmp_path / "work")
    assert len(asked) == 30
    done = json.loads((tmp_path / "work" / PASSAGES / "progress.json").read_text())["documents"]
    asked.clear()
    prepare(config(source, shard_size=8), tmp_path / "work")
    assert len(asked) == 30 - done < 8


def test_a_workdir_made_with_other_settings_is_refused_with_those_that_differ(source, tmp_path):
    prepare(config(source), tmp_path / "work")
    before = contents(tmp_path / "work")
    with pytest.raises(
        ConfigError, match=r"text.json was made with other settings:\n  tokenizer.vocab_size: 80 -> 90\nuse these"
    ):
        prepare(config(source, vocab_size=90), tmp_path / "work")
    assert contents(tmp_path / "work") == before


def test_files_of_another_size_are_the_same_passages(source, tmp_path):
    first = prepare(config(source), tmp_path / "work")
    assert prepare(config(source, shard_size=10), tmp_path / "work") == first


def test_a_changed_source_is_noticed(source, tmp_path):
    prepare(config(source), tmp_path / "work")
    write(source, rows(31))
    with pytest.raises(ConfigError, match=r"other settings:\n  corpus.source.digest: \w+ -> \w+\n"):
        prepare(config(source), tmp_path / "work")


def test_a_moved_source_and_a_moved_workdir_stay_valid(source, tmp_path):
    first = prepare(config(source), tmp_path / "work")
    shutil.move(tmp_path / "work", tmp_path / "elsewhere")
    shutil.move(source.parent, tmp_path / "also")
    again = prepare(config(tmp_path / "also" / "rows.jsonl"), tmp_path / "elsewhere")
    assert again == first | {"folder": str(tmp_path / "elsewhere" / PASSAGES)}


def test_rejected_rows_are_listed_with_file_line_and_reason(source, tmp_path):
    write(source, [*rows(30), {"text": 3}])
    counts = prepare(config(source, max_rejects=0.04), tmp_path / "work")
    assert (counts["documents"], counts["rejected rows"]) == (30, 1)
    assert json.loads((tmp_path / "work" / "rejects.jsonl").read_text()) == {
        "file": str(source),
        "line": 31,
        "reason": "the text is 3, not a string",
    }


def test_too_many_rejects_are_an_error_with_counts_examples_and_the_fix(source, tmp_path):
    write(source, [*rows(6), {"_id": "x", "text": 3}, {"_id": "d0", "text": "a"}, {"_id": "d1", "text": "b"}, {"a": 1}])
    with pytest.raises(DataError) as caught:
        prepare(config(source, max_rejects=0.3), tmp_path / "work")
    assert str(caught.value).splitlines() == [
        "4 of 10 rows cannot be used (corpus.max_rejects=0.3):",
        "  2 x has the id",
        "  1 x the text is",
        "  1 x has no field",
        "for example",
        f"  {source}:7: the text is 3, not a string",
        f"  {source}:8: has the id 'd0' of {source}:1",
        f"  {source}:9: has the id 'd1' of {source}:2",
        f"  {source}:10: has no field 'text'; it has 'a'",
        f"all are in {tmp_path / 'work' / 'rejects.jsonl'}; correct them, or skip them by --corpus.max_rejects=0.41",
    ]
    assert len((tmp_path / "work" / "rejects.jsonl").read_text().splitlines()) == 4


def test_after_too_many_rejects_a_corrected_source_or_a_higher_share_is_accepted(source, tmp_path):
    write(source, [*rows(29), {"text": 3}])
    with pytest.raises(DataError):
        prepare(config(source), tmp_path / "work")
    assert prepare(config(source, max_rejects=0.04), tmp_path / "work")["documents"] == 29


def test_a_corpus_of_nothing_but_bad_rows_is_refused_whatever_share_is_allowed(source, tmp_path):
    write(source, [{"text": 3}])
    with pytest.raises(DataError, match=r"1 of 1 rows cannot be used (?s:.*) no document is left"):
        prepare(config(source, max_rejects=1.0), tmp_path / "work")


def test_after_a_refusal_at_the_end_the_settings_that_it_names_are_accepted(source, tmp_path):
    write(source, [{"_id": row["_id"], "title": row["title"], "text": "", "body": row["text"]} for row in rows(30)])
    with pytest.raises(DataError, match=r"no document has a text, only titles; use another --corpus.text_field"):
        prepare(config(source), tmp_path / "work")
    corrected = config(source)
    corrected.corpus.text_field = "body"
    assert prepare(corrected, tmp_path / "work")["documents"] == 30


def test_a_vocabulary_that_is_refused_leaves_no_test_set_behind(source, tmp_path):
    with pytest.raises(ConfigError):
        prepare(config(source, held_out=4, vocab_size=3), tmp_path / "work")
    assert prepare(config(source), tmp_path / "work")["held-out queries"] == 0


def test_a_renamed_source_is_the_same_corpus(source, tmp_path):
    first = prepare(config(source), tmp_path / "work")
    assert prepare(config(source.rename(tmp_path / "renamed.jsonl")), tmp_path / "work") == first


def test_held_out_sentences_are_not_in_the_passages_but_in_the_queries(source, tmp_path):
    counts = prepare(config(source, held_out=4), tmp_path / "work")
    assert counts["held-out queries"] == 4
    lines = (tmp_path / "work" / "test" / "queries.jsonl").read_text().splitlines()
    passages = PassageStore(tmp_path / "work" / PASSAGES)
    text = " ".join(passages.document(i).text for i in range(len(passages)))
    firsts = {row["_id"]: row["text"].partition(".")[0] for row in rows(30)}
    judged = [row.split("\t")[1] for row in (tmp_path / "work/test/qrels/test.tsv").read_text().splitlines()[1:]]
    assert [json.loads(line)["text"] for line in lines] == [firsts[name] + "." for name in judged]
    assert [first not in text for name, first in firsts.items()] == [name in judged for name in firsts]
    assert len((tmp_path / "work" / "test" / "corpus.jsonl").read_text().splitlines()) == 30


def test_removed_passages_are_made_again_from_the_text_that_is_there(source, tmp_path):
    prepare(config(source, held_out=4), tmp_path / "work")
    before = contents(tmp_path / "work")
    shutil.rmtree(tmp_path / "work" / PASSAGES)
    prepare(config(source, held_out=4), tmp_path / "work")
    assert contents(tmp_path / "work") == before


def remove(workdir):
    """Passages, and what vouches for the rest."""
    shutil.rmtree(workdir / PASSAGES)
    (workdir / "text.json").unlink()


def test_leftovers_of_a_removed_preparation_are_replaced(source, tmp_path):
    prepare(config(source, held_out=4), tmp_path / "work")
    remove(tmp_path / "work")
    prepare(config(source, held_out=5), tmp_path / "work")
    prepare(config(source, held_out=5), tmp_path / "fresh")
    assert contents(tmp_path / "work") == contents(tmp_path / "fresh")


def test_a_test_set_that_nobody_asked_for_is_not_left_to_be_evaluated_on(source, tmp_path):
    prepare(config(source, held_out=4), tmp_path / "work")
    remove(tmp_path / "work")
    with pytest.raises(
        ConfigError, match=r"test is left from another preparation and would be evaluated on; remove it"
    ):
        prepare(config(source), tmp_path / "work")


def test_a_missing_tokenizer_folder_is_said_before_the_corpus_is_read(source, tmp_path):
    with pytest.raises(ConfigError, match=r"absent: no tokenizer.json, tokenizer_config.json or vocab.txt there"):
        prepare(config(source, tokenizer=tmp_path / "absent"), tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_other_field_names_are_another_text(source, tmp_path):
    prepare(config(source), tmp_path / "work")
    settings = config(source)
    other = replace(settings, corpus=replace(settings.corpus, text_field="title"))
    with pytest.raises(ConfigError, match=r"other settings:\n  corpus.source.fields.text: text -> title\n"):
        prepare(other, tmp_path / "work")


def test_a_tokenizer_folder_is_imported_and_its_place_does_not_matter(source, tmp_path):
    Tokenizer.train([WORDS[0]], 40, lowercase=True).save(tmp_path / "theirs")
    prepare(config(source, tokenizer=tmp_path / "theirs"), tmp_path / "work")
    ours, theirs = Tokenizer.load(tmp_path / "work" / "tokenizer"), Tokenizer.load(tmp_path / "theirs")
    assert ours.encode(WORDS)[0].tolist() == theirs.encode(WORDS)[0].tolist()
    shutil.move(tmp_path / "theirs", tmp_path / "moved")
    prepare(config(source, tokenizer=tmp_path / "moved"), tmp_path / "work")

    Tokenizer.train([WORDS[1]], 40, lowercase=True).save(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"  tokenizer.imported: \w+ -> \w+"):
        prepare(config(source, tokenizer=tmp_path / "other"), tmp_path / "work")


def test_a_vocabulary_is_trained_on_a_sample_that_keeps_to_its_size_and_depends_on_ids_only():
    documents = [Document(f"d{i}", "", f"text number {i:04d} of all") for i in range(1_000)]
    sample = text._sampled_texts(documents, characters=5_000)
    assert 2_000 < sum(map(len, sample)) <= 5_000
    assert sorted(sample) == sorted(text._sampled_texts(documents[::-1], characters=5_000))
    assert len(text._sampled_texts(documents, characters=10**6)) == 2_000

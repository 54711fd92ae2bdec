"""Advice about rejected rows: skip a few, but never most of a file."""

import json

import pytest

from dense_jax.config import CorpusConfig
from dense_jax.data.preparation.scan import scan
from dense_jax.data.sources.corpus import open_corpus
from dense_jax.data.sources.rejects import advice, causes_of
from dense_jax.errors import DataError
from dense_jax.types import Reject

FEW, MOST = 1, 20


def rejects(count, reason):
    return [Reject(f"rows.jsonl:{i}", reason) for i in range(count)]


def test_a_few_bad_rows_may_be_skipped_by_a_share_that_allows_them():
    assert advice(causes_of(rejects(3, "is not JSON (x)")), usable=7) == (
        "correct them, or skip them by --corpus.max_rejects=0.30"
    )


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("is not JSON (unexpected character)", "not JSON lines"),
        ("is not a JSON object but '3'", "not JSON lines"),
        ("is not UTF-8 (invalid byte)", "iconv -f ISO-8859-1 -t UTF-8"),
        ("holds a NUL byte", "binary"),
        ("has no field 'text'; it has 'body'", "--corpus.text_field=NAME"),
        ("the text is 3, not a string", "--corpus.text_field=NAME"),
        ("text and title are empty", "--corpus.text_field=NAME"),
        ("has no id, which other rows have; give it one", "--corpus.id_field=NAME"),
        ("has the id 'a' of rows.jsonl:1", "--corpus.id_field=NAME"),
        ("the id is 1.5, not a string or an integer", "--corpus.id_field=NAME"),
        ("the title is 3, not a string", "--corpus.title_field=NAME"),
        ("has 3 columns, the first row has 2", "separated"),
        ("90 characters, more than corpus.max_characters=10", "--corpus.max_characters=N"),
        ("is longer than 90 bytes", "--corpus.max_characters=N"),
        ("no text: query 'q' has no usable row in queries.jsonl", "do not belong together"),
        ("something else", "not what its name says"),
    ],
)
def test_where_most_rows_are_bad_the_likely_cause_is_named_and_no_share(reason, cause):
    text = advice(causes_of([*rejects(FEW, "other"), *rejects(MOST, reason)]), usable=5)
    assert cause in text
    assert "max_rejects" not in text


def test_a_file_of_mostly_bad_rows_is_refused_without_advice_to_throw_it_away(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"_id": "a", "text": "x"}) + "\n" + '{"_id": "b", "text": 3}\n' * 10)
    with pytest.raises(DataError) as error:
        scan(open_corpus(CorpusConfig(source=str(path))), tmp_path / "rejects.jsonl")
    assert "10 of 11 rows cannot be used" in str(error.value)
    assert "--corpus.text_field=NAME" in str(error.value)
    assert "--corpus.max_rejects" not in str(error.value)


def test_the_user_reads_that_rows_are_numbered(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"key": "a", "text": "x"}\n')
    assert scan(open_corpus(CorpusConfig(source=str(path))), tmp_path / "rejects.jsonl")["usable"] == 1
    assert "the rows are numbered from 1; they have 'key', 'text'" in capsys.readouterr().err

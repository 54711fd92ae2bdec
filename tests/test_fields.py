"""Names of fields: the known ones of every form of file, configured ones, and ids that are no strings."""

import json
from pathlib import Path

import pytest

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.corpus import open_corpus
from dense_jax.data.sources.fields import DOCUMENT_IDS, QUERY_IDS, QUERY_TEXTS, TEXTS, TITLES, first_known
from dense_jax.errors import DataError
from dense_jax.types import Document, Reject

DOCUMENT = Document("7", "Title", "Some text.")


def source_of(path, **settings):
    (source,) = open_corpus(CorpusConfig(source=str(path), **settings)).sources
    return source


def read(path, **settings):
    return list(source_of(path, **settings))


def jsonl(folder, *rows):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def tsv(folder, text):
    (folder / "rows.tsv").write_text(text)
    return folder / "rows.tsv"


@pytest.mark.parametrize("name", [*DOCUMENT_IDS, "DocID", "doc-id", "PassageID"])
def test_an_id_has_any_known_name_in_json_lines_and_in_a_header(tmp_path, name):
    assert read(jsonl(tmp_path, {name: 7, "title": "Title", "text": "Some text."})) == [DOCUMENT]
    assert read(tsv(tmp_path, f"title\t{name}\ttext\nTitle\t7\tSome text.\n")) == [DOCUMENT]


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("text", [*TEXTS, "Contents"])
def test_a_title_and_a_text_have_any_known_name(tmp_path, title, text):
    assert read(jsonl(tmp_path, {"id": "7", title: "Title", text: "Some text."})) == [DOCUMENT]


def test_of_several_known_names_the_first_in_the_table_counts(tmp_path):
    assert first_known(["docid", "ID", "_id"], DOCUMENT_IDS) == "_id"
    assert read(jsonl(tmp_path, {"docid": "d", "pid": 7, "contents": "x", "text": "y"})) == [Document("7", "", "y")]


def test_a_beir_folder_may_have_other_known_names(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"docid": 7, "title": "Title", "contents": "Some text."}\n')
    assert read(tmp_path, text_field="elsewhere") == [DOCUMENT]


def test_rows_without_any_id_are_numbered_and_the_source_says_so(tmp_path):
    source = source_of(jsonl(tmp_path, {"key": "a", "text": "x"}, {"key": "b", "text": "y"}))
    assert [document.id for document in source] == ["1", "2"]
    assert "numbered" in source.contents.note
    assert "'key', 'text'" in source.contents.note
    assert read(jsonl(tmp_path, {"key": "a", "text": "x"}), id_field="key")[0].id == "a"  # as the note advises


def test_a_row_without_the_id_that_other_rows_have_is_rejected_and_not_numbered(tmp_path):
    path = jsonl(tmp_path, {"_id": 2, "text": "x"}, {"text": "y"}, {"_id": None, "text": "z"}, {"id": "w", "text": "w"})
    first, *others = read(path)
    assert first.id == "2"
    assert [(row.where, row.reason[:9]) for row in others] == [(f"{path}:{i}", "has no id") for i in (2, 3, 4)]


def test_an_id_after_many_rows_without_one_is_rejected_and_not_ignored(tmp_path):
    *numbered, last = read(jsonl(tmp_path, *({"text": f"x{i}"} for i in range(150)), {"_id": "a", "text": "y"}))
    assert [row.id for row in numbered] == [str(i + 1) for i in range(150)]
    assert isinstance(last, Reject)
    assert "'_id'" in last.reason


@pytest.mark.parametrize(
    ("setting", "value"), [("id_field", "keys"), ("title_field", "titel"), ("text_field", "texts")]
)
def test_a_configured_field_that_no_row_has_is_refused_with_the_nearest(tmp_path, setting, value):
    path = jsonl(tmp_path, {"key": "a", "title": "t", "text": "x"})
    nearest = {"id_field": "key", "title_field": "title", "text_field": "text"}[setting]
    with pytest.raises(DataError) as error:
        read(path, **{setting: value})
    assert f"corpus.{setting}={value}" in str(error.value)
    assert "'key', 'title', 'text'" in str(error.value)
    assert f"--corpus.{setting}={nearest}" in str(error.value)
    assert isinstance(read(path, **{setting: nearest})[0], Document)


def test_a_configured_field_that_only_late_rows_have_is_accepted(tmp_path):
    path = jsonl(tmp_path, *({"_id": i, "text": "x"} for i in range(150)), {"_id": "z", "text": "y", "head": "T"})
    assert read(path, title_field="head")[-1].title == "T"


def test_configured_fields_name_the_columns_of_a_tsv_header(tmp_path):
    path = tsv(tmp_path, "key\tsentence\tlang\n7\tSome text.\ten\n")
    assert read(path, id_field="key", text_field="sentence") == [Document("7", "", "Some text.")]
    with pytest.raises(DataError, match=r"--corpus.text_field=sentence"):
        read(path, id_field="key", text_field="sentance")


def test_a_configured_field_needs_a_tsv_file_with_a_header(tmp_path):
    with pytest.raises(DataError, match="has no header"):
        read(tsv(tmp_path, "7\tSome text.\n"), id_field="key")


def test_a_header_with_an_id_and_no_known_text_names_the_setting(tmp_path):
    path = tsv(tmp_path, "docid\tlang\tsentence\n7\ten\tSome text.\n")
    with pytest.raises(DataError, match=r"'docid', 'lang', 'sentence'.*--corpus.text_field=NAME"):
        read(path)
    assert read(path, text_field="sentence") == [Document("7", "", "Some text.")]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1.0, "the id is 1.0, not a string or an integer; write it as 1"),
        (True, "the id is True, not a string or an integer"),
        (["a"], "the id is ['a'], not a string or an integer"),
        ("  ", "the id is '  ', which is blank"),
        ("a\nb", "the id is 'a\\nb', which holds a line break"),
    ],
)
def test_an_id_that_is_no_id_is_rejected_with_its_line(tmp_path, value, reason):
    path = jsonl(tmp_path, {"_id": value, "text": "x"})
    assert read(path) == [Reject(f"{path}:1", reason)]


def test_white_space_around_an_id_is_no_part_of_it(tmp_path):
    path = jsonl(tmp_path, {"_id": " Geneva Durben ", "text": "x"}, {"_id": "Geneva Durben", "text": "y"})
    first, second = read(path)
    assert first.id == "Geneva Durben"
    assert second == Reject(f"{path}:2", f"has the id 'Geneva Durben' of {path}:1")


def test_the_readme_names_all_known_fields():
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    for names in (DOCUMENT_IDS, TITLES, TEXTS, QUERY_IDS, QUERY_TEXTS):
        assert ", ".join(f"`{name}`" for name in names) in readme

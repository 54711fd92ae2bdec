import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.corpus import open_corpus
from dense_jax.data.sources.lines import lines, stem
from dense_jax.errors import ConfigError, DataError
from dense_jax.types import Document, Reject


def read(source, **settings):
    return list(open_corpus(CorpusConfig(source=str(source), **settings)))


def only(source, **settings):
    """The single row of a source."""
    (row,) = read(source, **settings)
    return row


def jsonl(folder, *rows, name="rows.jsonl"):
    path = folder / name
    raw = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in raw))
    return path


GOOD = {"_id": "a", "title": "Title", "text": "Some text."}
DOCUMENT = Document("a", "Title", "Some text.")


def test_a_corpus_without_a_source_names_the_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(jsonl(tmp_path, GOOD).parent)  # which the empty name would be
    with pytest.raises(ConfigError, match=r"^no corpus\.source; name your documents by --corpus\.source=FILE: a BEIR"):
        open_corpus(CorpusConfig())


@pytest.mark.parametrize("end", ["", ".gz", ".xz"])
def test_a_jsonl_file_is_read_plain_and_packed(tmp_path, end):
    opener = {"": open, ".gz": gzip.open, ".xz": lzma.open}[end]
    with opener(tmp_path / f"rows.jsonl{end}", "wb") as file:
        file.write(json.dumps(GOOD).encode() + b"\n")
    assert only(tmp_path / f"rows.jsonl{end}") == DOCUMENT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train.jsonl", "train"),
        ("NQ-open.dev.jsonl", "NQ-open.dev"),
        ("NQ-open.train.jsonl.gz", "NQ-open.train"),
        ("dev-v1.1.json.xz", "dev-v1.1"),
        ("nq-test.qa.csv", "nq-test.qa"),
        ("trec.covid", "trec.covid"),
    ],
)
def test_a_name_loses_the_ends_that_tell_form_and_compression_and_no_others(name, expected):
    assert stem(Path(name)) == expected


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_beir_folder_is_its_corpus_file(tmp_path, name):
    line = json.dumps(GOOD).encode()
    (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith("gz") else line)
    assert only(tmp_path) == DOCUMENT


def test_other_field_names_are_settings(tmp_path):
    path = jsonl(tmp_path, {"key": "a", "head": "Title", "body": "Some text."})
    assert only(path, id_field="key", title_field="head", text_field="body") == DOCUMENT


def test_a_row_without_an_id_gets_its_line_number_and_one_without_a_title_none(tmp_path):
    assert read(jsonl(tmp_path, {"text": "x"}, {"text": "y"})) == [Document("1", "", "x"), Document("2", "", "y")]


def test_an_integer_id_becomes_a_string(tmp_path):
    assert only(jsonl(tmp_path, {"_id": 7, "text": "x"})) == Document("7", "", "x")


def test_a_text_of_sections_is_joined_by_blank_lines(tmp_path):
    sections = [{"heading": "", "text": "Lead."}, {"heading": "History", "text": "It was."}]
    assert only(jsonl(tmp_path, {"_id": "a", "text": sections})).text == "Lead.\n\nHistory\nIt was."
    assert only(jsonl(tmp_path, {"_id": "a", "text": ["One.", "Two."]})).text == "One.\n\nTwo."


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_accepted(tmp_path):
    line = json.dumps(GOOD).encode()
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n  \n" + line.replace(b'"a"', b'"b"'))
    assert [row.id for row in read(tmp_path / "rows.jsonl")] == ["a", "b"]


def test_an_id_with_white_space_is_accepted(tmp_path):
    assert only(jsonl(tmp_path, {"_id": "a b\t../c", "text": "x"})).id == "a b\t../c"


BAD_ROWS = {
    "not JSON": (b"{oops", "is not JSON (unexpected character"),
    "cut off": (b'{"_id": "a", "text": "x', "is not JSON (unexpected end of data"),
    "not a number": (b'{"text": NaN}', "is not JSON (unexpected character"),
    "a list": (b'["a"]', "is not a JSON object but '[\"a\"]'"),
    "no text": ({"_id": "a", "body": "x"}, "has no field 'text'; it has '_id', 'body'"),
    "text a number": ({"text": 3}, "the text is 3, not a string"),
    "text null": ({"text": None}, "text and title are empty"),
    "text of numbers": ({"text": ["x", 3]}, "the text's part 3 is neither a string nor a section with a text"),
    "title a number": ({"text": "x", "title": 3}, "the title is 3, not a string"),
    "id true": ({"_id": True, "text": "x"}, "the id is True, not a string or an integer"),
    "id a float": ({"_id": 1.5, "text": "x"}, "the id is 1.5, not a string or an integer"),
    "id empty": ({"_id": "", "text": "x"}, "the id is '', not a string or an integer"),
    "nothing": ({"_id": "a", "title": " ", "text": "\n"}, "text and title are empty"),
    "NUL byte": (b'{"text": "x\0"}', "holds a NUL byte"),
    "NUL character": ({"text": "x\0"}, "the text holds a NUL character"),
    "not UTF-8": (b'{"text": "\xff"}', "is not UTF-8 (invalid start byte at byte 10)"),
    "lone surrogate": (b'{"text": "\\ud800"}', "is not JSON (no low surrogate in string"),
    "deep": (b"[" * 100_000, "is not JSON (depth limit exceeded"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_rejected_with_its_line_and_reason_and_the_next_one_is_read(tmp_path, case):
    line, reason = BAD_ROWS[case]
    path = jsonl(tmp_path, {"_id": "first", "text": "x"}, line, {"_id": "last", "text": "y"})
    first, bad, last = read(path)
    assert (first.id, last.id) == ("first", "last")
    assert bad.where == f"{path}:2"
    assert bad.reason.startswith(reason)


def test_a_longer_document_than_allowed_is_rejected(tmp_path):
    path = jsonl(tmp_path, {"title": "12345", "text": "123456"})
    assert only(path, max_characters=10).reason == "11 characters, more than corpus.max_characters=10"
    assert only(path, max_characters=11) == Document("1", "12345", "123456")


def test_t22_a_line_of_fifty_megabytes_is_rejected_without_being_held_in_memory(tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "')
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "short"}\n')
    tracemalloc.start()
    long, short = read(path, max_characters=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert long == Reject(f"{path}:1", "is longer than 2,248,576 bytes")
    assert short.text == "short"
    assert peak < 12_000_000  # bytes: a few buffers of the longest line that is allowed


def test_a_duplicate_id_names_both_lines_and_integers_count_as_their_strings(tmp_path):
    path = jsonl(tmp_path, {"_id": "7", "text": "x"}, {"_id": 7, "text": "y"})
    assert read(path)[1] == Reject(f"{path}:2", f"has the id '7' of {path}:1")


def test_every_pass_over_a_corpus_gives_the_same_rows(tmp_path):
    corpus = open_corpus(CorpusConfig(source=str(jsonl(tmp_path, GOOD, {"_id": "b", "text": "x"}))))
    assert list(corpus) == list(corpus)


def test_a_limit_counts_documents_and_not_rejects(tmp_path):
    path = jsonl(tmp_path, {"text": 3}, *({"_id": f"d{i}", "text": "x"} for i in range(5)))
    assert [type(row).__name__ for row in read(path, limit=2)] == ["Reject", "Document", "Document"]


def tsv(folder, text):
    (folder / "rows.tsv").write_text(text, encoding="utf-8")
    return folder / "rows.tsv"


def test_a_tsv_file_of_two_columns_is_id_and_text(tmp_path):
    assert read(tsv(tmp_path, "0\tSome text.\n1\tMore.\n")) == [
        Document("0", "", "Some text."),
        Document("1", "", "More."),
    ]


def test_a_tsv_file_of_three_columns_is_id_text_and_title(tmp_path):
    assert only(tsv(tmp_path, "a\tSome text.\tTitle\n")) == DOCUMENT


@pytest.mark.parametrize("header", ["id\ttext\ttitle", "id\ttitle\ttext"])
def test_a_header_names_the_columns(tmp_path, header):
    values = {"id": "a", "title": "Title", "text": "Some text."}
    row = "\t".join(values[name] for name in header.split("\t"))
    assert only(tsv(tmp_path, f"{header}\n{row}\n")) == DOCUMENT


def test_quotes_around_a_cell_are_taken_off_if_they_are_quotes_of_csv(tmp_path):
    path = tsv(tmp_path, 'id\ttext\ttitle\n1\t"He said ""no""."\t"T"\n2\t"Foo" is a "bar"\tT\n')
    assert [row.text for row in read(path)] == ['He said "no".', '"Foo" is a "bar"']


def test_a_tsv_row_with_another_number_of_columns_is_rejected(tmp_path):
    path = tsv(tmp_path, "1\tx\n2\ty\tz\n")
    assert read(path)[1] == Reject(f"{path}:2", "has 3 columns, the first row has 2")


def test_a_tsv_file_of_many_columns_needs_a_header(tmp_path):
    with pytest.raises(DataError, match=r"rows.tsv:1: 4 columns; a TSV corpus is `id text` or `id text title`"):
        read(tsv(tmp_path, "1\ta\tb\tc\n"))
    assert only(tsv(tmp_path, "docid\turl\ttitle\ttext\na\thttp\tTitle\tSome text.\n")) == DOCUMENT


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Two documents and a bad one; lives in a module because TFDS looks for the module's folder."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in ("_id", "title", "text")})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._rows()}

    def _generate_examples(self):
        raise NotImplementedError

    def _rows(self):
        for i, text in enumerate(["Some text.", "Naïve.", ""]):
            yield i, {"_id": "abc"[i], "title": "Title" if text else "", "text": text}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    builder = Tiny(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


def test_a_tfds_data_set_is_read_without_tensorflow(tiny):
    rows = {getattr(row, "id", row.reason if isinstance(row, Reject) else ""): row for row in read(f"tfds:{tiny}")}
    assert rows["a"] == DOCUMENT
    assert rows["b"].text == "Naïve."
    assert rows["text and title are empty"].where.startswith("tiny/1.0.0[train]:")


def test_a_missing_split_of_a_tfds_data_set_names_those_there_are(tiny):
    with pytest.raises(DataError, match=r"corpus.split=dev: (?s:.*)train(?s:.*)one of its splits"):
        open_corpus(CorpusConfig(source=f"tfds:{tiny}", split="dev"))


def test_an_unknown_tfds_data_set_is_refused():
    with pytest.raises(DataError, match=r"corpus source tfds:no_such_thing, corpus.split=train"):
        open_corpus(CorpusConfig(source="tfds:no_such_thing"))


FORMS = r"name a BEIR or MS MARCO folder, a .jsonl, .json, .tsv or .parquet file of documents, .* or installed"


def test_a_missing_file_is_refused_with_the_forms_there_are(tmp_path):
    with pytest.raises(DataError, match=rf"corpus source .*absent.jsonl: no such file or folder; {FORMS}"):
        open_corpus(CorpusConfig(source=str(tmp_path / "absent.jsonl")))


def test_an_unknown_form_is_refused(tmp_path):
    (tmp_path / "notes.pdf").write_bytes(b"")
    with pytest.raises(DataError, match=rf"notes.pdf: unknown form '.pdf'; {FORMS}"):
        open_corpus(CorpusConfig(source=str(tmp_path / "notes.pdf")))


def test_a_folder_without_a_corpus_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"the folder has no corpus.jsonl or collection.tsv; name a BEIR"):
        open_corpus(CorpusConfig(source=str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_corpus_is_refused(tmp_path, content):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"rows.jsonl: holds no document; name a BEIR"):
        read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(("end", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_truncated_packed_file_is_named_with_the_line_where_it_broke_off(tmp_path, end, pack):
    rows = b"".join(json.dumps({"_id": str(i), "text": f"text {i * i}"}).encode() + b"\n" for i in range(1_500))
    path = tmp_path / f"rows.jsonl{end}"
    path.write_bytes(pack(rows)[:-2_000])
    with pytest.raises(DataError, match=r"rows.jsonl\.\w\w:\d+: the compressed file is damaged \(.*\); fetch it again"):
        read(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_git_lfs_pointer_is_named_with_its_cure(name, tmp_path):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 466247\n")
    with pytest.raises(DataError, match=f"{name}: a Git LFS pointer, not the file itself; fetch it by `git lfs pull`"):
        read(tmp_path / name)


def test_a_file_that_is_not_packed_as_its_name_says_is_refused(tmp_path):
    path = jsonl(tmp_path, GOOD, name="rows.jsonl.gz")
    with pytest.raises(DataError, match=r"rows.jsonl.gz:1: the compressed file is damaged \(Not a gzipped file"):
        read(path)


def test_a_file_that_cannot_be_read_is_named_with_the_cause():
    with pytest.raises(DataError, match=r"/proc/self/mem: cannot be read \(Input/output error\)"):
        list(lines(Path("/proc/self/mem"), longest=10))


def test_the_fingerprint_of_a_file_is_its_content_wherever_it_lies(tmp_path):
    def fingerprint(folder, *rows):
        folder.mkdir()
        return open_corpus(CorpusConfig(source=str(jsonl(folder, *rows)))).fingerprint()

    assert fingerprint(tmp_path / "here", GOOD) == fingerprint(tmp_path / "there", GOOD)
    assert fingerprint(tmp_path / "changed", GOOD, GOOD) != fingerprint(tmp_path / "again", GOOD)

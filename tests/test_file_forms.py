"""Files by their content: arrays, encodings, CSV, plain text, and folders."""

import codecs
import gzip
import json
import lzma
import re
import subprocess

import pytest

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.corpus import open_corpus
from dense_jax.data.sources.open_questions import sound_questions
from dense_jax.errors import DataError
from dense_jax.retrieval import beir
from dense_jax.types import Document, Reject

PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
ENDS = pytest.mark.parametrize("end", PACK)
ROWS = [{"_id": "a", "title": "Fog", "text": "The sea."}, {"_id": "b", "title": "Bell", "text": "A ship, naïve."}]
DOCUMENTS = [Document("a", "Fog", "The sea."), Document("b", "Bell", "A ship, naïve.")]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write(path, content):
    """`content`, packed as the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(PACK.get(path.suffix, bytes)(raw))
    return path


def source_of(path, with_queries=False, **settings):
    (source,) = open_corpus(CorpusConfig(source=str(path), **settings), with_queries=with_queries).sources
    return source


def read(path, **settings):
    return list(source_of(path, **settings))


# Arrays


@ENDS
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_read_though_it_is_named_jsonl(tmp_path, indent, end):
    assert read(write(tmp_path / f"rows.jsonl{end}", json.dumps(ROWS, indent=indent))) == DOCUMENTS


def test_an_array_of_an_object_a_line_is_read_in_a_beir_folder(tmp_path):
    write(tmp_path / "corpus.jsonl", "[\n" + ",\n".join(LINES.splitlines()) + "\n]\n")
    assert read(tmp_path) == DOCUMENTS


def test_lines_after_a_first_line_that_is_a_list_are_still_lines(tmp_path):
    path = write(tmp_path / "rows.jsonl", '["a"]\n' + LINES)
    assert read(path) == [Reject(f"{path}:1", "is not a JSON object but '[\"a\"]'"), *DOCUMENTS]


# Encodings


@ENDS
@pytest.mark.parametrize(
    ("encoding", "mark", "named"),
    [
        ("utf-16-le", codecs.BOM_UTF16_LE, "UTF-16"),
        ("utf-16-be", codecs.BOM_UTF16_BE, "UTF-16"),
        ("utf-32-le", codecs.BOM_UTF32_LE, "UTF-32"),
        ("utf-16-le", b"", "UTF-16LE"),
        ("utf-16-be", b"", "UTF-16BE"),
        ("utf-32-be", b"", "UTF-32BE"),
    ],
)
def test_another_encoding_is_named_and_its_cure_works(tmp_path, encoding, mark, named, end):
    path = write(tmp_path / f"my rows.jsonl{end}", mark + LINES.encode(encoding))
    with pytest.raises(DataError, match=rf"is {named}, not UTF-8") as error:
        read(path)
    command = re.search(r"`(.*)`", str(error.value))[1]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    (converted,) = set(tmp_path.iterdir()) - {path}
    assert read(converted) == DOCUMENTS


@pytest.mark.parametrize("name", ["rows.json", "rows.csv", "rows.tsv", "rows.txt", "queries.jsonl"])
def test_every_form_names_the_encoding(tmp_path, name):
    path = write(tmp_path / name, "id,text\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"is UTF-16, not UTF-8"):
        beir.read_beir_queries(path) if name == "queries.jsonl" else read(path)


def test_a_row_of_latin_1_names_the_cure(tmp_path):
    path = write(tmp_path / "rows.jsonl", LINES.encode("latin-1"))
    assert "iconv -f ISO-8859-1 -t UTF-8" in read(path)[1].reason
    with pytest.raises(DataError, match=r"rows.json: is not UTF-8 .*iconv -f ISO-8859-1"):
        read(write(tmp_path / "rows.json", json.dumps(ROWS, ensure_ascii=False).encode("latin-1")))


def test_a_byte_order_mark_inside_joined_files_is_taken_off(tmp_path):
    first, second = LINES.splitlines()
    joined = codecs.BOM_UTF8 + first.encode() + b"\n" + codecs.BOM_UTF8 + second.encode()
    assert read(write(tmp_path / "rows.jsonl", joined)) == DOCUMENTS


# CSV


@ENDS
def test_a_csv_file_is_read_with_its_quoted_cells(tmp_path, end):
    text = 'title,docid,text,lang\r\nFog,7,"He said ""no"",\r\n\r\nand left.",en\r\n\r\n"Bell, old",8,Plain.,en\r\n'
    assert read(write(tmp_path / f"rows.csv{end}", codecs.BOM_UTF8 + text.encode())) == [
        Document("7", "Fog", 'He said "no",\r\n\r\nand left.'),
        Document("8", "Bell, old", "Plain."),
    ]


def test_a_csv_cell_may_be_longer_than_the_limit_of_the_csv_module(tmp_path):
    assert len(read(write(tmp_path / "rows.csv", f"id,text\n1,{'x' * 300_000}\n"))[0].text) == 300_000


def test_a_csv_file_of_pairs_gives_documents_and_queries(tmp_path):
    path = write(tmp_path / "pairs.csv", 'query,positive,negative\nwho,"Ann, he said",\n')
    source = source_of(path, with_queries=True)
    assert [document.text for document in source] == ["Ann, he said"]
    assert [query.text for query in source.queries()] == ["who"]


def test_bad_rows_of_a_csv_file_are_rejected_with_the_line_where_they_begin(tmp_path):
    path = write(tmp_path / "rows.csv", b'id,text\n1,"a\nb"\n2\n3,x,y\n4,"a"b\n5,\xff\n,x\n6,last\n')
    rows = read(path)
    assert [row.where.rpartition(":")[2] for row in rows if isinstance(row, Reject)] == ["4", "5", "6", "7", "8"]
    assert [row.id for row in rows if isinstance(row, Document)] == ["1", "6"]
    assert rows[1].reason == "has 1 column, not the 2 columns id, text"


def test_a_quote_that_is_never_closed_is_refused_with_its_line(tmp_path):
    path = write(tmp_path / "rows.csv", 'id,text\n1,x\n2,"open\n' + "3,x\n" * 50)
    with pytest.raises(DataError, match=r"rows.csv:3: .*quote.*never closed"):
        read(path)


def test_a_csv_file_without_a_header_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'7', 'Some text.'.*a .csv file begins with a header"):
        read(write(tmp_path / "rows.csv", "7,Some text.\n8,More.\n"))


def test_two_csv_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"rows.csv:1: two columns have one name"):
        read(write(tmp_path / "rows.csv", "id,text,text\n1,x,y\n"))


# Plain text


@ENDS
def test_a_text_file_has_a_document_a_line(tmp_path, end):
    path = write(tmp_path / f"rows.txt{end}", "The sea.\n\n\tA ship\tafar.\u2028Still here.\n")
    assert read(path) == [Document("1", "", "The sea."), Document("3", "", "\tA ship\tafar.\u2028Still here.")]


def test_a_folder_of_text_files_has_a_document_a_file(tmp_path):
    write(tmp_path / "fog.txt", "One.\n\nTwo.\n")
    write(tmp_path / "old/bell.txt.gz", codecs.BOM_UTF8 + b"Three.")
    write(tmp_path / "old/empty.txt", "\n")
    write(tmp_path / "z.txt", b"\xff")
    write(tmp_path / ".hidden/x.txt", "no")
    source = source_of(tmp_path)
    fog, bell, empty, bad = source
    assert (fog.id, fog.title, fog.text) == ("fog.txt", "fog", "One.\n\nTwo.\n")
    assert (bell.id, bell.title, bell.text) == ("old/bell.txt.gz", "bell", "Three.")
    assert empty == Reject(f"{tmp_path}/old/empty.txt:1", "holds no text")
    assert bad.where == f"{tmp_path}/z.txt:1"
    assert source.contents.note == ""


def test_a_folder_of_text_files_names_the_other_files_that_are_not_read(tmp_path):
    write(tmp_path / "a.txt", "One.")
    write(tmp_path / "scan.pdf", "x")
    assert "scan.pdf" in source_of(tmp_path).contents.note


def test_the_fingerprint_of_a_folder_of_text_files_is_its_content(tmp_path):
    def fingerprint(name, content):
        write(tmp_path / name / "rows" / "a.txt", content)
        return source_of(tmp_path / name / "rows").fingerprint()

    first = fingerprint("here", "One.")
    assert first == fingerprint("there", "One.") != fingerprint("elsewhere", "Two.")


def test_a_text_file_that_is_too_long_is_rejected_by_its_name(tmp_path):
    write(tmp_path / "a.txt", "x" * 20)
    (row,) = read(tmp_path, max_characters=10)
    assert row == Reject(f"{tmp_path}/a.txt:1", "21 characters, more than corpus.max_characters=10")


def test_a_folder_of_other_files_names_them(tmp_path):
    write(tmp_path / "part-0.jsonl", LINES)
    write(tmp_path / "README.txt", "about")
    with pytest.raises(DataError, match=r"no corpus.jsonl or collection.tsv; it holds part-0.jsonl: name it"):
        read(tmp_path)


def test_plain_text_has_no_queries(tmp_path):
    write(tmp_path / "a.txt", "One.")
    with pytest.raises(DataError, match="has documents but no training queries"):
        source_of(tmp_path, with_queries=True).queries()


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.json", "a.jsonl", "corpus/corpus.jsonl", "texts/a.txt"])
@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_refused(tmp_path, name, content):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=r"holds no document|is not JSON|holds no text|is empty"):
        rows = read(path if path.parent == tmp_path else path.parent)
        assert [row.reason for row in rows] == ["holds no text"]
        raise DataError(rows[0].reason)


def test_comma_separated_questions_with_a_header_are_read(tmp_path):
    path = write(tmp_path / "nq.csv", 'question,answers\n"who, then","[""Ann"", ""Bo""]"\n')
    assert [(one.text, one.answers) for one in sound_questions(path)] == [("who, then", ("Ann", "Bo"))]


@pytest.mark.parametrize("name", ["queries.jsonl", "queries.train.tsv", "qrels/train.tsv", "qrels.dev.tsv"])
def test_a_test_collection_without_its_documents_is_not_taken_for_another_form(tmp_path, name):
    write(tmp_path / name, "x\n")
    write(tmp_path / "README.txt", "about")
    with pytest.raises(
        DataError, match=r"has queries or judgements; add the documents as corpus.jsonl or collection.tsv"
    ):
        read(tmp_path)


@pytest.mark.parametrize(("mark", "advice"), [(";", "';'"), ("\t", "name it .tsv"), ("|", "'|'")])
def test_a_csv_file_with_other_separators_is_refused_with_the_separator(tmp_path, mark, advice):
    path = write(tmp_path / "rows.csv", f"id{mark}text\n7{mark}Some text.\n")
    with pytest.raises(DataError, match=r"commas separate the columns of a .csv file") as error:
        read(path)
    assert advice in str(error.value)

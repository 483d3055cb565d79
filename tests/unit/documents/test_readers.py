"""Files become documents, and every skipped part has a note."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import docx
import pypdf
import pytest
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from rag.documents.folder import Document, Folder, read_folder
from rag.errors import InvalidRequest


def folder_of(tmp_path: Path, **files: str | bytes) -> Folder:
    """Read a folder with these files; in a name, __ stands for a slash and the last _ for a dot."""
    for name, content in files.items():
        path = tmp_path / ".".join(name.replace("__", "/").rsplit("_", maxsplit=1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_folder(tmp_path)


def only(folder: Folder) -> Document:
    (document,) = folder.documents
    return document


def test_a_markdown_title_is_the_first_heading_and_is_removed_from_the_text(tmp_path: Path) -> None:
    document = only(folder_of(tmp_path, a_md="Preface.\n\n# The title #\n\nBody of it.\n\n# Another\n"))
    assert (document.title, document.text) == ("The title", "Preface.\n\n\n\nBody of it.\n\n# Another")


def test_a_markdown_file_without_a_heading_is_titled_by_its_name(tmp_path: Path) -> None:
    assert only(folder_of(tmp_path, notes_md="## Only a subheading\n\ntext")).title == "notes"


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("A title\n\nThe text.", "A title"),
        ("A line\nand the next.", "file"),
        ("One line only.", "file"),
        (f"{'A paragraph is no title. ' * 8}\n\nMore.", "file"),
    ],
)
def test_a_text_title_is_the_first_line_if_a_blank_line_follows(tmp_path: Path, content: str, title: str) -> None:
    assert only(folder_of(tmp_path, file_txt=content)).title == title


def test_every_json_line_is_a_document_with_its_scalars_as_metadata(tmp_path: Path) -> None:
    lines = [
        {"id": "x1", "title": "One", "text": "First text.", "year": 2020, "draft": False, "weight": 1.5, "note": None},
        {"text": "Second text."},
    ]
    folder = folder_of(tmp_path, sub__d_jsonl="\n".join(map(json.dumps, lines)) + "\n\n")
    first, second = folder.documents
    assert (first.id, first.title, first.text) == ("x1", "One", "First text.")
    assert first.metadata == {
        "year": 2020, "draft": False, "weight": 1.5, "language": "en", "source": "sub/d.jsonl", "folder": "sub",
    }  # fmt: skip
    assert (second.id, second.title) == ("sub/d.jsonl:2", "d")
    assert folder.notes == []


def test_metadata_always_have_source_folder_and_language(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        pt__a_md="# Capital\n\nBrasília é a capital do Brasil desde 1960.",
        b_txt="Brasília has been the capital of Brazil since 1960.",
    )
    assert [document.metadata for document in folder.documents] == [
        {"source": "b.txt", "folder": ".", "language": "en"},
        {"source": "pt/a.md", "folder": "pt", "language": "pt"},
    ]


def test_a_language_given_by_the_author_takes_precedence_over_detection(tmp_path: Path) -> None:
    line = json.dumps({"text": "pizza", "language": "en"}) + "\n" + json.dumps({"text": "casa", "language": "fr"})
    given, detected = folder_of(tmp_path, a_jsonl=line).documents
    assert given.metadata["language"] == "en"
    assert detected.metadata["language"] in ("pt", "en")


def test_unreadable_parts_are_noted_with_file_and_line_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        good_txt="Fine.",
        empty_txt=" \n",
        heading_md="# Only a heading\n",
        latin_txt="linha um\nmaçã".encode("latin-1"),
        table_xlsx=b"PK",
        d_jsonl=b'{"text": "ok", "tags": ["a"]}\n{"text": 3}\n[1]\n{"text"\n{"text": "\xff"}\n{"text": "n", "x": NaN}',
    )
    assert [document.id for document in folder.documents] == ["d.jsonl:1", "d.jsonl:6", "good.txt"]
    places = [(note.source, note.line) for note in folder.notes]
    assert places == [
        ("d.jsonl", 1), ("d.jsonl", 2), ("d.jsonl", 3), ("d.jsonl", 4), ("d.jsonl", 5), ("d.jsonl", 6),
        ("empty.txt", None), ("heading.md", None), ("latin.txt", 2), ("table.xlsx", None),
    ]  # fmt: skip
    notes = {str(note) for note in folder.notes}
    assert "d.jsonl:1: the field 'tags' is skipped: list is not a scalar" in notes
    assert "latin.txt:2: is not UTF-8: byte 0xe7" in notes
    assert any(note.startswith("table.xlsx: files of the type .xlsx aren't read") for note in notes)


def test_json_nested_too_deeply_is_noted_like_any_invalid_line(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, deep_jsonl="[" * 100_000)
    assert folder.documents == []
    assert len(folder.notes) == 1


def test_a_duplicate_id_is_noted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a_jsonl='{"id": 1, "text": "one"}\n{"id": "1", "text": "two"}\n')
    assert [document.text for document in folder.documents] == ["one"]
    assert str(folder.notes[0]) == "1: duplicate id, already used by a.jsonl"


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config.txt").write_text("no document")
    (tmp_path / ".DS_Store").write_bytes(b"\x00")
    assert read_folder(tmp_path) == Folder()


def test_a_byte_order_mark_and_carriage_returns_are_removed(tmp_path: Path) -> None:
    document = only(folder_of(tmp_path, a_txt=b"\xef\xbb\xbfTitle\r\n\r\nText\r\nhere."))
    assert (document.title, document.text) == ("Title", "Text\nhere.")


def test_a_long_title_is_truncated_after_a_word(tmp_path: Path) -> None:
    title = only(folder_of(tmp_path, a_md=f"# {'palavra ' * 50}\n\ntexto")).title
    assert len(title) <= 121
    assert title.endswith("palavra…")


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="nowhere is not a folder"):
        read_folder(tmp_path / "nowhere")


def test_an_html_page_is_its_main_part_without_navigation_and_scripts(tmp_path: Path) -> None:
    page = """<!doctype html><html lang="pt-BR"><head><meta charset="iso-8859-1"><title>Prazo de
      devolução</title><style>p {color: red}</style></head><body><nav>Menu</nav><main><h1>Devolução</h1>
      <p>O prazo é de <b>30</b> dias<br>corridos.</p><ul><li>um</li><li>dois</li></ul>
      <table><tr><th>Item</th><th>Dias</th></tr><tr><td>Livro</td><td>7</td></tr></table>
      <script>alert(1)</script></main><footer>Rodapé</footer></body></html>"""
    document = only(folder_of(tmp_path, a_html=page.encode("latin-1")))
    assert document.title == "Prazo de devolução"
    assert document.text == ("Devolução\n\nO prazo é de 30 dias\ncorridos.\n\num\n\ndois\n\nItem | Dias\n\nLivro | 7")
    assert document.metadata["language"] == "pt"


def test_an_html_page_without_a_title_takes_its_heading(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a_htm="<body><h1>Only <i>this</i></h1><p>The text.</p>", b_html="<nav>x</nav>")
    assert only(folder).title == "Only this"
    assert [str(note) for note in folder.notes] == ["b.html: has no text"]


def test_a_pdf_gives_one_document_per_page_and_notes_scanned_pages(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a_pdf=pdf_of("Prazo", "O prazo de devolu-", "ção é de 30 dias."), sub__b_pdf=pdf_of())
    (page,) = folder.documents
    assert (page.id, page.title, page.text) == ("a.pdf:1", "a", "Prazo\nO prazo de devolução é de 30 dias.")
    assert page.metadata["page"] == 1
    assert [str(note) for note in folder.notes] == ["sub/b.pdf: no page has text: scanned pages need OCR first"]


def test_a_broken_or_password_protected_pdf_is_noted(tmp_path: Path) -> None:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(72, 72)
    writer.encrypt("secret", algorithm="RC4-128")
    locked = io.BytesIO()
    writer.write(locked)
    folder = folder_of(tmp_path, broken_pdf=b"%PDF-1.7 and nothing", locked_pdf=locked.getvalue())
    assert folder.documents == []
    assert str(folder.notes[0]).startswith("broken.pdf: is not a readable PDF")
    assert str(folder.notes[1]) == "locked.pdf: is protected by a password"


def test_a_word_document_is_its_paragraphs_and_tables_in_order(tmp_path: Path) -> None:
    word = docx.Document()
    word.add_heading("Prazos", level=1)
    word.add_paragraph("Antes da tabela.")
    table = word.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "Livro", "7 dias"
    word.add_paragraph("Depois dela.")
    content = io.BytesIO()
    word.save(content)
    folder = folder_of(tmp_path, a_docx=content.getvalue(), b_docx=b"PK no zip")
    assert (only(folder).title, only(folder).text) == ("Prazos", "Antes da tabela.\n\nLivro | 7 dias\n\nDepois dela.")
    assert str(folder.notes[0]).startswith("b.docx: is not a readable Word document")


def test_rows_of_csv_with_a_text_column_are_documents_with_metadata(tmp_path: Path) -> None:
    table = 'id;title;text;year\nx;Um;"Primeira linha\nsegunda; linha";2020\n;;Outra.;\n\nshort;row\nz;No text;;1999\n'
    folder = folder_of(tmp_path, a_csv=table)
    first, second = folder.documents
    assert (first.id, first.title, first.text) == ("x", "Um", "Primeira linha\nsegunda; linha")
    assert first.metadata["year"] == "2020"
    assert (second.id, second.title, "year" in second.metadata) == ("a.csv:4", "a", False)
    assert [str(note) for note in folder.notes] == [
        "a.csv:6: has 2 cells under 4 columns", 'a.csv:7: has no "text"',
    ]  # fmt: skip


def test_rows_of_other_csv_files_are_lines_of_column_and_value(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a_csv="produto,prazo\nLivro,7 dias\nCaneta,\n", b_csv='x,y\n"open', c_csv="only\n")
    assert [document.text for document in folder.documents] == ["produto: Livro\nprazo: 7 dias", "produto: Caneta"]
    assert [note.source for note in folder.notes] == ["b.csv", "c.csv"]
    assert "is not valid CSV" in folder.notes[0].reason


def test_a_missing_library_is_named_with_its_requirements_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(InvalidRequest, match="needs the package pypdf") as raised:
        folder_of(tmp_path, a_pdf=b"%PDF")
    assert ".[documents]" in (raised.value.remedy or "")


def pdf_of(*lines: str) -> bytes:
    """A PDF of one page with these lines; without any, the page is blank."""
    writer = pypdf.PdfWriter()
    page = writer.add_blank_page(300, 200)
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
            NameObject("/Encoding"): NameObject("/WinAnsiEncoding"),
        }
    )
    fonts = DictionaryObject({NameObject("/F1"): font})
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    shown = b"".join(b"(" + line.encode("cp1252") + b") Tj 0 -20 Td " for line in lines)
    stream = DecodedStreamObject()
    stream.set_data(b"BT /F1 12 Tf 20 150 Td " + shown + b"ET")
    page[NameObject("/Contents")] = stream
    content = io.BytesIO()
    writer.write(content)
    return content.getvalue()

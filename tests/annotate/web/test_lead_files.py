"""Import by upload and export by download, over HTTP."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_client import NOW, Site, answer, make_items, serving

from equipoise.annotate.store import journal

PAIRS = "".join(
    json.dumps(
        {
            "prompt": f"question {number}",
            "response_0": "one",
            "response_1": "two",
            "is_response_0_safe": True,
            "is_response_1_safe": False,
            "better_response_id": 1,
            "safer_response_id": 0,
        }
    )
    + "\n"
    for number in range(3)
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path / "project") as site:
        yield site


def upload(site: Site, name: str, content: str, **fields: str) -> str:
    lena = site.browser("Lena")
    form = {"csrf": lena.token("/lead/files"), **fields}
    return lena.post("/lead/import", data=form, files={"file": (name, content.encode())}).text


def test_an_upload_becomes_items_and_a_second_one_changes_nothing(site: Site) -> None:
    assert "3 rows: 3 items added, 0 were there" in upload(site, "pairs.jsonl", PAIRS)
    assert "3 rows: 0 items added, 3 were there" in upload(site, "pairs.jsonl", PAIRS)
    with site.store() as store:
        assert len(list(store.items())) == 3
        assert [one.who for one in journal.entries(store, what="import")] == ["Lena", "Lena"]
    assert "0 of 6 answers" in " ".join(
        site.browser("Lena").get("/lead/progress").text.replace("</strong>", "").split()
    )


@pytest.mark.parametrize(
    "name", ("../../escaped.jsonl", "..", "/etc/pairs.jsonl", "a/../../b.jsonl", "\x00.jsonl", "é" * 300)
)
def test_an_uploads_name_leads_nowhere_else(site: Site, name: str) -> None:
    before = set(site.path.parent.rglob("*"))
    upload(site, name, PAIRS)
    new = [
        path for path in set(site.path.parent.rglob("*")) - before if path.is_file() and "sqlite" not in path.name
    ]
    assert all(path.parent.parent == site.path / "uploads" for path in new)
    assert not (site.path.parent / "escaped.jsonl").exists()


def test_a_file_of_no_use_is_refused_in_words_and_not_kept(site: Site) -> None:
    page = upload(site, "notes.txt", "these are no labels")
    assert 'role="alert"' in page and "Traceback" not in page
    assert list((site.path / "uploads").glob("*")) == []
    with site.store() as store:
        assert not list(store.items()) and not journal.entries(store, what="import")
    lena = site.browser("Lena")
    assert lena.post("/lead/import", data={"csrf": lena.token("/lead/files")}).status_code == 400


def test_an_uploaded_mapping_opens_no_file_of_the_server(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"id": "1", "prompt": "a secret", "response_0": "one", "response_1": "two"}\n')
    lines = '{"id": "1", "label_annotations": {"helpfulness": {"selection": "A"}}}\n'
    lena = site.browser("Lena")
    files = {
        "file": ("annotated_instances.jsonl", lines.encode()),
        "mapping": ("map.toml", f"items = {str(secret)!r}".encode()),
    }
    page = lena.post("/lead/import", data={"csrf": lena.token("/lead/files")}, files=files)
    assert page.status_code == 400 and "command line" in page.text
    assert list((site.path / "uploads").glob("*")) == []
    with site.store() as store:
        assert list(store.items()) == []


def test_a_refused_upload_leaves_the_files_of_earlier_ones(site: Site) -> None:
    upload(site, "pairs.jsonl", PAIRS)
    kept = sorted((site.path / "uploads").rglob("*"))
    lena = site.browser("Lena")
    both = [("file", ("pairs.jsonl", PAIRS.encode())), ("file", ("notes.txt", b"these are no labels"))]
    assert lena.post("/lead/import", data={"csrf": lena.token("/lead/files")}, files=both).status_code == 400
    assert kept and sorted((site.path / "uploads").rglob("*")) == kept


def test_the_export_holds_the_labels_and_no_names(site: Site) -> None:
    with site.store() as store:
        store.add_items(make_items("first", "second"))
        for name in ("Ann", "Bob"):
            answer(store, name, (True, False), (1, 0), NOW)
    lena = site.browser("Lena")
    options = {"method": "majority", "pku_file": "jsonl", "pku_schema": "auto"}
    response = lena.submit("/lead/export", "/lead/files", **options)
    assert response.status_code == 200 and "labels.zip" in response.headers["content-disposition"]
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    pair, _ = [json.loads(line) for line in archive.read("pairs.jsonl").splitlines()]
    assert (pair["more_helpful"], pair["safer"], pair["is_safe"]) == (1, 0, [True, False])
    assert b"Ann" not in b"".join(archive.read(name) for name in archive.namelist())
    named = lena.submit("/lead/export", "/lead/files", names="1", **options)
    archive = zipfile.ZipFile(io.BytesIO(named.content))
    assert b"Ann" in archive.read("labels.jsonl")
    for wrong in ({"pku_file": "../x"}, {"pku_schema": "x"}, {"method": "guess"}):
        assert lena.submit("/lead/export", "/lead/files", **{**options, **wrong}).status_code == 400

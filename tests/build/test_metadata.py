"""What a package index and a repository's host show: versions, URLs, the description, forms for issues."""

import re

import pytest

import fastgan
from tests.build.test_cuda_build import load
from tests.helpers import ROOT

metadata = load(ROOT / "csrc" / "tools" / "metadata.py")
URL = "https://example.org/someone/fastgan"


def test_one_version_everywhere():
    version = fastgan.__version__
    changelog = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    citation = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
    readme = re.search(r"\*\*Status of ([\d.]*\d)", (ROOT / "README.md").read_text())[1]
    assert [changelog[0], citation, readme] == [version] * 3


def test_the_description_has_links_that_work_elsewhere():
    text = metadata.description((ROOT / "README.md").read_text(), URL, "1.2.3")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    for target in targets:
        found = re.fullmatch(rf"{URL}/(blob|raw)/v1\.2\.3/([^#]+)(#.*)?", target)
        assert found, target
        assert (ROOT / found[2]).exists(), target
    assert f"]({URL}/raw/v1.2.3/docs/samples.png)" in text


def test_without_a_repository_nothing_is_invented():
    readme = (ROOT / "README.md").read_text()
    assert metadata.description(readme, "", "1.2.3") == readme
    assert metadata.urls("") == {}


@pytest.fixture
def no_github(monkeypatch):
    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)


def test_urls_of_a_workflow(monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://example.org")
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/fastgan")
    assert metadata.repository(tmp_path) == URL
    assert all(url.startswith(URL) for url in metadata.urls(URL).values())


@pytest.mark.parametrize(
    ("origin", "url"),
    [
        ("https://example.org/someone/fastgan.git", URL),
        ("https://user:secret@example.org/someone/fastgan", URL),  # a token is not published
        ("git@example.org:someone/fastgan.git", URL),
        ("ssh://git@example.org/someone/fastgan/", URL),
        ("ssh://git@example.org:2222/someone/fastgan.git", ""),  # nobody knows the port of https
        ("https://example.org:8443/someone/fastgan.git", URL.replace(".org", ".org:8443")),
        ("/home/someone/fastgan", ""),
        ("file:///home/someone/fastgan", ""),
    ],
)
def test_urls_of_a_clone(no_github, tmp_path, origin, url):
    (tmp_path / ".git").mkdir()
    for name, text in {
        "HEAD": "ref: refs/heads/main\n",
        "config": f'[remote "origin"]\n\turl = {origin}\n',
    }.items():
        (tmp_path / ".git" / name).write_text(text)
    for name in ("objects", "refs"):
        (tmp_path / ".git" / name).mkdir()
    assert metadata.repository(tmp_path) == url


def test_urls_of_an_sdist(no_github, tmp_path):
    assert metadata.repository(tmp_path) == ""
    (tmp_path / "PKG-INFO").write_text(
        f"Name: fastgan\nProject-URL: Issues, {URL}/issues\nProject-URL: Repository, {URL}\n\nText"
    )
    assert metadata.repository(tmp_path) == URL


def test_forms_for_issues():
    yaml = pytest.importorskip("yaml")
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 5
    for path in forms:
        form = yaml.safe_load(path.read_text())
        if path.stem != "config":
            assert {"name", "description", "body"} <= set(form)
            assert all({"type", "attributes"} <= set(part) and part["attributes"]["label"] for part in form["body"])
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version"} <= set(citation)

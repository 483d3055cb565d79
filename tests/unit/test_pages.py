"""The pages: every command, link, path, module, setting and example in them names something that exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import sizing
from deploy.cli_options import build_parser
from rag.serving.requests import parse_json
from rag.settings import Settings, table

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").glob("*/README.md")])
PACKAGES = ("benchmarks", "capacity", "deploy", "microservices", "notebooks", "rag", "rag_client", "training")
MAPPED = ("capacity", "deploy", "microservices", "rag", "rag_client")  # every module stands in ARCHITECTURE.md
OTHER_PROGRAMS = {"curl", "docker", "grep", "source"}
PYTHONS = {"python", "python3", ".venv/bin/python"}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCED.findall(text_of(page)) if name == language]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in the page's sh blocks, without comments."""
    for block in blocks(page, "sh"):
        plain = re.sub(r"(^|\s)# .*$", "", block.replace("\\\n", " "), flags=re.MULTILINE)
        words = shlex.shlex(plain, posix=True, punctuation_chars="|&;\n")
        words.whitespace, words.commenters, words.whitespace_split = " \t", "", True
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("|&;\n"):
                if command:
                    yield command
                command = []
            else:
                command.append(word)


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", text_of(page)))


@cache
def make_targets() -> frozenset[str]:
    rules = text_of(ROOT / "Makefile") + text_of(ROOT / "deploy/deploy.mk")
    return frozenset(re.findall(r"^([a-z-]+):", rules, re.MULTILINE))


@cache
def variables() -> frozenset[str]:
    """Names of settings, of the Makefiles' variables, and of what notebooks, tests and SageMaker read."""
    readers = [ROOT / "Makefile", ROOT / "deploy/deploy.mk", ROOT / "tests/contract/conftest.py"]
    readers += [
        path
        for folder in ("deploy", "examples", "notebooks", "microservices", "rag")
        for path in (ROOT / folder).rglob("*.py")
    ]
    named = {name for path in readers for name in re.findall(r"[A-Z][A-Z_]*", text_of(path))}
    return frozenset(named | {name.upper() for name in Settings.model_fields})


@cache
def extras() -> frozenset[str]:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    return frozenset(project.get("optional-dependencies", {}))


@cache
def files() -> frozenset[str]:
    """The project's files, without what is built or installed into it."""
    tops = [top for top in ROOT.iterdir() if top.name not in {".git", "build"} and not top.name.startswith(".venv")]
    paths = [path for top in tops for path in (top, *top.rglob("*")) if path.is_file()]
    return frozenset(path.relative_to(ROOT).as_posix() for path in paths)


def check_module(name: str) -> None:
    assert importlib.util.find_spec(name) is not None, f"there is no module {name}"


def check_make(words: list[str]) -> None:
    for word in words:
        name, is_variable, _ = word.partition("=")
        assert name in (variables() if is_variable else make_targets()), f"make {word}"


def check_python(words: list[str]) -> None:
    match words:
        case ["-c", code]:
            compile(code, "-c", "exec")
        case ["-m", "deploy", *options]:
            build_parser().parse_args(options)
        case ["-m", "pytest", *options]:
            paths = [option for option in options if "/" in option]
            assert paths
            assert all((ROOT / path).exists() for path in paths), paths
        case ["-m", "pip", *options]:
            check_pip(options)
        case ["-m", module, *_]:
            check_module(module)
        case ["sizing.py", "calibrate", *options]:
            sizing.build_parser().parse_args(["calibrate", *options])
        case ["sizing.py", *options]:
            assert sizing.main(options) in (0, 3), options
        case [script, *_]:
            assert script in files(), f"there is no {script}"


def check_pip(words: list[str]) -> None:
    assert words[0] == "install", words
    for word in words[1:]:
        wanted = re.fullmatch(r"\.\[([\w,-]+)\]", word)
        assert wanted, f"pip install {word}"
        assert set(wanted[1].split(",")) <= extras(), f"pip install {word}"


def check_body(words: list[str]) -> None:
    """The body that curl sends is a request that the server reads."""
    if "Content-Type: application/json" in words:
        parse_json(words[words.index("-d") + 1].encode(), default_new_tokens=64)


@each_page
def test_every_command_names_what_exists(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # reports are written there
    for program, *words in commands(page):
        if "=" in program or program == "export":
            settings = [word for word in (program, *words) if re.match(r"[A-Z_]+=", word)]
            assert {setting.split("=")[0] for setting in settings} <= variables(), settings
            rest = [word for word in (program, *words) if word not in ("export", *settings)]
            if not rest:
                continue
            program, *words = rest  # noqa: PLW2901 - the command behind its environment
        if program == "make":
            check_make(words)
        elif program in PYTHONS:
            check_python(words)
        elif program == "pip":
            check_pip(words)
        elif program == "curl":
            check_body(words)
        else:
            assert program in OTHER_PROGRAMS or program in files(), program


@each_page
def test_every_module_and_target_in_a_sentence_exists(page: Path) -> None:
    for code in inline_code(page):
        for module in re.findall(r"\bpython3? -m ([\w.]+)", code):
            check_module(module)
        if target := re.match(r"make ([a-z-]+)", code):
            assert target[1] in make_targets(), code
        if re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", code):
            parts = code.split(".")
            found = [code, ".".join(parts[:-1])]  # a module, or a name in one
            assert any((ROOT / f"{name.replace('.', '/')}{end}").exists() for name in found for end in ("", ".py")), (
                code
            )


@each_page
def test_every_setting_in_a_sentence_exists(page: Path) -> None:
    for code in inline_code(page):
        if setting := re.fullmatch(r"([A-Z][A-Z]*(?:_[A-Z]+)+)(=.*)?", code):
            assert setting[1] in variables(), code


@each_page
def test_every_path_exists(page: Path) -> None:
    names = {Path(name).name for name in files()}
    tops = {name.partition("/")[0] for name in files()}
    for code in inline_code(page):
        if re.fullmatch(r"[\w.-]+\.(py|md|mk|sh|toml|cfg)", code):
            assert code in names, code
        elif re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?|[\w-]+/", code) and code.partition("/")[0] in tops:
            assert (ROOT / code).exists(), code


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", text_of(page)))


@each_page
def test_every_link_and_anchor_resolves(page: Path) -> None:
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@each_page
def test_every_python_example_compiles_and_its_imports_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_the_readme_is_one_or_two_screens() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 100


@pytest.mark.parametrize(
    ("english", "portuguese"),
    [
        ("README.md", "README.pt-BR.md"),
        ("docs/requests.md", "docs/pt-BR/requests.md"),
        ("docs/deploy.md", "docs/pt-BR/deploy.md"),
    ],
)
def test_a_page_says_the_same_in_portuguese(english: str, portuguese: str) -> None:
    def content(name: str) -> dict[str, object]:
        page = ROOT / name
        targets = {(page.parent / link.partition("#")[0]).resolve().name for link in links(page) if link[0] != "#"}
        return {
            "commands": list(commands(page)),
            "headings": re.findall(r"^#+ ", text_of(page), re.MULTILINE),
            "rows": [row.count("|") for row in re.findall(r"^\|.*", text_of(page), re.MULTILINE)],
            "fields": sorted(code for code in inline_code(page) if re.fullmatch(r"[\w./:-]+", code)),
            "links": sorted(targets - {Path(english).name, Path(portuguese).name}),
        }

    assert content(portuguese) == content(english)


def test_every_setting_stands_in_the_settings_page() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? \| (.*) \|$", text_of(ROOT / "docs/settings.md"), re.MULTILINE)
    assert rows == table()
    assert len(rows) == len(Settings.model_fields)


def test_every_extra_stands_in_contributing() -> None:
    assert set(re.findall(r"^\| `([\w-]+)` \|", text_of(ROOT / "CONTRIBUTING.md"), re.MULTILINE)) == extras()


def test_the_map_names_every_module_and_no_other() -> None:
    rows = re.findall(r"^\| `([\w/]+/)` \|.*\| (.*) \|$", text_of(ROOT / "ARCHITECTURE.md"), re.MULTILINE)
    mapped = {folder: set(re.findall(r"`(\w+)`", modules)) for folder, modules in rows}
    for package in MAPPED:
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
            modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
            assert mapped.get(f"{folder.relative_to(ROOT)}/") == modules, f"ARCHITECTURE.md: {folder}"


def test_every_decision_is_dated_and_in_the_index() -> None:
    records = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    index = text_of(ROOT / "docs/adr/README.md")
    for number, record in enumerate(records, start=1):
        title, date, status = re.findall(r"^# \d+\. (.+)\n\nDate: ([\d-]+)\. Status: (.+)\.$", text_of(record), re.M)[0]
        assert f"| [{number}]({record.name}) | {title} | {date} | {status} |" in index
        assert re.findall(r"^## (.+)$", text_of(record), re.M) == ["Context", "Decision", "Consequences"], record.name

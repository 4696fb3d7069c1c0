"""Pages name files, verbs and rules that are there."""

import re
from itertools import chain
from pathlib import Path

import pytest

from holdfast.cli.app import VERBS

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "docs/format.md"]
PAGES += sorted((ROOT / "docs/design").glob("*.md"))
GUIDES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs/guides").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_files_named_are_there(page):
    for name in re.findall(r"`((?:[\w.]+/)*\w+\.py)`", page.read_text()):
        likely = (ROOT / name, ROOT / "src/holdfast" / name)
        places = chain(likely, (ROOT / "src").rglob(name), (ROOT / "tests").rglob(name))
        assert any(place.exists() for place in places) or "NAME" in name, name


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.stem)
def test_verbs_named_are_there(page):
    used = set(re.findall(r"(?:^|`|\$ |; )holdfast ([a-z]+(?:-[a-z]+)*)\b", page.read_text(), re.MULTILINE))
    assert used <= {*VERBS, "keeps"}


def test_the_changelog_names_every_verb():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert [verb for verb in VERBS if f"`{verb}`" not in text] == []


def test_every_error_kind_has_a_row():
    from holdfast import errors

    text = (ROOT / "docs/guides/when-things-break.md").read_text()
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, errors.HoldfastError):
            assert f"| `{value.kind}` | {value.exit_code} | `{value.__name__}` |" in text


def test_every_fault_has_a_row():
    from holdfast.drill.faults.registry import FAULTS

    text = (ROOT / "docs/guides/running.md").read_text()
    assert [name for name in FAULTS if f"| `{name}` |" not in text] == []


def test_the_rooms_of_the_house_are_those_that_are_there():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = {p.name for p in (ROOT / "src/holdfast").iterdir() if (p / "__init__.py").exists()}
    assert set(re.findall(r"^  (\w+)/ ", text, re.MULTILINE)) == rooms


def test_design_notes_are_numbered_without_gaps():
    numbers = [int(p.name[:3]) for p in sorted((ROOT / "docs/design").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))

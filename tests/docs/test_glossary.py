"""Every term that a page or a docstring points at is in the glossary, and the file that the glossary names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
TERMS = re.findall(r"^### (.+)$", GLOSSARY, re.MULTILINE)
ANCHORS = {term.lower().replace(" ", "-") for term in TERMS}
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")


@pytest.mark.parametrize("page", PAGES[:2])
def test_a_page_links_to_the_glossary(page: str) -> None:
    assert "docs/glossary.md#" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_every_linked_term_is_defined(page: str) -> None:
    linked = re.findall(r"docs/glossary\.md#([\w-]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert sorted(set(linked) - ANCHORS) == []


def test_the_terms_that_the_adapter_interface_names_are_defined() -> None:
    text = (ROOT / "src" / "anybroker" / "adapter.py").read_text(encoding="utf-8")
    named = re.search(r"``docs/glossary\.md`` defines the words used here: ([\w, ]+)\.", text)
    assert named is not None
    assert sorted(set(named[1].split(", ")) - ANCHORS) == []


def test_every_term_names_an_existing_file() -> None:
    entries = re.split(r"^### .+$", GLOSSARY, flags=re.MULTILINE)[1:]
    assert len(entries) == len(TERMS) == len(ANCHORS)
    for term, entry in zip(TERMS, entries, strict=True):
        places = re.findall(r"`(src/[\w/.]+)`", entry)
        assert places, f"{term}: no file"
        assert [place for place in places if not (ROOT / place).exists()] == [], term

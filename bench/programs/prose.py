# SPDX-License-Identifier: Apache-2.0
"""English text for programs to work on, the same on every machine with the same Python: its manual."""

from pydoc_data.topics import topics


def articles() -> dict[str, list[str]]:
    """Title → paragraphs."""
    return {title: [part for part in text.split("\n\n") if part.strip()] for title, text in sorted(topics.items())}


def lines() -> list[str]:
    """The paragraphs, each on one line."""
    return [" ".join(paragraph.split()) for paragraphs in articles().values() for paragraph in paragraphs]


def words() -> list[str]:
    """Distinct ones, in the order in which they come first."""
    seen: dict[str, None] = {}
    for paragraphs in articles().values():
        for paragraph in paragraphs:
            seen |= dict.fromkeys(word for word in paragraph.split() if word.isalpha())
    return list(seen)

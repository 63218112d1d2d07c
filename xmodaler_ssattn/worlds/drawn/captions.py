"""A sentence with marked phrases, as Flickr30k Entities writes it."""

from __future__ import annotations

from dataclasses import dataclass

from xmodaler_ssattn.data.official_writer import marked

NOT_VISUAL = 0  # the chain of phrases that belong to no object


@dataclass(frozen=True)
class Phrase:
    """Words that name something: its coreference chain and its entity type."""

    words: str
    chain: int
    entity_type: str


@dataclass(frozen=True)
class Caption:
    """One sentence: plain words and phrases in order, without the capital letter and the full stop."""

    parts: tuple[str | Phrase, ...]

    @property
    def phrases(self) -> tuple[Phrase, ...]:
        return tuple(part for part in self.parts if isinstance(part, Phrase))

    def text(self) -> str:
        """The sentence without markup: 'A red ball on the beach .'"""
        return self._join(lambda phrase, words: words)

    def markup(self) -> str:
        """The sentence with markup: '[/EN#3/other A red ball] on [/EN#9/scene the beach] .'"""
        return self._join(lambda phrase, words: marked(words, phrase.chain, phrase.entity_type))

    def _join(self, write) -> str:
        written = []
        for number, part in enumerate(self.parts):
            words = part.words if isinstance(part, Phrase) else part
            words = words if number else words[0].upper() + words[1:]
            written.append(write(part, words) if isinstance(part, Phrase) else words)
        return " ".join([*written, "."])

"""Penn Treebank tokens, as the published caption scores use them, through pycocoevalcap's tokeniser jar.

Two differences from ``pycocoevalcap.tokenizer``: nothing is written into the package's folder, and each caption is
followed by a line "A". To decide whether a final full stop belongs to an abbreviation ("the letter P."), the tokeniser
checks whether the next line begins with a capital letter, so its answer depends on the next caption. With the line "A"
the tokens of a caption are always the same, those before a capital letter, and can be cached. Of all 155,070 captions
of Flickr30k, the tokens of 3 differ from pycocoevalcap's, by such a full stop.
"""

from __future__ import annotations

from collections.abc import Iterable

from xmodaler_ssattn.evaluation.java import JavaError, run_java, tokenizer_jar

TIME_LIMIT_S = 600.0
_NEXT_LINE = "A"


def one_line(caption: str) -> str:
    """The caption with every line break (carriage return, form feed, U+0085, U+2028, ...) and NUL turned into a space.

    A line break inside a caption would shift the tokeniser's lines and give every later caption the wrong tokens.
    """
    return " ".join(caption.replace("\0", " ").splitlines())


class PtbTokenizer:
    """caption -> tokens, lower-cased, without punctuation, joined by spaces; answers are cached."""

    def __init__(self, time_limit_s: float = TIME_LIMIT_S) -> None:
        self.time_limit_s = time_limit_s
        self._known: dict[str, str] = {}

    def tokenize(self, captions: Iterable[str]) -> list[str]:
        """Tokens of each caption, in order; one Java start for all captions not seen before.

        Raises JavaError: no Java, or the tokeniser died, took too long or answered with another number of lines.
        """
        captions = [one_line(caption) for caption in captions]
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        if new:
            self._known.update(zip(new, self._run(new)))
        return [self._known[caption] for caption in captions]

    def _run(self, captions: list[str]) -> list[str]:
        from pycocoevalcap.tokenizer import ptbtokenizer as official

        text = "".join(f"{caption}\n{_NEXT_LINE}\n" for caption in captions)
        program = ["-cp", str(tokenizer_jar()), "edu.stanford.nlp.process.PTBTokenizer"]
        arguments = ["-XX:+UseSerialGC", *program, "-preserveLines", "-lowerCase"]
        output = run_java(arguments, what="The PTB tokeniser", time_limit_s=self.time_limit_s, stdin=text)
        # Counted from the end: if java is a script, it may print something before the program answers.
        lines = output.split("\n")[-2 * len(captions) - 1 :]
        if len(lines) != 2 * len(captions) + 1 or {line.strip() for line in lines[1::2]} != {_NEXT_LINE.lower()}:
            raise JavaError(f"The PTB tokeniser did not return one line for each of {len(captions)} captions.")
        punctuation = set(official.PUNCTUATIONS)
        return [" ".join(w for w in line.rstrip().split(" ") if w not in punctuation) for line in lines[:-1:2]]

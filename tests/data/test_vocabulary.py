"""The vocabulary rule: more than three times, in order of first occurrence, UNK last."""

from collections import Counter

import pytest

from data.entities_generator import WORD, real_captions, shared_data
from xmodaler_ssattn.data.entities import token_of
from xmodaler_ssattn.data.vocabulary import Vocabulary, build_vocabulary, read_vocabulary, write_vocabulary
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import load_vocab


def test_words_seen_four_times_are_kept_in_order_of_first_occurrence():
    counts = Counter(["b", "a", "b", "a", "c", "b", "a", "b", "a", "c", "c", "d"])  # b 4, a 4, c 3, d 1
    vocabulary = build_vocabulary(counts)
    assert vocabulary.words == ["b", "a", "UNK"]
    assert vocabulary.encode(["a", "c", "b"]) == [2, 3, 1]
    assert vocabulary.model_size == 4  # three words and index 0


def test_the_file_has_one_word_a_line_and_the_line_is_the_index(tmp_path):
    write_vocabulary(tmp_path / "vocabulary.txt", Vocabulary(["a", "café", "UNK"]))
    assert (tmp_path / "vocabulary.txt").read_bytes() == "a\ncafé\nUNK\n".encode()
    vocabulary = read_vocabulary(tmp_path / "vocabulary.txt")
    assert vocabulary.words == ["a", "café", "UNK"] and "a" in vocabulary and "b" not in vocabulary


def test_the_host_reads_the_same_words_at_the_same_indices(tmp_path):
    write_vocabulary(tmp_path / "vocabulary.txt", Vocabulary(["a", "man", "UNK"]))
    assert list(load_vocab(str(tmp_path / "vocabulary.txt")))[1:] == ["a", "man", "UNK"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", "last word must be UNK, found 'b'"),
        ("", "is not one word|last word must be UNK"),
        ("a\n\nUNK\n", "line 2: '' is not one word"),
        ("a\nb c\nUNK\n", "line 2: 'b c' is not one word"),
        ("a\na\nUNK\n", "line 2: 'a' is duplicated; see line 1"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "vocabulary.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_vocabulary(tmp_path / "vocabulary.txt")


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match="vocabulary.txt does not exist; `xmodaler prepare annotations`"):
        read_vocabulary(tmp_path / "vocabulary.txt")


@pytest.mark.skipif(
    not (shared_data() / "flickr30k" / "captions.json.gz").is_file(),
    reason=f"no real captions in {shared_data()}; set SSATTN_TEST_DATA",
)
def test_all_real_captions_give_a_vocabulary_of_plausible_size():
    counts: Counter[str] = Counter()
    long_captions = captions = 0
    for image in real_captions().values():
        for caption in image["captions"]:
            tokens = [token for word in WORD.findall(caption) if (token := token_of(word))]
            counts.update(tokens)
            captions += 1
            long_captions += len(tokens) > 20
    # GVD's own is reported as 8,639; its tokens differ where punctuation was blanked
    assert 8600 <= len(build_vocabulary(counts)) <= 8700
    assert captions == 155070 and 0.066 < long_captions / captions < 0.068

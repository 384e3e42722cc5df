"""From texts to token ids, by the shortest way that gives those of the Hugging Face tokenizer."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from streamer import embedded
from streamer.loading.encoding import SPACE, WORDS, Encoder, cuts_at_spaces

ALPHABET = "aé字1 .'s<b>\n\t\r\u3000\u200b\u0301☕" + SPACE
TEXTS = st.text(st.sampled_from(ALPHABET), min_size=1, max_size=12) | st.text(min_size=1)

SEPARATORS = st.sampled_from([" ", "", "  ", "\n", " \n", "\u00a0", " is", "-> ", SPACE, "\t "])


def merged(alphabet: str, *merges: tuple[str, str], **settings: Any) -> models.BPE:
    """Byte pairs over characters, those of `merges` merged."""
    tokens = ["<unk>", *alphabet, *(a + b for a, b in merges)]
    vocab = {token: n for n, token in enumerate(dict.fromkeys(tokens))}
    return models.BPE(vocab, list(merges), unk_token="<unk>", fuse_unk=True, **settings)


def embedded_like(cutter: Any, normalizer: Any = None) -> Tokenizer:
    """The embedded vocabulary behind other ways of cutting text into words."""
    found = AutoTokenizer.from_pretrained(str(embedded.MODEL)).backend_tokenizer
    found.pre_tokenizer, found.normalizer = cutter, normalizer
    return found


def words_of(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def sentencepiece(*merges: tuple[str, str], **settings: Any) -> Tokenizer:
    """As Gemma's: spaces are replaced, the whole is merged."""
    known = "a1s.'" + SPACE
    found = Tokenizer(merged(known, (SPACE, SPACE), (SPACE, "a"), ("a", "s"), *merges, **settings))
    found.normalizer = normalizers.Replace(" ", SPACE)
    found.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return found


CUT = {
    "embedded": lambda: embedded_like(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    ),
    "composed": lambda: embedded_like(
        pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC()
    ),
    **{name: lambda pattern=pattern: embedded_like(words_of(pattern))
       for name, pattern in WORDS.items()},
    "sentencepiece": sentencepiece,
}  # fmt: skip
WHOLE = {
    "prefix space": lambda: embedded_like(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "no words": lambda: embedded_like(
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ),
    "another pattern": lambda: embedded_like(words_of(r"\w+ \w+|\s+|\S+")),
    "another normalizer": lambda: embedded_like(
        pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.Strip()
    ),
    "a token across words": lambda: sentencepiece(("s", SPACE)),
    "a token of a whole text": lambda: sentencepiece(ignore_merges=True),
    "random merges": lambda: sentencepiece(dropout=0.1),
}


@pytest.mark.parametrize("made", CUT.values(), ids=CUT.keys())
def test_ends_tokenized_apart_from_their_prompt_make_the_same_tokens(made):
    backend = made()
    assert cuts_at_spaces(backend)
    backend.add_special_tokens(["<b>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    encoder = Encoder(tokenizer)

    @given(TEXTS, TEXTS, TEXTS, SEPARATORS)
    def agrees(prompt, fact, hallucination, separator):
        texts = [prompt, *(prompt + separator + end for end in (fact, hallucination))]
        assert encoder.encode([texts]) == [tokenizer(texts, add_special_tokens=False)["input_ids"]]

    agrees()


@pytest.mark.parametrize("made", WHOLE.values(), ids=WHOLE.keys())
def test_where_a_space_may_be_part_of_a_token_texts_are_tokenized_whole(made):
    assert not cuts_at_spaces(made())


@pytest.mark.parametrize(
    "token", [AddedToken("<mask>", rstrip=True), AddedToken("of the"), AddedToken("of" + SPACE)]
)
def test_where_an_added_token_takes_spaces_texts_are_tokenized_whole(token):
    backend = CUT["embedded"]()
    backend.add_tokens([token])
    assert not cuts_at_spaces(backend)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    texts = ["a <mask>", "a <mask> is", "a <mask> of the"]
    assert Encoder(tokenizer).encode([texts]) == [
        tokenizer(texts, add_special_tokens=False)["input_ids"]
    ]


class Doubling(PreTrainedTokenizerFast):
    """A tokenizer whose Python has a part in the ids, on some texts only."""

    def _encode_plus(self, text: Any, *arguments: Any, **settings: Any) -> Any:
        encoded = super()._encode_plus(text, *arguments, **settings)
        for words, ids in zip(text, encoded["input_ids"], strict=True):
            if "river" in words:
                ids.extend(ids[:])
        return encoded


def test_a_tokenizer_that_encodes_in_python_is_asked_itself():
    tokenizer = Doubling(tokenizer_object=CUT["embedded"]())
    plain = PreTrainedTokenizerFast(tokenizer_object=CUT["embedded"]())
    for text, times in (("The river", 2), ("The sky", 1)):
        ((ids,),) = Encoder(tokenizer).encode([[text]])
        assert ids == times * plain(text, add_special_tokens=False)["input_ids"]


def test_neither_a_length_nor_padding_that_the_tokenizer_is_set_to_applies():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=CUT["embedded"](), pad_token="<pad>")
    encoder, texts = Encoder(tokenizer), ["The sky is", "The sky is blue"]
    before = encoder.encode([texts])
    tokenizer(texts, truncation=True, max_length=2, padding="max_length")
    assert tokenizer.backend_tokenizer.truncation and tokenizer.backend_tokenizer.padding
    assert encoder.encode([texts]) == before
    assert [len(ids) for ids in before[0]] == [3, 4]

"""Tokenizers built straight from a GGUF file's metadata, so that ids equal those of llama.cpp.

The law: a vocabulary whose splitting rule is not known here is refused; a nearly right tokenizer would give
a model that answers nonsense. Compared with a real llama.cpp server in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from llama_gossip.errors import ModelUnavailable

from .gguf_reader import Value

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # ggml's token types
MAX_TOKENS: Final = 1 << 20  # the largest vocabularies in use have 262 144
METASPACE: Final = "▁"  # what sentencepiece writes for a space

LLAMA3_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_NAMES: Final = ("llama-bpe", "llama3", "llama-v3")


def build_tokenizer(metadata: Mapping[str, Value]) -> Tokenizer:
    """Raises ModelUnavailable where the file has no vocabulary, or one of a kind that is not known here."""
    tokens = _texts(metadata, "tokenizer.ggml.tokens")
    if not tokens or len(tokens) > MAX_TOKENS:
        raise _refused("it has no vocabulary" if not tokens else f"its vocabulary has {len(tokens)} tokens")
    if len(set(tokens)) != len(tokens):
        raise _refused("a token stands in its vocabulary twice")
    match metadata.get("tokenizer.ggml.model"):
        case "gpt2":
            made = _byte_level(metadata, tokens)
        case "llama":
            made = _sentencepiece(metadata, tokens)
        case other:
            raise _refused(f"its vocabulary is of kind {other!r}")
    _add_special(made, metadata, tokens)
    return made


def _byte_level(metadata: Mapping[str, Value], tokens: list[str]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    merges = [_pair(merge) for merge in _texts(metadata, "tokenizer.ggml.merges")]
    name = metadata.get("tokenizer.ggml.pre")
    ignore_merges = name in LLAMA3_NAMES  # a word that is a token stays whole
    made = Tokenizer(_bpe(models, tokens, merges, ignore_merges=ignore_merges))
    steps: list[Any]
    match name:
        case "smollm":
            steps = [pre_tokenizers.Digits(individual_digits=True), _gpt2_words(pre_tokenizers)]
        case "gpt-2":
            steps = [_gpt2_words(pre_tokenizers)]
        case _ if name in LLAMA3_NAMES:
            split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
            steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        case _:
            raise _refused(f"its text is split by the rule {name!r}")
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    return made


def _gpt2_words(pre_tokenizers: Any) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _sentencepiece(metadata: Mapping[str, Value], tokens: list[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise _refused("its vocabulary has no scores")
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    merges = _merges_of_scores(tokens, [float(score) for score in scores])
    made = Tokenizer(
        _bpe(
            models,
            tokens,
            merges,
            unk_token=tokens[_index(unknown, tokens)],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces = normalizers.Replace(" ", METASPACE)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(METASPACE), spaces] if prefix else [spaces])
    steps: list[Any] = [decoders.Replace(METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    made.decoder = decoders.Sequence(steps)
    return made


def _merges_of_scores(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Sentencepiece joins the neighbours whose union scores best: as ranked pairs, best union first."""
    known = set(tokens)
    ranked = sorted(
        range(len(tokens)), key=lambda index: -scores[index]
    )  # stable: ties keep vocabulary order
    return [
        (tokens[index][:cut], tokens[index][cut:])
        for index in ranked
        for cut in range(1, len(tokens[index]))
        if tokens[index][:cut] in known and tokens[index][cut:] in known
    ]


def _bpe(models: Any, tokens: list[str], merges: list[tuple[str, str]], **options: Any) -> Any:
    try:
        return models.BPE(vocab={text: index for index, text in enumerate(tokens)}, merges=merges, **options)
    except Exception as error:
        raise _refused(f"its merges do not fit its vocabulary ({error})") from error


def _add_special(made: Tokenizer, metadata: Mapping[str, Value], tokens: list[str]) -> None:
    from tokenizers import AddedToken

    kinds = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise _refused("its vocabulary has no token types")
    for wanted, special in (((UNKNOWN, CONTROL), True), ((USER_DEFINED,), False)):
        texts = [text for text, kind in zip(tokens, kinds, strict=True) if kind in wanted]
        add = made.add_special_tokens if special else made.add_tokens
        add([AddedToken(text, special=special, normalized=False) for text in texts])


def special_text(metadata: Mapping[str, Value], role: str) -> tuple[int, str] | None:
    """Id and text of the "bos", "eos", "eot", "eom", "unknown" or "padding" token, if there is one."""
    tokens = _texts(metadata, "tokenizer.ggml.tokens")
    index = metadata.get(f"tokenizer.ggml.{role}_token_id")
    if index is None or index == 0xFFFFFFFF:  # ggml's way to say none
        return None
    place = _index(index, tokens)
    return place, tokens[place]


def _index(index: Value, tokens: list[str]) -> int:
    if not isinstance(index, int) or not 0 <= index < len(tokens):
        raise _refused(f"token id {index!r} is outside its vocabulary")
    return index


def _pair(merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space:
        raise _refused(f"{merge!r} is no merge")
    return left, right


def _texts(metadata: Mapping[str, Value], key: str) -> list[str]:
    value = metadata.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _refused(f"{key} is no list of texts")
    return [str(item) for item in value]


def _refused(what: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"the GGUF file's tokenizer cannot be used: {what}",
        hint="take another GGUF of the model, or its folder with tokenizer.json and *.safetensors",
    )

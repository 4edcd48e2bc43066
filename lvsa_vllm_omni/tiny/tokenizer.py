"""The tokenizers of the tiny checkpoints: built here, one token a character or byte, nothing downloaded."""

import inspect
import json
import string
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"
_WORD_START = "\u2581"  # SentencePiece's mark

IM_START, IM_END, END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VISION_START = "<|vision_start|>"
#: A chat as Qwen writes it. Of the system's message only its length counts: so many tokens stand in its place.
_CHAT = """\
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{{- '<|im_start|>' * SYSTEM_TOKENS }}
{%- else %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
"""


class CharacterTokenizer:
    """A T5-like tokenizer in which a printable ASCII character is a token; pad has the number 0, end of text 1."""

    def __init__(self) -> None:
        characters = string.ascii_letters + string.digits + string.punctuation
        vocabulary = [(PAD, 0.0), (EOS, 0.0), (UNKNOWN, 0.0), (_WORD_START, -2.0)]
        for character in characters:
            vocabulary += [(character, -5.0), (_WORD_START + character, -4.5)]
        self.size = len(vocabulary)
        tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, 1)]
        )
        self.fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN, model_max_length=512
        )

    def save_pretrained(self, save_directory: str, /) -> None:
        """Write the tokenizer under a class name that transformers 4 and 5 both load (5 writes one that 4 lacks)."""
        self.fast.save_pretrained(save_directory)
        path = Path(save_directory) / "tokenizer_config.json"
        config = json.loads(path.read_text())
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(config, indent=2) + "\n")


class ByteTokenizer:
    """A Qwen-like tokenizer in which a byte is a token, with a chat template whose system message has a fixed length.

    Args:
        system_tokens: number of tokens that stand for the system's message.
    """

    def __init__(self, system_tokens: int = 1) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {character: number for number, character in enumerate(alphabet)}
        self.fast = _qwen2(
            vocabulary,
            unk_token=END,
            eos_token=IM_END,
            pad_token=END,
            bos_token=None,
            model_max_length=4096,
        )
        self.fast.add_special_tokens({"additional_special_tokens": [IM_START, IM_END, VISION_START]})
        self.fast.chat_template = _CHAT.replace("SYSTEM_TOKENS", str(system_tokens))
        self.size = len(self.fast)

    def save_pretrained(self, save_directory: str, /) -> None:
        """Write the tokenizer."""
        self.fast.save_pretrained(save_directory)


def _qwen2(vocabulary: dict[str, int], **options: Any) -> Any:
    """Qwen's tokenizer without merges; transformers 4 reads the vocabulary from files only."""
    if "vocab_file" not in inspect.signature(Qwen2Tokenizer.__init__).parameters:
        return Qwen2Tokenizer(vocab=vocabulary, merges=[], **options)
    from transformers import Qwen2TokenizerFast  # type: ignore[attr-defined]

    with tempfile.TemporaryDirectory() as folder:
        words, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        words.write_text(json.dumps(vocabulary))
        merges.write_text("#version: 0.2\n")
        return Qwen2TokenizerFast(vocab_file=str(words), merges_file=str(merges), **options)

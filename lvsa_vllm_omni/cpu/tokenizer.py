"""The tokenizer of the tiny checkpoints: built here, one token a character, nothing downloaded."""

import json
import string
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"
_WORD_START = "\u2581"  # SentencePiece's mark


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

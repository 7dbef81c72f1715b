"""A small byte-level BPE tokenizer, trained on a data set's own training texts and cached."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}


def trained_tokenizer(
    texts: Sequence[str], vocab_size: int, cache: Path
) -> PreTrainedTokenizerBase:
    """Train the tokenizer, or load it if the same texts were met before.

    Args:
        texts: what to learn the merges from.
        vocab_size: tokens in all, special ones included.
        cache: folder that keeps trained tokenizers; written aside, then renamed.
    """
    digest = hashlib.sha256("\0".join([str(vocab_size), *texts]).encode()).hexdigest()[:16]
    folder = cache / "tokenizers" / digest
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            _train(texts, vocab_size).save_pretrained(aside)
            os.replace(aside, folder)
        except OSError:
            if not folder.exists():  # another run that finished first has left the same files
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return AutoTokenizer.from_pretrained(folder)


def _train(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerBase:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **SPECIAL_TOKENS)

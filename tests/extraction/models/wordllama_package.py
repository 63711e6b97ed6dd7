"""A tiny WordLlama in the files of its package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from criticalmass.extraction.models.static_texts import PACKAGE


def write_wordllama(words: tuple[str, ...], width: int) -> NDArray[np.float16]:
    """Write a table of token embeddings and its tokenizer into the cache; return the table.

    The tokens are ``<unk>``, ``<s>``, which the tokenizer adds, and the words.
    """
    tokenizers: Any = pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    from safetensors.numpy import save_file

    files = [PACKAGE.folder / name for name in PACKAGE.members]
    for file in files:
        file.parent.mkdir(parents=True)
    names = ("<unk>", "<s>", *words)
    vectors = np.random.default_rng(0).standard_normal((len(names), width)).astype(np.float16)
    save_file({"embedding.weight": vectors}, files[0])
    vocabulary = {name: number for number, name in enumerate(names)}
    model = tokenizers.models.WordLevel(vocabulary, unk_token=names[0])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    begin = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.post_processor = begin
    tokenizer.save(str(files[1]))
    return vectors

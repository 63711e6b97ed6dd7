"""WordLlama: a static text encoder, the mean of token embeddings, from a package of PyPI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticalmass.core.optional import import_package
from criticalmass.extraction.models.frozen import FrozenModel, WeightSource, files_digest
from criticalmass.extraction.models.image_models import (
    INITS,
    UNTRAINED_SUFFIX,
    fixed_torch_seed,
    random_weights,
)
from criticalmass.extraction.models.optional_imports import import_after_torchvision, import_torch
from criticalmass.extraction.models.penultimate import MODEL_OUTPUT
from criticalmass.extraction.models.preprocess import TextPreprocess, Tokenizer
from criticalmass.extraction.models.weight_files import read_weights
from criticalmass.extraction.packages import Package
from criticalmass.extraction.specs import Spec, choice_option

if TYPE_CHECKING:
    from criticalmass.extraction.models.wrappers import StaticEmbedder

WORDLLAMA = "wordllama-256"
MAX_TOKENS = 512
_UNKNOWN = "<unk>"
_WEIGHTS = "wordllama/weights/l2_supercat_256.safetensors"
_TOKENIZER = "wordllama/tokenizers/l2_supercat_tokenizer_config.json"
PACKAGE = Package(
    "pypi",
    "wordllama",
    "0.4.0.post1",
    "42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
    19,
    "MIT",
    (_WEIGHTS, _TOKENIZER),
    # Every wheel has the same weights; this one is fetched on every system.
    wheel=("--platform=manylinux2014_x86_64", "--python-version=311", "--abi=cp311"),
)


def load_wordllama(spec: Spec) -> FrozenModel:
    """Load WordLlama, 256 neurons; with ``?init=random`` the same tokens with random vectors.

    The embeddings were trained as Matryoshka representations (Kusupati et al., arXiv:2205.13147),
    so the order of the neurons matters. Both need the package, which has the tokenizer. Texts are
    cut to 512 tokens; no special tokens are added.

    Raises
    ------
    DataUnavailableError: the package cannot be fetched.
    """
    torch = import_torch()
    from criticalmass.extraction.models.wrappers import StaticEmbedder

    transformers = import_after_torchvision("transformers", "text")
    tokenizers = import_package("tokenizers", "text")
    tokenizer = tokenizers.Tokenizer.from_file(str(PACKAGE.file(_TOKENIZER)))
    tokenizer.post_processor = tokenizers.processors.Sequence([])
    vectors = read_weights(PACKAGE.file(_WEIGHTS)).state["embedding.weight"].float()
    name = WORDLLAMA
    if choice_option(spec, "init", "pretrained", INITS) == "random":
        with fixed_torch_seed():
            vectors = torch.randn(vectors.shape)
        name = f"{name}{UNTRAINED_SUFFIX}"
        module = StaticEmbedder(vectors)
        source = random_weights(module)
    else:
        module = StaticEmbedder(vectors)
        source = WeightSource(PACKAGE.origin, wordllama_digest(spec))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=_UNKNOWN)
    return static_model(spec.text, name, module, fast, source)


def static_model(
    spec: str, name: str, module: StaticEmbedder, tokenizer: Tokenizer, source: WeightSource
) -> FrozenModel:
    """Describe a table of token embeddings and its tokenizer."""
    module.eval().requires_grad_(False)
    return FrozenModel(
        spec=spec,
        name=name,
        modality="text",
        module=module,
        root=module,
        preprocess=TextPreprocess(tokenizer, MAX_TOKENS, stages=("mean of the tokens",)),
        weights=source.description,
        weights_digest=source.digest,
        penultimate=MODEL_OUTPUT,
    )


def wordllama_digest(spec: Spec) -> str:
    """Compute the SHA-256 over the files of WordLlama; the package is fetched if needed."""
    return files_digest(PACKAGE.file(name) for name in PACKAGE.members)

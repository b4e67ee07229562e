"""Prompts and their embeddings."""

from typing import TYPE_CHECKING

from expkit.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from expkit.text.embedding_store import Store as Store
    from expkit.text.encoders import T5 as T5
    from expkit.text.encoders import CLIPText as CLIPText
    from expkit.text.prompt_embeddings import Embeddings as Embeddings
    from expkit.text.sentence_prompts import ConceptPrompts as ConceptPrompts
    from expkit.text.sentence_prompts import MiniLM as MiniLM
    from expkit.text.sentence_prompts import sentence_encoder_location as sentence_encoder_location

EXPORTS = {
    "Store": "embedding_store",
    "CLIPText": "encoders",
    "T5": "encoders",
    "Embeddings": "prompt_embeddings",
    "ConceptPrompts": "sentence_prompts",
    "MiniLM": "sentence_prompts",
    "sentence_encoder_location": "sentence_prompts",
}
lazy_exports(__name__, EXPORTS)

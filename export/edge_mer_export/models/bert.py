"""BERT: a vector for every token of a sentence.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", arXiv 1810.04805, as the text backbone of recursive joint cross-modal attention (arXiv
2403.13659). Layout and key names are those of Hugging Face's `BertModel`, so that its weights fit.

Shape letters: B batch, T token, D feature, H head, d feature of one head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from edge_mer_export.models.shapes import Shapes, n_numbered, size

DEAD_KEYS = ("pooler.*", "cls.*", "embeddings.position_ids")
"""Keys of a reference checkpoint that reach no output: the heads it was trained with, and a constant."""

HEAD_WIDTH = 64
"""Published feature size of one attention head."""

N_SUMMED = 4
"""Hidden states whose sum is a token's vector: the last ones."""

_EPS = 1e-12

_Value = TypeVar("_Value")


def modern_keys(state: Mapping[str, _Value]) -> dict[str, _Value]:
    """A state_dict with the scales and shifts of its norms named as they are today.

    Args:
        state: Values by key; the first published weights say `LayerNorm.gamma` and `LayerNorm.beta`.

    Returns:
        The same values, by `LayerNorm.weight` and `LayerNorm.bias`.
    """
    return {
        key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): value
        for key, value in state.items()
    }


class _Embeddings(nn.Module):
    """Sum of a token's word, place and sentence vectors, normalised."""

    def __init__(self, d_model: int, n_words: int, n_positions: int, n_types: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(n_words, d_model)
        self.position_embeddings = nn.Embedding(n_positions, d_model)
        self.token_type_embeddings = nn.Embedding(n_types, d_model)
        self.LayerNorm = nn.LayerNorm(d_model, eps=_EPS)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) of int64 -> (B, T, D)."""
        places = self.position_embeddings.weight[: ids.shape[1]]  # (T, D)
        first_sentence = self.token_type_embeddings.weight[0]  # (D,)
        x: Tensor = self.LayerNorm(self.word_embeddings(ids) + places + first_sentence)  # (B, T, D)
        return x


class _SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V over all tokens, written out for the exported graph."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (d_model // heads) ** -0.5
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(1, 2)  # (B, H, T, d)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q = self._split_heads(self.query(x)) * self.scale  # (B, H, T, d)
        k = self._split_heads(self.key(x))  # (B, H, T, d)
        v = self._split_heads(self.value(x))  # (B, H, T, d)
        weights = torch.softmax(q @ k.transpose(-2, -1), dim=-1)  # (B, H, T, T)
        return (weights @ v).transpose(1, 2).flatten(2)  # (B, T, D)


class _Output(nn.Module):
    """A projection back to the feature, the residual sum and its norm."""

    def __init__(self, n_in: int, d_model: int) -> None:
        super().__init__()
        self.dense = nn.Linear(n_in, d_model)
        self.LayerNorm = nn.LayerNorm(d_model, eps=_EPS)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(B, T, n_in) and (B, T, D) -> (B, T, D)."""
        y: Tensor = self.LayerNorm(self.dense(x) + residual)  # (B, T, D)
        return y


class _Attention(nn.Module):
    """Self-attention with its residual sum."""

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.self = _SelfAttention(d_model, heads)
        self.output = _Output(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        y: Tensor = self.output(self.self(x), x)  # (B, T, D)
        return y


class _Intermediate(nn.Module):
    """First half of the feed-forward layer, with the exact GELU."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.dense = nn.Linear(d_model, d_ff)
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, d_ff)."""
        y: Tensor = self.gelu(self.dense(x))  # (B, T, d_ff)
        return y


class _Layer(nn.Module):
    """Transformer encoder layer, normalised after each residual sum."""

    def __init__(self, d_model: int, d_ff: int, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(d_model, heads)
        self.intermediate = _Intermediate(d_model, d_ff)
        self.output = _Output(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = self.attention(x)  # (B, T, D)
        y: Tensor = self.output(self.intermediate(x), x)  # (B, T, D)
        return y


class _Encoder(nn.Module):
    """A stack of encoder layers."""

    def __init__(self, d_model: int, d_ff: int, heads: int, n_layers: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_Layer(d_model, d_ff, heads) for _ in range(n_layers)])

    def forward(self, x: Tensor) -> Tensor:
        """Embedded tokens (B, T, D) -> sum of the last hidden states (B, T, D)."""
        hidden = [x]  # the embedding is the first hidden state
        for layer in self.layer:
            hidden.append(layer(hidden[-1]))  # (B, T, D)
        last = hidden[-N_SUMMED:]
        total = last[0]
        for state in last[1:]:
            total = total + state  # (B, T, D)
        return total


class Bert(nn.Module):
    """The tokens of one sentence to one vector each.

    Args:
        d_model: Feature size D.
        d_ff: Hidden width of the feed-forward layers.
        n_layers: Encoder layers.
        num_heads: Attention heads; must divide D. None means one for every 64 numbers of D.
        n_words: Size of the vocabulary.
        n_positions: Largest number of tokens T.
        n_types: Sentence types; a token is always of the first one.

    Raises:
        ValueError: The heads do not divide the feature.
    """

    def __init__(
        self,
        d_model: int = 768,
        d_ff: int = 3072,
        n_layers: int = 12,
        num_heads: int | None = None,
        n_words: int = 30522,
        n_positions: int = 512,
        n_types: int = 2,
    ) -> None:
        super().__init__()
        heads = max(1, d_model // HEAD_WIDTH) if num_heads is None else num_heads
        if d_model % heads:
            raise ValueError(f"{heads} heads do not divide a feature of {d_model}")
        self.n_features = d_model
        self.embeddings = _Embeddings(d_model, n_words, n_positions, n_types)
        self.encoder = _Encoder(d_model, d_ff, heads, n_layers)

    @classmethod
    def like(cls, shapes: Shapes, num_heads: int | None = None) -> Bert:
        """The network with the sizes of a state_dict's `shapes`; what they do not tell is as published.

        Args:
            shapes: Shapes by key.
            num_heads: Attention heads, which shapes do not tell.
        """
        return cls(
            d_model=size(shapes, "embeddings.word_embeddings.weight", 1, 2, 768),
            d_ff=size(shapes, "encoder.layer.0.intermediate.dense.weight", 0, 2, 3072),
            n_layers=n_numbered(shapes, "encoder.layer.", 12),
            num_heads=num_heads,
            n_words=size(shapes, "embeddings.word_embeddings.weight", 0, 2, 30522),
            n_positions=size(shapes, "embeddings.position_embeddings.weight", 0, 2, 512),
            n_types=size(shapes, "embeddings.token_type_embeddings.weight", 0, 2, 2),
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Encode a sentence.

        Args:
            ids: (B, T) of int64, token numbers with [CLS] first and [SEP] last. Every token is
                attended to, so the sentences of a batch have the same number of tokens.

        Returns:
            Vectors (B, T, D), the sum of the last four hidden states.
        """
        vectors: Tensor = self.encoder(self.embeddings(ids))  # (B, T, D)
        return vectors

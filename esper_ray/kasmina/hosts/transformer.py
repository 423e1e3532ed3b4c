"""GPT-2 style decoder for token sequences."""

from math import sqrt

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from esper_ray.kasmina.modules import is_symbolic
from esper_ray.leyline.config.host import TransformerHostConfig

INITIAL_DEVIATION = 0.02
"""Standard deviation of initial weights; an untrained host has a loss near ln V."""


class CausalAttention(nn.Module):
    """Causal multi-head self-attention, (B, T, D) to (B, T, D). A token sees itself and earlier tokens."""

    def __init__(self, config: TransformerHostConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.embedding, 3 * config.embedding)
        self.project = nn.Linear(config.embedding, config.embedding)

    def forward(self, h: Tensor) -> Tensor:
        queries, keys, values = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(queries, keys, values, is_causal=True, dropout_p=dropout)
        projected: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return projected


class DecoderBlock(nn.Module):
    """Pre-norm decoder block: attention and a four times wider MLP with shortcuts."""

    def __init__(self, config: TransformerHostConfig) -> None:
        super().__init__()
        width = config.embedding
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalAttention(config)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.dropout(self.attention(self.attention_norm(h)))
        passed: Tensor = h + self.dropout(self.mlp(self.mlp_norm(h)))
        return passed


class TransformerHost(nn.Module):
    """Token and position embeddings, decoder blocks, and a head tied to the token embedding.

    Shapes: (B, T) int64 tokens to (B, T, ``vocabulary``) logits. Longer sequences than the context
    raise a ValueError.
    """

    def __init__(self, config: TransformerHostConfig, vocabulary: int) -> None:
        super().__init__()
        self.context = config.context
        self.token = nn.Embedding(vocabulary, config.embedding)
        self.position = nn.Embedding(config.context, config.embedding)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.embedding)
        self.head = nn.Linear(config.embedding, vocabulary, bias=False)
        self._initialise(config.layers)
        self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if not is_symbolic(length) and length > self.context:
            raise ValueError(f"a sequence of {length} tokens exceeds the context of {self.context}")
        h = self.dropout(self.token(tokens) + self.position.weight[:length])
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h))
        return logits

    def _initialise(self, layers: int) -> None:
        """Initialise as GPT-2 does: weights that end a residual branch are scaled by its count."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                ends_branch = name.endswith((".project", ".mlp.2"))
                deviation = INITIAL_DEVIATION / sqrt(2 * layers) if ends_branch else INITIAL_DEVIATION
                nn.init.normal_(module.weight, std=deviation)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

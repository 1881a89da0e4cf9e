"""Axial attention step by step as in the papers' formulas; benchmarks compare ours with it.

Source: the order of operations of csrhddlam/axial-deeplab ``lib/models/axialnet.py`` and of
deeplab2 ``model/layers/axial_layers.py``: relative positions expanded to ``[d, L, L]``, three
``[N, h, L, L]`` maps concatenated, one batch norm over all of them, sum, softmax, two retrievals,
one batch norm. All of it stays in memory until the backward pass.

Parameters, their names and the numbers are those of `AxialAttention`, so weights fit both.
`model/attention=textbook` chooses it. Neither source has a local span; here it is a mask over the
whole map.
"""

import torch
from torch import Tensor

from axialseg.layers.axial_attention import AxialAttention


class TextbookAxialAttention(AxialAttention):
    """`AxialAttention` in textbook form; arguments, weights and results are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """x: ``[B, C, H, W]`` -> ``[B, V, H, W]``."""
        batch = x.shape[0]  # not len(x), which torch.export takes for a constant
        is_height = self.axis == "height"
        qkv = self.qkv(x)  # [B, 2K + V, H, W]
        qkv = qkv.permute((0, 3, 1, 2) if is_height else (0, 2, 1, 3)).flatten(0, 1)  # [N, ., L]
        sizes = [self.key_channels, self.key_channels, self.value_channels]
        q, k, v = (part.unflatten(1, (self.heads, -1)) for part in qkv.split(sizes, dim=1))
        length = x.shape[2] if is_height else x.shape[3]
        position = torch.arange(length, device=x.device)
        offset = position - position[:, None]  # key - query, [L, L]

        maps = []
        if self.content_similarity:
            maps.append(torch.einsum("nhdi,nhdj->nhij", q, k))
        if self.query_table is not None:
            maps.append(torch.einsum("nhdi,dij->nhij", q, self._expanded(self.query_table, offset)))
        if self.key_table is not None:
            maps.append(torch.einsum("nhdj,dij->nhij", k, self._expanded(self.key_table, offset)))
        visible = None
        # In evaluation without a look at the length, which would fix it in an exported graph.
        if self.span is not None and (not self.training or self.span < 2 * length - 1):
            visible = offset.abs() <= (self.span - 1) // 2
        normalised = self.similarity_norm(torch.cat(maps, dim=1), visible)
        logits = normalised.unflatten(1, (len(maps), self.heads)).sum(1)
        if visible is not None:
            logits = logits.masked_fill(~visible, -torch.inf)
        weights = logits.softmax(-1)  # [N, h, L, L]

        retrieved = []
        if self.value_content:
            retrieved.append(torch.einsum("nhij,nhdj->nhdi", weights, v))
        if self.value_table is not None:
            rows = self._expanded(self.value_table, offset)
            retrieved.append(torch.einsum("nhij,dij->nhdi", weights, rows))
        y = self.retrieval_norm(torch.cat(retrieved, dim=1).flatten(1, 2))
        y = y.unflatten(1, (len(retrieved), -1)).sum(1).unflatten(0, (batch, -1))  # [B, ., V, L]
        return y.permute((0, 2, 3, 1) if is_height else (0, 2, 1, 3))

    def _expanded(self, table: Tensor, offset: Tensor) -> Tensor:
        """Table rows ``[rows, d]`` of offsets ``[L, L]`` -> ``[d, L, L]``, each with its own copy.

        Source: csrhddlam's ``index_select``.
        """
        rows = (offset.clamp(-self.max_offset, self.max_offset) + self.max_offset).flatten()
        return table.t().index_select(1, rows).unflatten(1, offset.shape)

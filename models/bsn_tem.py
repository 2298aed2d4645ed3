"""BSN, stage 1 of 2: temporal evaluation (Lin et al., https://arxiv.org/abs/1806.02964).

Three convolutions over time give each snippet of a video three probabilities: that an action starts there,
ends there, and lasts there. Where starts and ends are likely, proposals begin and end; what the three curves
look like around a proposal is all that stage 2 (``models.bsn_pem``) sees of it. Shapes: B videos, F features,
H hidden units, T snippets (``tscale``).
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from models.common import proposals
from models.common.layers import TemporalConv
from utils.config import Config, key

CURVES = ("start", "end", "action")


class BsnTem(nn.Layer):
    class Config(Config):
        feat_dim: int = key(400, gt=0)  # F
        hidden_dim: int = key(256, gt=0)  # H

    def __init__(self, config: BsnTem.Config) -> None:
        super().__init__()
        self.base_1 = TemporalConv(config.feat_dim, config.hidden_dim, 3, "Base_1")
        self.base_2 = TemporalConv(config.hidden_dim, config.hidden_dim, 3, "Base_2")
        self.curves = TemporalConv(config.hidden_dim, len(CURVES), 1, "Pred")

    def forward(self, feat: Tensor) -> dict[str, Tensor]:
        """Features ``(B, F, T)`` float32 to ``pred_tem`` ``(B, 3, T)``: start, end and action, in (0, 1)."""
        x = F.relu(self.base_1(feat))  # (B, H, T)
        x = F.relu(self.base_2(x))
        return {"pred_tem": F.sigmoid(self.curves(x))}  # (B, 3, T)

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Against ``gt_start``, ``gt_end`` and ``gt_action`` ``(B, T)`` in [0, 1], positive above 0.5.

        ``start_loss``, ``end_loss``, ``action_loss``: cross entropy in which positive and negative snippets
        of the batch weigh the same; ``loss``: their sum.
        """
        losses = {}
        for name, probability in zip(CURVES, outputs["pred_tem"].unbind(1), strict=True):
            losses[f"{name}_loss"] = proposals.balanced_entropy(
                probability,
                batch,
                lambda part, name=name: (part[f"gt_{name}"] > 0.5).astype("float32"),
                paddle.ones(probability.shape[1:]),
                self.training,
                added=1.0,
            )
        total = losses["start_loss"] + losses["end_loss"] + losses["action_loss"]
        return {"loss": total, **losses}

    def with_other_parts(self, parts: list[dict]) -> list[dict]:
        """The parts of a training batch, each with what it takes to count all of them."""
        return proposals.in_one_batch(parts, [[]] * len(parts))

    def adapt_pretrained(self, state: dict) -> dict:
        """Weights of another training; features or hidden units of another number keep their layer."""
        shapes = {p.name: list(p.shape) for p in self.parameters()}
        return {name: value for name, value in state.items() if list(np.shape(value)) == shapes.get(name)}

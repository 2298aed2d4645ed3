"""BSN, stage 2 of 2: proposal evaluation (Lin et al., https://arxiv.org/abs/1806.02964).

What the curves of stage 1 look like in a proposal, and around its start and its end, says how well it
overlaps an action. The paper has a hidden layer. In 2019 the second layer took the input of the first, not
its output: so what published weights know is one layer, and the other, ``fc_0``, is only stored (``UNUSED``).
Shapes: B videos, K proposals of each (``top_K``), F features of a proposal, H units of the unused layer.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from models.common import proposals
from models.common.layers import linear
from utils.config import Config, key

SCALE = 0.1  # of what goes into the sigmoid
HIGH_IOU, LOW_IOU = 0.6, 0.2  # above: high; at or below: low; between: middle
PER_HIGH = (1.0, 2.0)  # middle and low proposals that are drawn for each of high IoU
UNUSED = "fc_0"


class BsnPem(nn.Layer):
    class Config(Config):
        feat_dim: int = key(32, gt=0)  # F
        hidden_dim: int = key(128, gt=0)  # H

    def __init__(self, config: BsnPem.Config) -> None:
        super().__init__()
        self.unused = linear(config.feat_dim, config.hidden_dim, UNUSED)
        for parameter in self.unused.parameters():
            parameter.stop_gradient = True
        self.overlap = linear(config.feat_dim, 1, "fc_1", decay_bias=True)

    def forward(self, feat: Tensor) -> dict[str, Tensor]:
        """Features ``(B, K, F)`` float32 to ``pred_iou`` ``(B * K, 1)``, the IoU with an action."""
        rows = feat.reshape([-1, feat.shape[2]])  # (B * K, F)
        return {"pred_iou": F.sigmoid(SCALE * self.overlap(rows))}  # (B * K, 1)

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Half the mean square of the difference to ``gt_iou``, ``(B, K)`` or ``(B, K, 1)``.

        Proposals of high IoU all count; of the middle ones about as many are drawn, of the low ones twice as
        many. A batch without a high one has nothing to weigh them against: its loss is 0 (2019: NaN).
        """
        iou = batch["gt_iou"].flatten(1)  # (B, K)
        if "draws" not in batch:
            batch = {**batch, "draws": self._draws(list(iou.shape))}

        def tiers(part: dict) -> tuple[Tensor, Tensor, Tensor]:
            iou = part["gt_iou"].flatten(1)
            return proposals.iou_tiers(iou, paddle.ones_like(iou), HIGH_IOU, LOW_IOU)

        difference = outputs["pred_iou"].reshape(iou.shape) - iou
        return {"loss": proposals.sampled_square(difference, batch, tiers, PER_HIGH, self.training)}

    def _draws(self, shape: list[int]) -> list[Tensor]:
        return [proposals.draws_of_samples(shape, self.training) for _ in PER_HIGH]

    def with_other_parts(self, parts: list[dict]) -> list[dict]:
        """The parts of a training batch, each with what it takes to count all of them."""
        sizes = [len(part["gt_iou"]) for part in parts]
        drawn = self._draws([sum(sizes), parts[0]["gt_iou"].shape[1]])
        return proposals.in_one_batch(
            parts, list(zip(*(uniform.split(sizes) for uniform in drawn), strict=True))
        )

    def adapt_pretrained(self, state: dict) -> dict:
        """Weights of another training; features of another number keep their layer."""
        shapes = {p.name: list(p.shape) for p in self.parameters()}
        return {name: value for name, value in state.items() if list(np.shape(value)) == shapes.get(name)}


class Solver(proposals.Solver):
    learning_rate: float = key(0.01, "TRAIN", gt=0)
    lr_decay_iter: int = key(6000, "TRAIN", gt=0)  # steps
    l2_weight_decay: float = key(1e-5, "TRAIN", ge=0)

"""How far the zoo may be from the recorded numbers: the one table.

Forward values are compared relative to the scale (largest magnitude) of the recorded array; losses,
rates and metrics relative to their own value. float32 on CPU.
"""

from __future__ import annotations

# name of the check: tolerance
DEFAULT = {
    "forward": 1e-5,
    "loss": 1e-4,  # of every training step
    # Batch norm over a handful of frames is chaotic: multiplying the inputs by 1 + 1e-6 * noise moved
    # 2019's own gradients by 2.6e-3, its outputs at step 3 by 5e-4 and its parameters by 3e-5.
    "gradient": 5e-3,  # of each parameter's norm
    "forward_in_training": 2e-3,
    "parameter": 1e-4,  # after the steps, of each parameter's norm
    "rate": 1e-7,  # Fluid kept it in float32
    "optimizer": 1e-6,
    "metric": 1e-6,
    "image": 0.0185,  # one grey level after normalisation: 1 / 255 / 0.225, and rounding
    "image_mpeg4": 0.8,  # the odd-sized mpeg4 clip decodes differently from one OpenCV to the next
    "image_mpeg4_mean": 0.05,
}

# What is wider for one model, and why. "loss@2" is the loss of the second training step.
BY_MODEL: dict[str, dict[str, float]] = {
    "CTCN": {
        # Weights and inputs multiplied by 1 + 1e-6 * noise moved 2019's own location loss by 1.2e-4 at step 2
        # and 4.7e-4 at step 3, and its parameters by 2.2e-4 of their norm after step 3.
        "loss@2": 3e-4,
        "loss@3": 1e-3,
        "parameter@3": 1e-3,
        "image": 1e-5,  # features: another OpenCV interpolates within rounding
    },
}


def tolerance(model: str, check: str, step: int = 0) -> float:
    own = BY_MODEL.get(model.upper(), {})
    return own.get(f"{check}@{step}", own.get(check, DEFAULT[check]))

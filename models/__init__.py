"""THE ZOO: one row a model. Adding a model = one row + one file + one YAML."""

from utils.registry import ModelSpec

PADDLE_MODELS = "https://paddlemodels.bj.bcebos.com"

ZOO = (
    ModelSpec(
        name="TSN",
        title="temporal segments through a 2-D ResNet; video classification (Kinetics)",
        network="models.tsn:TSN",
        reader="reader.kinetics_reader:KineticsReader",
        metric="metrics.topk:TopKAccuracy",
        solver="models.tsn:Solver",
        inputs=("image",),
        outputs=("probability",),
        targets=("label",),
        loss_inputs=("logits",),
        config="configs/tsn.yaml",
        best="top1_acc",
        weights="TSN.pdparams",
        weights_urls=(
            f"{PADDLE_MODELS}/video_classification/TSN.pdparams",
            f"{PADDLE_MODELS}/video_classification/TSN_final.pdparams",
        ),
        pretrain="ResNet50_pretrained",
        pretrain_urls=(f"{PADDLE_MODELS}/video_classification/ResNet50_pretrained.tar.gz",),
    ),
    ModelSpec(
        name="CTCN",
        title="concept-wise temporal convolutions; actions in time (ActivityNet)",
        network="models.ctcn:CTCN",
        reader="reader.ctcn_reader:CTCNReader",
        metric="metrics.activitynet.detection:Detection",
        solver="models.ctcn:Solver",
        inputs=("image",),
        outputs=("loc", "probability"),
        targets=("loc_targets", "cls_targets"),
        losses=("loss", "loc_loss", "cls_loss"),
        loss_inputs=("logits",),
        config="configs/ctcn.yaml",
        best="average_mAP",
        weights="CTCN.pdparams",
        weights_urls=(f"{PADDLE_MODELS}/video_detection/CTCN.pdparams",),
        cpu_path="eager",
        cpu_path_reason="oneDNN cannot run this network in Paddle 3.3",
    ),
)

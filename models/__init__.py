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
        solver="models.common.classification:Solver",
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
        name="TSM",
        title="TSN with features shifted between segments; video classification (Kinetics)",
        network="models.tsm:TSM",
        reader="reader.kinetics_reader:MultiScaleKineticsReader",
        metric="metrics.topk:TopKAccuracy",
        solver="models.common.classification:Solver",
        inputs=("image",),
        outputs=("probability",),
        targets=("label",),
        loss_inputs=("logits",),
        config="configs/tsm.yaml",
        best="top1_acc",
        weights="TSM.pdparams",
        weights_urls=(
            f"{PADDLE_MODELS}/video_classification/TSM.pdparams",
            f"{PADDLE_MODELS}/video_classification/TSM_final.pdparams",
        ),
        pretrain="ResNet50_pretrained",
        pretrain_urls=(f"{PADDLE_MODELS}/video_classification/ResNet50_pretrained.tar.gz",),
    ),
    ModelSpec(
        name="STNET",
        title="stacked frames, convolutions over segments; video classification (Kinetics)",
        network="models.stnet:STNET",
        reader="reader.kinetics_reader:KineticsReader",
        metric="metrics.topk:TopKAccuracy",
        solver="models.common.classification:Solver",
        inputs=("image",),
        outputs=("probability",),
        targets=("label",),
        loss_inputs=("logits",),
        config="configs/stnet.yaml",
        best="top1_acc",
        weights="STNET.pdparams",
        weights_urls=(
            f"{PADDLE_MODELS}/video_classification/STNET.pdparams",
            f"{PADDLE_MODELS}/video_classification/STNET_final.pdparams",
        ),
        pretrain="ResNet50_pretrained",
        pretrain_urls=(f"{PADDLE_MODELS}/video_classification/ResNet50_pretrained.tar.gz",),
    ),
)

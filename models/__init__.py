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
        name="AttentionCluster",
        title="clusters of attention units over features; video tagging (YouTube-8M)",
        network="models.attention_cluster:AttentionCluster",
        reader="reader.feature_reader:FeatureReader",
        metric="metrics.youtube8m:YouTube8M",
        solver="models.attention_cluster:Solver",
        inputs=("rgb", "audio"),
        outputs=("probability",),
        targets=("label",),
        loss_inputs=("logits",),
        config="configs/attention_cluster.yaml",
        best="gap",
        weights="AttentionCluster.pdparams",
        weights_urls=(
            f"{PADDLE_MODELS}/video_classification/AttentionCluster.pdparams",
            f"{PADDLE_MODELS}/video_classification/AttentionCluster_final.pdparams",
        ),
    ),
    ModelSpec(
        name="NEXTVLAD",
        title="residuals to cluster centres, by groups of features; video tagging (YouTube-8M)",
        network="models.nextvlad:NeXtVLAD",
        reader="reader.feature_reader:QuantisedFeatureReader",
        metric="metrics.youtube8m:YouTube8M",
        solver="models.nextvlad:Solver",
        inputs=("rgb", "audio", "rgb_length", "audio_length"),
        outputs=("probability",),
        targets=("label",),
        loss_inputs=("logits",),
        config="configs/nextvlad.yaml",
        best="gap",
        weights="NEXTVLAD.pdparams",
        weights_urls=(
            f"{PADDLE_MODELS}/video_classification/NEXTVLAD.pdparams",
            f"{PADDLE_MODELS}/video_classification/NEXTVLAD_final.pdparams",
        ),
    ),
)

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
        name="AttentionLSTM",
        title="bidirectional LSTM and attention over features; video tagging (YouTube-8M)",
        network="models.attention_lstm:AttentionLSTM",
        reader="reader.feature_reader:FeatureReader",
        metric="metrics.youtube8m:Youtube8M",
        solver="models.attention_lstm:Solver",
        inputs=("rgb", "rgb_length", "audio", "audio_length"),
        outputs=("probability",),
        targets=("label",),
        loss_inputs=("logits",),
        config="configs/attention_lstm.yaml",
        best="gap",
        weights="AttentionLSTM.pdparams",
        weights_urls=(f"{PADDLE_MODELS}/video_classification/AttentionLSTM.pdparams",),
        cpu_path="eager",
        cpu_path_reason="steps of a sequence are faster there",
    ),
)

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
        name="TALL",
        title="windows of a movie against a sentence; moments by language (TACoS)",
        network="models.tall:TALL",
        reader="reader.tall_reader:TALLReader",
        metric="metrics.grounding:Grounding",
        solver="models.tall:Solver",
        inputs=("train_visual", "train_sentences"),
        outputs=("scores",),
        targets=("train_offsets",),
        config="configs/tall.yaml",
        best="loss",
        best_is_higher=False,
        weights="TALL.pdparams",
        weights_urls=(
            f"{PADDLE_MODELS}/video_grounding/TALL.pdparams",
            f"{PADDLE_MODELS}/video_grounding/TALL_final.pdparams",
        ),
    ),
)

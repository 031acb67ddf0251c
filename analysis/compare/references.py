"""The rows of the results table: what is compared, the notebook's figures and published ones with their sources."""

from collections.abc import Mapping
from typing import Any, NamedTuple

ARXIV = "https://arxiv.org/abs/"
GITHUB = "https://github.com/"


class Public(NamedTuple):
    """A published figure."""

    figure: str
    what: str  # that it was reached with
    source: str  # address of the paper or the repository


class Reference(NamedTuple):
    """A row of the results table: a result belongs to it that has its model, dataset and settings."""

    title: str
    model: str
    metric: str = "test/accuracy"  # that is shown
    settings: Mapping[str, Any] = {}
    dataset: str = "cifar10"
    notebook: str = ""  # the notebook's figure
    notebook_time: str = ""  # the notebook's time of training, on a P100
    public: tuple[Public, ...] = ()


KMEANS = "test/latent/kmeans_accuracy"
CLUSTERING = (
    Public("22.9 %", "k-means on pixels", f"{ARXIV}1807.06653"),
    Public("27.2 %", "JULE", f"{ARXIV}1807.06653"),
    Public("30.1 %", "DEC", f"{ARXIV}1807.06653"),
)
GENERATIVE_CLASSIFIERS = (
    Public("92.9 %", "JEM", f"{ARXIV}1912.03263"),
    Public("95.0 %", "score-based", f"{ARXIV}2110.00473"),
)
STUDIO_GAN = f"{GITHUB}POSTECH-CVLab/PyTorch-StudioGAN"

REFERENCES = (
    Reference(
        "MLP",
        "mlp",
        notebook="54.44 %",
        notebook_time="2m51s",
        public=(
            Public("56.6-57.6 %", "plain", f"{GITHUB}YangletLiu/Tensor_Layer_Neural_Networks"),
            Public("about 70 %", "permutation invariant", f"{ARXIV}1511.02580"),
            Public("85.2 %", "beta-LASSO", f"{ARXIV}2007.13657"),
        ),
    ),
    Reference(
        "CNN",
        "cnn",
        notebook="77.33 %",
        notebook_time="4m7s",
        public=(
            Public("93.72 %", "MobileNetV2 x0.75, 1.37 M", f"{GITHUB}chenyaofo/pytorch-cifar-models"),
            Public("94.0 %", "airbench94, about 2 M, 2.6 s on an A100", f"{GITHUB}KellerJordan/cifar10-airbench"),
            Public("94.37 %", "ResNet-56, 0.86 M", f"{GITHUB}chenyaofo/pytorch-cifar-models"),
        ),
    ),
    Reference(
        "ResNet-18 from scratch",
        "resnet18",
        notebook="83.46 %",
        notebook_time="5m8s",
        public=(
            Public("95.5 %", "rerun", f"{GITHUB}kuangliu/pytorch-cifar"),
            Public("96.0 %", "7 min on an A100", f"{GITHUB}KellerJordan/cifar10-airbench"),
        ),
    ),
    Reference("ResNet-18, ImageNet weights", "resnet18_pretrained", notebook="89.06 %", notebook_time="1m55s"),
    Reference(
        "nanoViT",
        "nano_vit",
        notebook="73.24 %",
        notebook_time="19m55s",
        public=(
            Public("90.94 %", "ViT-Lite-6/4, 3.2 M", f"{GITHUB}SHI-Labs/Compact-Transformers"),
            Public("91.45 %", "CCT-4/3x2, 0.48 M", f"{GITHUB}SHI-Labs/Compact-Transformers"),
        ),
    ),
    Reference("nanoViT, 3 heads", "nano_vit", settings={"num_heads": 3}, notebook="69.17 %"),
    Reference("ViT-B/16, frozen", "vit_b16_frozen", notebook="95.42 %", notebook_time="265m15s"),
    Reference(
        "ViT-B/16, fine-tuned",
        "vit_b16_finetune",
        public=(
            Public("98.6 %", "500 steps", f"{GITHUB}google-research/vision_transformer"),
            Public("99.0 %", "full", f"{GITHUB}google-research/vision_transformer"),
        ),
    ),
    Reference(
        "patch LSTM",
        "patch_lstm",
        notebook="68.11 %",
        notebook_time="20m27s",
        public=(Public("87.65 %", "ReNet, sweeps in two dimensions", f"{ARXIV}1505.00393"),),
    ),
    Reference("VAE + k-means, beta 0.1", "vae", KMEANS, {"beta": 0.1}, notebook="23.59 %"),
    Reference("VAE + k-means, beta 1", "vae", KMEANS, {"beta": 1.0}, notebook="24.64 %", public=CLUSTERING),
    Reference("VAE + k-means, beta 10", "vae", KMEANS, {"beta": 10.0}, notebook="24.01 %"),
    Reference("CVAE, label of the least loss", "cvae", notebook="barely over 10 %", public=GENERATIVE_CLASSIFIERS),
    Reference("CVAE with a class head", "cvae_head", notebook="over 82 %"),
    Reference("DC-GAN on faces, FID", "dc_gan", "val/fid_inception", dataset="faces", notebook="pictures only"),
    Reference(
        "DC-GAN, FID",
        "dc_gan",
        "test/fid_inception",
        public=(
            Public("48.3", "StudioGAN", STUDIO_GAN),
            Public("28.9", "mimicry", f"{GITHUB}kwotsin/mimicry"),
        ),
    ),
    Reference(
        "AC-GAN, FID",
        "ac_gan",
        "test/fid_inception",
        notebook="a heading only",
        public=(Public("33.4", "StudioGAN", STUDIO_GAN),),
    ),
)

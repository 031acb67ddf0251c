"""The models of the suite: one line each, name -> (settings class, function that builds the objective)."""

from collections.abc import Callable
from typing import Any

from models import (
    ac_gan,
    cnn,
    cvae,
    cvae_head,
    dc_gan,
    frozen_backbone,
    mlp,
    nano_vit,
    patch_lstm,
    resnet18,
    timm_classifier,
    vae,
    vq_vae,
)
from models.core.objective import Objective
from models.core.settings import Settings

MODELS: dict[str, tuple[type[Settings], Callable[[Any, Any], Objective]]] = {
    "mlp": (mlp.MlpSettings, mlp.build),
    "cnn": (cnn.CnnSettings, cnn.build),
    "resnet18": (resnet18.ResNet18Settings, resnet18.build),
    "nano_vit": (nano_vit.NanoVitSettings, nano_vit.build),
    "patch_lstm": (patch_lstm.PatchLstmSettings, patch_lstm.build),
    "timm": (timm_classifier.TimmSettings, timm_classifier.build),
    "resnet18_pretrained": (timm_classifier.ResNet18PretrainedSettings, timm_classifier.build),
    "vit_b16_finetune": (timm_classifier.VitB16FinetuneSettings, timm_classifier.build),
    "frozen": (frozen_backbone.FrozenSettings, frozen_backbone.build),
    "vit_b16_frozen": (frozen_backbone.VitB16FrozenSettings, frozen_backbone.build),
    "logistic_probe": (frozen_backbone.LogisticProbeSettings, frozen_backbone.build_probe),
    "vae": (vae.VaeSettings, vae.build),
    "cvae": (cvae.CvaeSettings, cvae.build),
    "cvae_head": (cvae_head.CvaeHeadSettings, cvae_head.build),
    "vq_vae": (vq_vae.VqVaeSettings, vq_vae.build),
    "dc_gan": (dc_gan.DcGanSettings, dc_gan.build),
    "ac_gan": (ac_gan.AcGanSettings, ac_gan.build),
}

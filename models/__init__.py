"""The models of the suite: one line each, name -> (settings class, function that builds the objective)."""

from collections.abc import Callable
from typing import Any

from models import cnn, cvae, cvae_head, mlp, nano_vit, patch_lstm, resnet18, vae, vq_vae
from models.objective import Objective
from models.settings import Settings

MODELS: dict[str, tuple[type[Settings], Callable[[Any, Any], Objective]]] = {
    "mlp": (mlp.MlpSettings, mlp.build),
    "cnn": (cnn.CnnSettings, cnn.build),
    "resnet18": (resnet18.ResNet18Settings, resnet18.build),
    "nano_vit": (nano_vit.NanoVitSettings, nano_vit.build),
    "patch_lstm": (patch_lstm.PatchLstmSettings, patch_lstm.build),
    "vae": (vae.VaeSettings, vae.build),
    "cvae": (cvae.CvaeSettings, cvae.build),
    "cvae_head": (cvae_head.CvaeHeadSettings, cvae_head.build),
    "vq_vae": (vq_vae.VqVaeSettings, vq_vae.build),
}

"""The table of all models. A model's module is imported only when the model is used, so this one loads no torch."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from data.errors import check_known
from models.core.settings import Settings, kinds

if TYPE_CHECKING:  # these load torch
    from data.dataset import DatasetInfo
    from models.core.objective import Objective


class Model(NamedTuple):
    """A model, given by the names of its module, its settings class and the function that builds it.

    Attributes:
        module: name of its file in models/, without .py.
        settings: name of its settings class in that file.
        builder: name of the function or class in that file that builds it out of settings and a DatasetInfo.
    """

    module: str
    settings: str
    builder: str = "build"

    @property
    def settings_class(self) -> type[Settings]:
        """The model's settings class."""
        return getattr(import_module(f"models.{self.module}"), self.settings)

    def build(self, settings: Settings, info: "DatasetInfo") -> "Objective":
        """Build the model that `settings` describe, for the images that `info` describes.

        Raises:
            UserError: some settings do not go together, or do not suit the images.
        """
        return getattr(import_module(f"models.{self.module}"), self.builder)(settings, info)


MODELS: Mapping[str, Model] = {
    "mlp": Model("mlp", "MlpSettings"),
    "cnn": Model("cnn", "CnnSettings"),
    "resnet18": Model("resnet18", "ResNet18Settings"),
    "nano_vit": Model("nano_vit", "NanoVitSettings"),
    "patch_lstm": Model("patch_lstm", "PatchLstmSettings"),
    "timm": Model("timm_classifier", "TimmSettings"),
    "resnet18_pretrained": Model("timm_classifier", "ResNet18PretrainedSettings"),
    "vit_b16_finetune": Model("timm_classifier", "VitB16FinetuneSettings"),
    "frozen": Model("frozen_backbone", "FrozenSettings", "FrozenBackbone"),
    "vit_b16_frozen": Model("frozen_backbone", "VitB16FrozenSettings", "FrozenBackbone"),
    "logistic_probe": Model("frozen_backbone", "LogisticProbeSettings", "LogisticProbe"),
    "vae": Model("vae", "VaeSettings", "Vae"),
    "cvae": Model("cvae", "CvaeSettings"),
    "cvae_head": Model("cvae_head", "CvaeHeadSettings", "CvaeHead"),
    "vq_vae": Model("vq_vae", "VqVaeSettings", "VqVae"),
    "dc_gan": Model("dc_gan", "DcGanSettings"),
    "ac_gan": Model("ac_gan", "AcGanSettings"),
}


def find_model(name: object) -> Model:
    """Return the model of that name.

    Raises:
        UserError: there is no model of that name.
    """
    check_known(f"--model={name}", name, MODELS)
    return MODELS[str(name)]


def models_with(setting: str) -> list[str]:
    """Return the names of the models that have a setting; this imports the files of all models."""
    return [name for name, model in MODELS.items() if setting in kinds(model.settings_class)]

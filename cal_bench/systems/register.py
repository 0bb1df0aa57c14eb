"""Makes the classes of this package known to transformers."""


def register() -> None:
    """Let the Auto classes find MGM by the model type of its config; may be called again."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

    from .mgm_config import MgmConfig
    from .mgm_images import MgmImageProcessor
    from .mgm_model import MgmForConditionalGeneration, MgmModel
    from .mgm_processor import MgmProcessor

    AutoConfig.register(MgmConfig.model_type, MgmConfig, exist_ok=True)
    AutoModel.register(MgmConfig, MgmModel, exist_ok=True)
    AutoModelForImageTextToText.register(MgmConfig, MgmForConditionalGeneration, exist_ok=True)
    # There is one way to make its pixels, whichever way is asked for.
    images = {"pil": MgmImageProcessor, "torchvision": MgmImageProcessor}
    AutoImageProcessor.register(MgmConfig, image_processor_classes=images, exist_ok=True)
    AutoProcessor.register(MgmConfig, MgmProcessor, exist_ok=True)

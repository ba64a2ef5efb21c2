"""Custom models, which a factory in a user's Python module makes."""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import nn

from export.errors import CheckpointError, brief
from export.source.checkpoint import SEED, Checkpoint, preprocessing_of
from export.source.encoders import CustomClip
from gateway.models.manifest import golden_pixels


@dataclass(frozen=True, slots=True)
class CustomModel:
    """A CLIP-like model that OpenCLIP does not know.

    Attributes:
        name: The default id.
        image: Image encoder; float32 [n, 3, S, S], normalised -> float32 [n, D].
        text: Text encoder; int64 [n, context length], padded -> float32 [n, D]. If it is OpenCLIP's
            `TextTransformer`, it is packed where OpenCLIP's own models are.
        tokenizer: One of OpenCLIP's: `SimpleTokenizer`, `SigLipTokenizer` or `HFTokenizer`, which
            reads a Hugging Face tokenizer. It has the context length.
        preprocessing: Size, mean and deviation, resize mode and interpolation of pictures.
        pretrained: Name of the weights; None: random ones.
        transform: The reference, in place of OpenCLIP's for `preprocessing`;
            picture -> float32 [3, S, S].
        logit_scale: Factor on cosines.
        logit_bias: Added to them, for models trained with a sigmoid loss.
        any_length: Whether a text's vector does not depend on the number of padding tokens,
            because the encoder masks them. Short texts are then served at fewer tokens.
    """

    name: str
    image: nn.Module
    text: nn.Module
    tokenizer: Callable[[list[str]], torch.Tensor]
    preprocessing: PreprocessCfg
    pretrained: str | None = None
    transform: Callable[[Image.Image], torch.Tensor] | None = None
    logit_scale: float = 100.0
    logit_bias: float | None = None
    any_length: bool = False


def load_custom(reference: str) -> Checkpoint:
    """Call a factory, and check that its encoders fit together.

    Args:
        reference: `module:factory`; the factory takes no arguments and returns a `CustomModel`.

    Raises:
        CheckpointError: It fails, or the encoders do not give vectors of one size.
    """
    made = _make(reference)
    model = CustomClip(made.image, made.text, any_length=made.any_length)
    model = model.eval().float().requires_grad_(requires_grad=False)
    transform = made.transform or image_transform_v2(made.preprocessing, is_train=False)
    rules = preprocessing_of(made.preprocessing, made.name)
    picture = Image.fromarray(golden_pixels(rules.image_size))
    image = _width(made.name, "image", lambda: model.encode_image(transform(picture)[None]))
    text = _width(made.name, "text", lambda: model.encode_text(made.tokenizer(["a cat"])))
    if image != text:
        raise CheckpointError(
            f"{made.name}: its image vectors have {image} numbers and its text vectors {text}; "
            "project both to one size"
        )
    notice = f"{made.name} names no `pretrained` weights, and is listed with random ones"
    return Checkpoint(
        name=made.name,
        pretrained=made.pretrained,
        model=model,
        tokenizer=made.tokenizer,
        transform=transform,
        preprocessing=rules,
        embedding_size=image,
        logit_scale=made.logit_scale,
        logit_bias=made.logit_bias,
        notices=() if made.pretrained else (notice,),
    )


def _make(reference: str) -> CustomModel:
    module, _, factory = reference.partition(":")
    if not module or not factory:
        raise CheckpointError(
            f"--custom {reference}: give MODULE:FACTORY, such as examples.models.mixers:clip"
        )
    torch.manual_seed(SEED)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = attrgetter(factory)(importlib.import_module(module))()
    except Exception as error:  # whatever the user's own code raises
        raise CheckpointError(
            f"--custom {reference}: {type(error).__name__}: {brief(error)}"
        ) from error
    if not isinstance(made, CustomModel):
        raise CheckpointError(
            f"--custom {reference}: returns {type(made).__name__}, not "
            "`export.source.custom.CustomModel`"
        )
    return made


def _width(name: str, encoder: str, run: Callable[[], torch.Tensor]) -> int:
    """Find the size of the vectors, from one item."""
    try:
        with torch.inference_mode():
            found = run()
    except Exception as error:  # whatever the user's own code raises
        raise CheckpointError(
            f"{name}: its {encoder} encoder fails on one item: {type(error).__name__}: "
            f"{brief(error)}"
        ) from error
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != 1:
        raise CheckpointError(
            f"{name}: its {encoder} encoder returns {shape} for one item; return float32 [n, D]"
        )
    return int(shape[1])

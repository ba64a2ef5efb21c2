"""Zero-shot classification: labels and templates -> prompts, cosines -> scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.errors import MalformedRequest, quoted
from gateway.models.manifest import Manifest
from gateway.models.values import Prediction, Vectors
from gateway.pipeline.vectors import Rows, Scores, cosines, sigmoid, softmax

PLACEHOLDER = "{}"
PREDICTION_BYTES = 480  # as objects; measured
DEFAULT_TEMPLATES = (PLACEHOLDER,)  # labels as they are


@dataclass(frozen=True, slots=True)
class Label:
    """What an image may be classified as."""

    name: str  # what the answer says
    names: tuple[str, ...]  # what stands in the templates


def check_templates(templates: Sequence[str]) -> None:
    """Each template must hold `{}` exactly once.

    Raises:
        MalformedRequest: One does not.
    """
    for index, template in enumerate(templates):
        if template.count(PLACEHOLDER) != 1:
            raise MalformedRequest(
                f"the template {quoted(template)} must hold {PLACEHOLDER} exactly once, "
                "where the label goes",
                param=f"templates[{index}]",
            )


def prompts(label: Label, templates: Sequence[str]) -> Iterator[str]:
    """Each name of a label in each template."""
    # Not str.format: a label or template with other braces is only text.
    return (template.replace(PLACEHOLDER, name) for name in label.names for template in templates)


def answer_bytes(images: int, labels: Sequence[str], top_k: int) -> int:
    """What the predictions take at most until they are sent, as objects and as JSON.

    Each image's repeat the names of their labels, which may be long.
    """
    names = sorted(map(_name_bytes, labels), reverse=True)[:top_k]
    return images * (len(names) * PREDICTION_BYTES + sum(names))


def _name_bytes(name: str) -> int:
    """In JSON, in a buffer that may be twice as large as it must; control characters take six."""
    if not name.isprintable():
        return 2 * 6 * len(name)
    return 2 * (len(name.encode()) + name.count('"') + name.count("\\"))


def logits(similarity: Scores, manifest: Manifest) -> Scores:
    """OpenCLIP's logits: `logit_scale * cosine`, and for SigLIP `logit_bias` added."""
    return manifest.logit_scale * similarity + (manifest.logit_bias or 0.0)


def classify(
    images: Vectors,
    classifier: Rows,
    labels: Sequence[str],
    manifest: Manifest,
    top_k: int,
) -> tuple[tuple[Prediction, ...], ...]:
    """Scores every image against every label and keeps the best.

    Args:
        images: Unit vectors, float32 [n, D].
        classifier: One unit vector per label, float32 or float64 [m, D].
        labels: The m labels.
        manifest: Gives `logit_scale` and, for SigLIP, `logit_bias`.
        top_k: How many predictions to keep per image.

    Returns:
        Per image its predictions, best first; equal scores stay in the order of the labels.
    """
    similarity = cosines(images, classifier)
    scaled = logits(similarity, manifest)
    scores = softmax(scaled) if manifest.scoring == "softmax" else sigmoid(scaled)
    orders = (-scores).argsort(axis=1, kind="stable")[:, :top_k]
    return tuple(
        tuple(
            Prediction(int(label), labels[label], float(scores[row, label]), float(cosine[label]))
            for label in order
        )
        for row, (order, cosine) in enumerate(zip(orders, similarity, strict=True))
    )

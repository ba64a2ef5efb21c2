"""Zero-shot classification: labels and templates -> prompts, cosines -> scores."""

from collections.abc import Sequence

from gateway.errors import MalformedRequest
from gateway.manifest import Manifest
from gateway.values import Prediction, Vectors
from gateway.vectors import cosines, sigmoid, softmax

PLACEHOLDER = "{}"
DEFAULT_TEMPLATES = (PLACEHOLDER,)  # labels as they are


def prompts(labels: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Each label in each template, label by label.

    Raises:
        MalformedRequest: A template does not hold `{}` exactly once.
    """
    for index, template in enumerate(templates):
        if template.count(PLACEHOLDER) != 1:
            raise MalformedRequest(
                f"the template {template!r} must hold {PLACEHOLDER} exactly once, "
                "where the label goes",
                param=f"templates[{index}]",
            )
    # Not str.format: a label or template with other braces is only text.
    return [template.replace(PLACEHOLDER, label) for label in labels for template in templates]


def classify(
    images: Vectors, classifier: Vectors, labels: Sequence[str], manifest: Manifest, top_k: int
) -> tuple[tuple[Prediction, ...], ...]:
    """Scores every image against every label and keeps the best.

    Args:
        images: Unit vectors, float32 [n, D].
        classifier: One unit vector per label, float32 [m, D].
        labels: The m labels.
        manifest: Gives `logit_scale` and, for SigLIP, `logit_bias`.
        top_k: How many predictions to keep per image.

    Returns:
        Per image its predictions, best first; equal scores stay in the order of the labels.
    """
    similarity = cosines(images, classifier)
    logits = manifest.logit_scale * similarity
    scores = (
        softmax(logits) if manifest.logit_bias is None else sigmoid(logits + manifest.logit_bias)
    )
    orders = (-scores).argsort(axis=1, kind="stable")[:, :top_k]
    return tuple(
        tuple(
            Prediction(int(label), labels[label], float(scores[row, label]), float(cosine[label]))
            for label in order
        )
        for row, (order, cosine) in enumerate(zip(orders, similarity, strict=True))
    )

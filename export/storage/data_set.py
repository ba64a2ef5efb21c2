"""A data set for CLIP_benchmark's metrics, with classes or with captions."""

from dataclasses import dataclass

PLACEHOLDER = "{c}"  # of a class's name in a template


@dataclass(frozen=True, slots=True)
class DataSet:
    """Pictures with the classes or the captions of the data set; the other fields are empty.

    Attributes:
        name: Name for reports.
        pictures: Encoded image files.
        classes: Names of the classes.
        templates: Each holds `{c}` in place of the name; their mean is the vector of a class.
        labels: Index in `classes` of each picture's class.
        captions: Texts of the pictures, which need not be distinct.
        owners: Index in `pictures` of each caption's picture.
    """

    name: str
    pictures: tuple[bytes, ...]
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    captions: tuple[str, ...] = ()
    owners: tuple[int, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts to encode: the prompts of each class, class by class, or the captions."""
        if not self.classes:
            return self.captions
        return tuple(
            template.replace(PLACEHOLDER, name)
            for name in self.classes
            for template in self.templates
        )

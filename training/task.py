"""What a net is trained to tell of an image: its class, or any number of labels."""

from __future__ import annotations

from dataclasses import dataclass

from training.listing.listing import Images


@dataclass(frozen=True)
class Task:
    """Task of a net, as the images decide it.

    Attributes:
        activation: Activation of its classifier.
        metric: Name of what the best epoch is chosen by; in the history of the test images
            `val_` stands before it.
        title: The metric, for people.
    """

    activation: str
    metric: str
    title: str

    @property
    def best_by(self) -> str:
        """Name of the metric of the test images."""
        return f"val_{self.metric}"


ONE_CLASS = Task("softmax", "top1", "accuracy")
# Each label is a question of its own, so that their probabilities do not sum to 1.
LABELS = Task("sigmoid", "mAP", "mean average precision")


def task_of(images: Images) -> Task:
    """Return the task of a set of images."""
    return ONE_CLASS if images.label_sets is None else LABELS

"""The search by trainings of `training.train`, each in a process of its own."""

from training.search.hypermodel import RecipeHyperModel, load_space

__all__ = ["RecipeHyperModel", "load_space"]

"""The search over architectures: what varies, what is refused, and who proposes."""

from training.search.constraints import Constraints
from training.search.hypermodel import PreActHyperModel
from training.search.oracles import OBJECTIVES, ORACLES, make_oracle
from training.search.space import SearchSpace, load_space

__all__ = [
    "OBJECTIVES",
    "ORACLES",
    "Constraints",
    "PreActHyperModel",
    "SearchSpace",
    "load_space",
    "make_oracle",
]

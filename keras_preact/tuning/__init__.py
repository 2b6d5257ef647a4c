"""Searches for nets within a budget, with KerasTuner: `pip install keras_preact[tune]`."""

from keras_preact.tuning.constraints import Constraints
from keras_preact.tuning.hypermodel import PreActHyperModel
from keras_preact.tuning.oracles import OBJECTIVES, ORACLES, make_oracle
from keras_preact.tuning.regnet import regnet_stages
from keras_preact.tuning.space import SearchSpace, read_space
from keras_preact.tuning.tuner import OracleTuner

__all__ = [
    "OBJECTIVES",
    "ORACLES",
    "Constraints",
    "OracleTuner",
    "PreActHyperModel",
    "SearchSpace",
    "make_oracle",
    "read_space",
    "regnet_stages",
]

"""What is trained, how it is updated, and how fast.

    optimizers.py  update rules
    adafactor.py   the one that torch does not have as T5 was trained with it
    schedules.py   the learning rate of each step
    layers.py      which parameter is what: its block, whether it decays, whether it is frozen
    lora.py        low-rank adapters
    averaging.py   a moving average of the weights
    twins.py       bf16 copies to compute with, over fp32 master weights

Comes in: a T5 and a TrainingConfig. Goes out: torch optimizers, numbers. Must not know data, workers or files.
"""

from t5ray.model.optim.adafactor import Adafactor
from t5ray.model.optim.averaging import WeightAverage
from t5ray.model.optim.layers import frozen
from t5ray.model.optim.lora import adapted, merged, merged_weights
from t5ray.model.optim.optimizers import build_optimizer, set_learning_rate
from t5ray.model.optim.schedules import learning_rate_at
from t5ray.model.optim.twins import Twins

__all__ = [
    "Adafactor",
    "Twins",
    "WeightAverage",
    "adapted",
    "build_optimizer",
    "frozen",
    "learning_rate_at",
    "merged",
    "merged_weights",
    "set_learning_rate",
]

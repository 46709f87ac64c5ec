"""Which parameter of a T5 is what, told by its name: its block, whether it decays."""

import re

BLOCK = re.compile(r"(?:^|\.)(encoder|decoder)\.block\.(\d+)\.")
UNDECAYED = re.compile(r"bias|norm")


def decays(name: str) -> bool:
    """Say whether weight decay applies: not to norms and biases, `relative_attention_bias` among them.

    Source: transformers' `Trainer.get_decay_parameter_names`.
    """
    return UNDECAYED.search(name) is None

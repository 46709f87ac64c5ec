"""T5's training forward over real tokens only: the same mathematics as transformers', without the padding.

`forward.py` walks a transformers T5's own submodules over packed tokens [N, D]; `layout.py` says where each token lies
in padded attention; `ops.py` has the pieces in between, `cpu.py` and `cpu_attention.py` their versions for CPUs, in
fp32 and bf16, `loss.py` the cross-entropy. Must not know optimizers, workers or data files.
"""

from t5ray.model.packed.forward import packed, summed_loss

__all__ = ["packed", "summed_loss"]

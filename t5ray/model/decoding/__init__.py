"""T5 decoding in plain PyTorch: the same tokens as transformers' `generate`, without its costs.

    weights.py     matrices, fused and laid out for scoring      positions.py   relative position bias
    encoder.py     token ids -> states, without padding          decoder.py     one step for a batch whose rows change
    vocabulary.py  states -> logits, best token                  layers.py      what encoder and decoder share
    words.py       the same in bf16 on a CPU, word by word       linear.py      a matrix laid out for its products
    waiting.py     encoded rows that wait for a place            activations.py GELU and its like
    places.py      texts attend to the encoder's states          processors.py  penalties, bans, sampling
    greedy.py      one token after another                       beam.py        beam search
    labels.py      closed answers as a prefix tree

Comes in: a transformers T5, token ids. Goes out: token ids and log-probabilities. Must not know texts, tasks or files.
Source: Raffel et al. 2020; transformers' modeling_t5.py, whose results the tests hold this to.
"""

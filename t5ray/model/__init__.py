"""T5 and its tokenizer: load, save, publish as a bundle, optimise, decode. The only home of transformers.

    loading.py   a model from a hub id or directory       bundle.py   the directory that scores on its own
    weight_files.py  what is in its files, unread         special_tokens.py  what begins, ends and pads its texts
    bare.py      random weights for a model without any
    card.py      what scoring must know besides weights
    hardware.py  what this machine is fast at             numeric.py  precision, device and dropout
    engine.py    texts in, predictions out                predictor.py  tokens in, predictions out
    prediction.py  what both say of a row
    own_decode.py  decode settings of a model that is no bundle
    ctranslate.py  the same as engine.py, through CTranslate2
    batching.py  which rows go together                   streams.py  rows shared out to threads
    decoding/    T5's own fast encoder, decoder, searches and label tree
    packed/      training's forward and loss, over real tokens only
    optim/       what is trained, update rules, learning rates

Comes in: ids, directories, texts. Goes out: tensors, texts, directories. Must not know Ray or MLflow.
Nothing is re-exported: importing this package alone loads neither torch nor transformers.
"""

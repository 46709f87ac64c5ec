"""Pure text: what a task makes of a row, how predictions are judged, and what training text gets wrong.

    tasks.py    built-in tasks; rows -> inputs and references      lint.py       findings before training
    metrics.py  `score` and `judge`                                statistics.py one class per family of metrics
    squad.py    SQuAD's normalisation                              bootstrap.py  intervals
    objectives.py  what runs are judged by; problems of the files that settings name
    classes.py  predictions of labels, class by class              calibration.py  what their probabilities mean
    comparison.py  which candidates differ by more than chance
    augmentation.py  changed copies of inputs                      synonyms.py  of English words, from a table

Comes in: rows as mappings, texts. Goes out: texts and numbers. Must not know torch, ray, transformers or files of rows.
"""

"""One fine-tuning run: the loop, and the Ray Train workers around it.

    plan.py        what a run is told, and what it tells
    loop.py        epochs, validation, checkpoints; plain PyTorch, no Ray
    trainee.py     a model made ready for one run, and its state
    sharding.py    one model over many workers: copies or parts
    step.py        one optimizer step over micro-batches and workers
    course.py      what one epoch has gathered so far
    stopping.py    early stopping
    memory.py      what becomes of a run whose GPU is too small
    footprint.py   about how much of a machine's memory a worker takes
    room.py        what a run gets of the machine: CPUs, and whether it fits
    validation.py  loss and metrics on held-out rows, on real generations
    rows.py        held-out rows one by one, for comparisons in pairs
    checkpoint.py  what is on disk of a run: the states to go on from
    best.py        and its best weights, named after the step that made them
    patience.py    a storage URI that is away for a moment
    augmentation.py  what a user is told of augmentation
    mailbox.py     how a driver and a running group of workers talk
    worker.py      the function that Ray Train runs on every worker
    probe.py       a few timed steps, for an estimate
    rendezvous.py  how the workers of a group find each other
    slot.py        a worker group that lives on and runs job after job

Comes in: a model, tokenised data, a TrainingConfig. Goes out: epoch reports and a directory with the best weights.
Must not know Ray Tune, Optuna or MLflow.
"""

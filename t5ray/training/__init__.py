"""One fine-tuning run: the loop, and the Ray Train workers around it.

The run, as a command sees it

    run.py          a single run, from its books to its bundle
    books.py        what a single run keeps, for --resume and for the user
    curves.py       what MLflow is sent of an epoch
    prepare.py      what a run needs, checked before Ray starts
    plan.py         what a run is told, and what it tells
    room.py         what a run gets of the machine: CPUs, and whether it fits
    footprint.py    about how much of a machine's memory a worker takes
    probe.py        a few timed steps, for an estimate
    augmentation.py what a user is told of augmentation
    outcome.py      the bundle of the best epoch, and one look at test
    calibration.py  the temperature of a finished classifier
    errand.py       work on a finished model, where its run had its hardware

The loop, in plain PyTorch

    loop.py         epochs, validation, checkpoints
    trainee.py      a model made ready for one run, and its state
    sharding.py     one model over many workers: copies or parts
    step.py         one optimizer step over micro-batches and workers
    micro_batch.py  how many rows a worker forwards at once
    course.py       what one epoch has gathered so far
    validation.py   loss and metrics on held-out rows, on real generations
    rows.py         held-out rows one by one, for comparisons in pairs
    stopping.py     early stopping
    random_state.py save and restore a worker's random numbers
    memory.py       what becomes of a run whose GPU is too small
    group.py        the workers that share a run, seen from one of them

What is on disk

    place.py        where a run or a search keeps what, here and at a URI
    checkpoint.py   the states to go on from
    shared_state.py which of them all workers go on from
    best.py         the best weights that are kept, named after the step that made them
    best_so_far.py  the best weights from when they are judged until they are kept
    patience.py     a storage URI that is away for a moment
    refusal.py      a disk that takes no more
    scratch.py      temporary folders, and what kills left of them

Who talks to whom

    slot.py         a worker group that lives on and runs job after job
    worker.py       the function that Ray Train runs on every worker
    mailbox.py      how a driver and a running group of workers talk
    rendezvous.py   how the workers of a group find each other

Comes in: a model, tokenised data, a TrainingConfig. Goes out: epoch reports and a directory with the best weights.
Must not know Ray Tune, Optuna or MLflow.
"""

"""The scoring job: any rows in, the same rows with predictions out, each exactly once and in input order.

    inputs.py     the files of a job and their shards
    scanning.py   files, read once -> columns, digest, where each shard begins
    hub_copy.py   a dataset of the hub -> Parquet files beside the output
    kinds.py      what types the columns of a text input have
    reading.py    the rows of one shard                    writing.py   the bytes of one part, and back
    restoring.py  columns of a part -> the values that the input held
    ledger.py     what is finished: atomic parts, one entry each, `_job.json`
    journal.py    what a worker is at: progress, and what killed it
    engines.py    what a scorer needs of an engine          halving.py   one that fails on some texts
    ahead.py      work on what comes next while this is busy
    predicting.py the rows of one shard -> results, slice by slice
    scorer.py     shard after shard: read, score, commit, each beside its neighbours
    fetching.py   models at URIs and in MLflow, kept in a cache
    opening.py    a model's name -> what scoring must know of it
    plan.py       settings -> a job, checked before Ray starts
    sameness.py   what makes two jobs the same             overlap.py   an output that would be input
    pool.py       how many scorers, what each holds and is handed at a time
    job.py        a job on Ray Data                        failures.py  what the first failed row of a job says
    labelled.py   rows with references                      evaluation.py   predictions against them
    back_translation.py  texts into another language and back, as two jobs

The only home of ray.data. Must know neither training nor search.

Design. The rows of the Ray dataset are *shard descriptions* (a file and a range of its rows), not the data. A worker
of an actor pool is handed a block of them. It reads a range, scores it, and commits the part file whole (temporary
name, fsync, rename), then a ledger entry; what returns through Ray is that this is done. While it scores one, it reads
and tokenises the next and commits the last. Against the idiomatic read -> map_batches -> write this gives:
order, as a part's name is its place in the input; exactly once, as a repeated task writes the same name with the same
bytes and a finished shard is never handed out again; restart of workers, driver or machine by one rule (shards without
an entry are pending); memory that holds three shards per worker however long the input is, as no row passes the object
store. Ray Data still does what it is good at: placing the pool, restarting dead workers, repeating their tasks, feeding
each as it becomes free.
"""

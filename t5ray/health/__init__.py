"""What a cluster's nodes say of themselves, and what is wrong with it: `python -m t5ray.doctor --cluster`.

    finding.py   what a check found, with its mend
    node.py      a node examines itself: software, storage, tracking, GPUs, disk, data, model; knows no Ray
    survey.py    one actor of Ray per node brings the reports to the driver, and measures the clocks
    checks.py    reports -> findings, as pure functions
    scratch.py   a folder for trials of the storage

Comes in: settings and a Ray that is connected. Goes out: findings. Must not know how they are shown.
"""

"""`python -m t5ray`, and the console script `t5ray`: lists the commands and hands over to one."""

import sys
from importlib import import_module

from t5ray import __version__
from t5ray.errors import did_you_mean

COMMANDS = {
    "tune": "search hyperparameters over Ray workers; no flags: the embedded demo",
    "train": "one fine-tuning run with given hyperparameters",
    "predict": "score any amount of data with a model or bundle",
    "evaluate": "predictions, metrics with intervals and a report on labelled data",
    "doctor": "check this machine or cluster before money is spent",
}


def main() -> int:
    """Run `t5ray COMMAND ...`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        entry = import_module(f"t5ray.{name}")
        return int(entry.main(sys.argv[2:]))
    if name in ("--version", "-V"):
        print(f"t5ray {__version__}")
        return 0
    lines = [f"  {command:<10}{purpose}" for command, purpose in COMMANDS.items()]
    print(f"t5ray {__version__}\n\nUsage: t5ray COMMAND [OPTIONS]\n")
    print("\n".join(lines))
    print("\nt5ray COMMAND --help says more; so does python -m t5ray.COMMAND --help.")
    if name in ("--help", "-h"):
        return 0
    hint = did_you_mean(name, COMMANDS)
    print(f"\nThere is no command {name!r}. {hint if hint.startswith('Did') else ''}".rstrip(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())

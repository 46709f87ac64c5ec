"""A warm slot as Tune sees it: one actor that runs trial after trial, one `step` per epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray.tune

from t5ray.redaction import hide_secrets
from t5ray.training.mailbox import Message
from t5ray.training.plan import RunPlan
from t5ray.training.slot import Slot, SlotSpec


@dataclass(frozen=True)
class TrialSpec:
    """What every trial of a search shares: its slot, and the plan that its parameters are put into."""

    slot: SlotSpec
    plan: RunPlan
    """Plan of the default settings, with the folder that holds one folder per trial."""

    def plan_for(self, key: str, params: Mapping[str, Any], seed: int | None = None) -> RunPlan:
        """Return the plan of one trial, or of its run on a fresh seed; `key` names its folder."""
        fresh = {} if seed is None else {"seed": seed}
        return replace(
            self.plan,
            config=self.plan.config.with_params({**params, **fresh}),
            folder=self.plan.folder / key,
            remote=f"{self.plan.remote}/{key}" if self.plan.remote else None,
            judge_rows=seed is not None,
        )


class SlotTrainable(ray.tune.Trainable):
    """Runs the trials that Tune assigns to its actor, one after the other, in one slot."""

    def setup(self, config: dict[str, Any], spec: TrialSpec) -> None:
        """Start the slot and its first trial."""
        self.spec = spec
        self.slot = Slot(spec.slot)
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self.plan = self.spec.plan_for(config["key"], config["params"], config.get("seed"))
        self.slot.start(self.plan)
        self.reported: int | None = None
        self.over = False

    def step(self) -> dict[str, Any]:
        """Run to the end of the next epoch. That Tune asks means that the trial goes on."""
        if self.reported is not None:
            self.slot.decide(self.reported, go_on=True)
        message = self.slot.next_message()
        if message.report is None:
            return self._fail(message)
        self.reported = message.report["epoch"]
        if not (self.plan.judge_rows and message.report["final"]):
            return {**message.report, "done": message.report["final"]}
        self.slot.decide(message.report["epoch"], go_on=True)
        last = self.slot.next_message()
        if last.rows is None:
            return self._fail(last)
        self.over = True
        validate_s = message.report["validate_s"] + last.judge_s  # judging rows is validation, not overhead
        return {**message.report, "validate_s": validate_s, "rows": last.rows, "done": True}

    def _fail(self, message: Message) -> dict[str, Any]:
        self.over = True
        cause = hide_secrets(str(message.failure))  # search.json, MLflow and Optuna take it
        return {"done": True, "away" if message.away else "failure": cause}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End the trial and begin another one in the same slot."""
        self._end()
        self._begin(new_config)
        return True

    def _end(self) -> None:
        if self.reported is not None and not self.over:
            self.slot.decide(self.reported, go_on=False)
        self.slot.settle()

    def cleanup(self) -> None:
        """End the slot: Tune needs this actor no more.

        The trial may be one that --resume is to go on with: its state stays where it is.
        """
        self.slot.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing through Tune: the run's own folder holds its state."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing: a run goes on from its own folder."""

"""A model made ready for one run, what updates it, and its state. When the run ends, the model is as it came."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from t5ray.config import TrainingConfig
from t5ray.model.loading import LoadedModel
from t5ray.model.numeric import set_dropout
from t5ray.model.optim import Twins, WeightAverage, adapted, build_optimizer, frozen, merged, merged_weights
from t5ray.training.group import Group
from t5ray.training.plan import RunFailed
from t5ray.training.sharding import gathered, placed_like, placed_optimizer_state, spread, whole


@dataclass(frozen=True)
class Trainee:
    """What the loop trains."""

    loaded: LoadedModel
    config: TrainingConfig
    forward: torch.nn.Module
    """The model, or what spreads it over workers."""
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    """The moving average that is judged and kept in the place of the weights."""
    twins: Twins | None = None
    """What the model computes with in the place of its parameters."""

    @property
    def sharded(self) -> bool:
        """Whether each worker holds a part of the model only."""
        return isinstance(self.forward, FSDPModule)

    @contextmanager
    def as_published(self) -> Iterator[LoadedModel]:
        """Show the model with the weights that are judged and kept."""
        with (
            self._own_weights(),
            self.average.in_place() if self.average else nullcontext(),
            nullcontext() if self.sharded else merged(self.loaded.model),
        ):
            yield self.loaded

    def whole(self) -> AbstractContextManager[None]:
        """Let each worker call the model alone."""
        return whole(self.loaded.model)

    def full_weights(self) -> dict[str, torch.Tensor] | None:
        """Return the weights of a sharded model, adapters merged, on worker 0; None where the model itself has them."""
        if not self.sharded:
            return None
        weights = gathered(dict(self.loaded.model.named_parameters()))
        return None if any(weight is None for weight in weights.values()) else merged_weights(weights, self.config)

    def state(self) -> dict[str, Any]:
        """Return what changes while it trains: frozen weights are not part of it. Worker 0's is whole."""
        average = self.average
        with self._own_weights():
            weights = {name: weight.detach() for name, weight in self._trained()}
        state = {
            "weights": weights,
            "optimizer": self.optimizer.state_dict(),
            "average": None if average is None else {"values": average.values, "steps": average.steps},
        }
        return dict(gathered(state)) if self.sharded else state

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Take such a state on."""
        with self._own_weights():
            for name, weight in self._trained():
                weight.copy_(placed_like(state["weights"][name], weight))
        self.optimizer.load_state_dict(placed_optimizer_state(state["optimizer"], self.optimizer))
        if self.average is not None:
            self.average.steps = state["average"]["steps"]
            for mine, saved in zip(self.average.values, state["average"]["values"], strict=True):
                mine.copy_(placed_like(saved, mine))

    def _own_weights(self) -> AbstractContextManager[None]:
        """Let the model have the parameters that the optimizer updates."""
        return self.twins.away() if self.twins else nullcontext()

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, weight) for name, weight in self.loaded.model.named_parameters() if weight.requires_grad)


@contextmanager
def made_ready(loaded: LoadedModel, config: TrainingConfig, group: Group) -> Iterator[Trainee]:
    """Set dropout, put adapters in, freeze, spread over workers and build what updates the model.

    Args:
        loaded: pristine weights; trained in place, and spent where they are sharded.
    Raises:
        RunFailed: the settings do not fit the model.
    """
    model = loaded.model.train()
    set_dropout(model, config.dropout)
    model.activation_checkpointing_disable()
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.disable_input_require_grads()  # only reentrant checkpoints need that, and frozen parts are spared it
    with ExitStack() as stack:
        try:
            trainee = _trainee(loaded, config, group, stack)
        except ValueError as exc:  # of the settings; one that the run itself raises is a bug
            raise RunFailed(str(exc)) from exc
        yield trainee


def _trainee(loaded: LoadedModel, config: TrainingConfig, group: Group, stack: ExitStack) -> Trainee:
    """Change the model as the settings say, until the stack is closed."""
    model = loaded.model
    twins: Twins | None = None
    stack.enter_context(adapted(model, config))
    stack.enter_context(frozen(model, config))
    if config.precision == "bf16_pure":
        twins = Twins(model.to(group.device))
        stack.enter_context(twins.in_place())
    forward = spread(model, config, group)
    with twins.away() if twins else nullcontext():
        average = WeightAverage(model, config.ema_decay) if config.ema_decay else None
        optimizer = build_optimizer(model, config)
    if twins:
        twins.follow(optimizer)
    return Trainee(loaded, config, forward, optimizer, average, twins)

"""Optuna's samplers as a search-space file names them, and what the user should know of the choice."""

import warnings

import optuna

from t5ray.config import SamplerConfig, SearchSpace


def build_sampler(config: SamplerConfig, space: SearchSpace, seed: int) -> optuna.samplers.BaseSampler:
    """Make the sampler. A grid proposes by itself (`space.grid`): what is asked of it here is never used."""
    startup = config.startup_trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match config.name:
            case "tpe":
                return optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=startup,
                    multivariate=config.multivariate,
                    group=config.multivariate and is_conditional(space),
                    constant_liar=config.constant_liar,
                )
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(
                    seed=seed, n_startup_trials=startup, sigma0=config.sigma, warn_independent_sampling=False
                )
    return optuna.samplers.RandomSampler(seed=seed)


def is_conditional(space: SearchSpace) -> bool:
    """Say whether some parameter is drawn in some trials only, or from different ranges."""
    return any(values.when for ranges in space.parameters.values() for values in ranges)


def drawn_at_random(space: SearchSpace) -> list[str]:
    """Return the parameters that the space's sampler cannot learn about and draws at random."""
    if space.sampler.name not in ("gp", "cmaes"):
        return []
    return [
        name
        for name, ranges in space.parameters.items()
        if any(values.when or (space.sampler.name == "cmaes" and values.kind == "choice") for values in ranges)
    ]


def notes(space: SearchSpace) -> list[str]:
    """Return what the user should know of the sampler before the search starts."""
    blind = drawn_at_random(space)
    if not blind:
        return []
    cannot = "parameters under a `when:`" + (" and choices" if space.sampler.name == "cmaes" else "")
    return [
        f"sampler {space.sampler.name} learns nothing about {cannot}: {', '.join(blind)} "
        f"{'is' if len(blind) == 1 else 'are'} drawn at random. Use tpe to learn about all of them."
    ]

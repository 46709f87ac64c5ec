"""What the bare commands run."""

import subprocess
import sys
from pathlib import Path

from t5ray import demo
from t5ray.config import RunConfig, SearchSpace, TrainingConfig, load_settings, read_yaml

SPACE = Path(__file__).parents[2] / "search_spaces" / "demo.yaml"


def test_the_demo_settings_are_settings_and_their_paths_exist() -> None:
    config = load_settings(RunConfig, config=None, flags={}, base=demo.settings())
    assert all(Path(str(path)).exists() for path in (config.data.path, config.task, config.model))
    assert config.search.space == "demo"


def test_the_first_trial_runs_the_defaults_which_lie_in_the_space() -> None:
    parameters = SearchSpace.model_validate(read_yaml(SPACE)).parameters
    config, defaults = load_settings(RunConfig, config=None, flags={}, base=demo.settings()), TrainingConfig()
    for name, (values,) in parameters.items():
        default = getattr(defaults, name)
        assert getattr(config.training, name) == default
        low, high = min(values.bounds), max(values.bounds)
        assert low <= default <= high


def test_the_package_imports_nothing_heavy() -> None:
    code = "import sys, t5ray.demo; print(sorted({'torch', 'ray', 'transformers', 'mlflow'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"

"""t5ray: fine-tune T5 with Ray Train, search with Ray Tune, score with Ray Data, compare in MLflow."""

__version__ = "0.1.0"

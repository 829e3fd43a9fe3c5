"""A sweep: Optuna proposes, runs answer. The only place that imports optuna."""

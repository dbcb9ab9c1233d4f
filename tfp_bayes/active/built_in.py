"""Names that configurations of active learning accept, listed without importing their code."""

from tfp_bayes._plumbing.registry import Registry

_HERE = "tfp_bayes.active"

ACQUISITIONS = Registry(
    {
        name: f"{_HERE}.acquisition:{name}"
        for name in (
            "bald",
            "epig",
            "variation_ratios",
            "max_entropy",
            "mean_std",
            "margin",
            "least_confident",
            "predictive_variance",
            "random",
        )
    }
)

SELECTORS = Registry(
    {
        "top_k": f"{_HERE}.selectors.top_k:TopK",
        "batch_bald": f"{_HERE}.selectors.batch_bald:BatchBALD",
        "diverse": f"{_HERE}.selectors.diverse:Diverse",
        "power": f"{_HERE}.selectors.stochastic:Power",
        "softmax": f"{_HERE}.selectors.stochastic:Softmax",
        "softrank": f"{_HERE}.selectors.stochastic:Softrank",
        "k_center": f"{_HERE}.selectors.k_center:KCenter",
        "badge": f"{_HERE}.selectors.badge:BADGE",
        "greedy_variance": f"{_HERE}.selectors.greedy_variance:GreedyVariance",
    }
)

FILTERS = Registry(
    {
        "dynamic_threshold": f"{_HERE}.filters:DynamicThreshold",
        "static_threshold": f"{_HERE}.filters:StaticThreshold",
        "bayes_threshold": f"{_HERE}.filters:BayesThreshold",
        "budget_threshold": f"{_HERE}.filters:BudgetThreshold",
        "oracle": f"{_HERE}.filters:OracleFilter",
        "random": f"{_HERE}.filters:RandomFilter",
    }
)

INITIAL = ("balanced", "random", "kmeans", "kmeans_unlabelled")
REINIT = ("fresh", "warm", "shrink_perturb")
REJECTED = ("skip", "quarantine", "relabel")

# Keyword arguments of `ActiveLearner` in 0.1, each with the new argument that contains it and its
# name there.
MOVED = {
    "acquisition": ("query", "acquisition"),
    "selector": ("query", "selector"),
    "query_size": ("query", "size"),
    "candidates": ("query", "candidates"),
    "num_samples": ("query", "num_samples"),
    "ignore": ("query", "ignore"),
    "reinit": ("refit", "reinit"),
    "steps": ("refit", "steps"),
    "max_steps": ("refit", "max_steps"),
    "batch_size": ("refit", "batch_size"),
    "test_data": ("evaluation", "test_data"),
    "validation_data": ("evaluation", "validation_data"),
    "evaluation_samples": ("evaluation", "num_samples"),
    "rejected": ("label_filter", "rejected"),
    "initial_labels": ("initial", "labels"),
}

"""Pools of any size: scoring in parts, by processes or a Ray cluster, and exact selection."""

from typing import TYPE_CHECKING

from tfp_bayes._plumbing.lazy import lazy_contents

if TYPE_CHECKING:
    from tfp_bayes.scale.choice import Chosen
    from tfp_bayes.scale.closed_form import condition
    from tfp_bayes.scale.joint import CertifiedBatch, batch_bald, epig
    from tfp_bayes.scale.parquet_rows import ParquetRows
    from tfp_bayes.scale.pool import ScoredPool
    from tfp_bayes.scale.pool_scorer import PoolScorer
    from tfp_bayes.scale.rows import ImageFolder, NpyRows, RowSource
    from tfp_bayes.scale.run import FailedPartsError
    from tfp_bayes.scale.score import score_pool
    from tfp_bayes.scale.summary import Summary

__all__ = [
    "CertifiedBatch",
    "Chosen",
    "FailedPartsError",
    "ImageFolder",
    "NpyRows",
    "ParquetRows",
    "PoolScorer",
    "RowSource",
    "ScoredPool",
    "Summary",
    "batch_bald",
    "condition",
    "epig",
    "score_pool",
]

_DEFINED_IN = {
    "CertifiedBatch": "joint",
    "Chosen": "choice",
    "FailedPartsError": "run",
    "ImageFolder": "rows",
    "NpyRows": "rows",
    "ParquetRows": "parquet_rows",
    "PoolScorer": "pool_scorer",
    "RowSource": "rows",
    "ScoredPool": "pool",
    "Summary": "summary",
    "batch_bald": "joint",
    "condition": "closed_form",
    "epig": "joint",
    "score_pool": "score",
}

__getattr__, __dir__ = lazy_contents(__name__, __all__, _DEFINED_IN)

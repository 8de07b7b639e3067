"""Pure tensor functions: advantages, losses, KL estimators, aggregation. No models, no files.

A variant is a row in a literal dict (`ADVANTAGES`, `KL_ESTIMATORS`, `AGGREGATIONS`); the training loop knows no names.
"""

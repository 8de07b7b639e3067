"""Tests need no network: a model that is not there is not to be asked for. Set before anything reads it."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

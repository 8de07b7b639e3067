"""The reward service: a long-lived process with a device of its own that loads one scorer and answers over HTTP.

    request -> media decoded, in processes -> gathered for a few ms -> scorer, one batch at a time -> reply

A scorer is a class in `SCORERS`, or any `pkg.mod:attr`, `file.py:attr` or entry point of the group "mmreason.scorers",
called once with `device=` and its options. What it must have is `scorers.Scorer`. Rewards that ask a service
are in rewards/service.py; the two share nothing but the messages (docs/rewards.md).
"""

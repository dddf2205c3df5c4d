"""Alignment: what teaches an assembled model by preference, by reward and by a teacher.

`preferences`, `policy` and `distances` are the losses, small pure functions of log-probabilities; `scored` computes the
log-probabilities of given answers, `reference` keeps the small trained tensors as they were at the start of a run,
`rewards` judge what a model wrote, `judging` has a model prefer one of two answers, and `rollouts` has it write.
`teacher` is another model, and `lessons` are what it says of answers. `self_instruct` has a model write questions and
answers to learn from, without duplicates, which `likeness` tells. `config` has the settings of objectives, which are
in `mmlm.training.objectives`.
"""

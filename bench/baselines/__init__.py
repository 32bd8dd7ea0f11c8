"""Losses of well-known trainers in plain PyTorch, from their formulas: what fastgan.compat is compared with."""

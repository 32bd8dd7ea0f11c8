"""Differentiable operations on tensors; they know no discriminator."""

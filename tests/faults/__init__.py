"""Kinds of faults that trainers of GANs reported, each right value against float64 autograd of the plain formula."""

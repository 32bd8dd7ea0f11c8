"""Faults of a training run: each claim runs the tests that refute it, those of make test-all among them."""

from __future__ import annotations

from functools import partial

from tests.proof import suite
from tests.proof.claims import Batch, Claim

HERE = "tests/faults/test_training.py"
PATIENCE = 800  # seconds for the tests of one claim

# For each claim what must hold, and the tests of it.
ITEMS: dict[str, tuple[str, list[str]]] = {
    "a logit that is no finite number": (
        "loss, gradients and statistics as in PyTorch; the next step has the bits of a fresh one",
        [
            f"{HERE}::test_a_logit_that_is_not_finite",
            f"{HERE}::test_a_step_after_one_of_none",
            "tests/losses/test_losses.py::test_special_values_propagate",
            "tests/faults/test_k4_state.py::test_an_overflow_does_not_stay_in_the_averages",
        ],
    ),
    "a sample whose gradient is zero": (
        "finite gradients in every kind, and psi(0) in the mean",
        [
            f"{HERE}::test_a_sample_of_which_the_gradient_is_zero",
            f"{HERE}::test_a_sample_that_an_approximation_does_not_see",
            "tests/penalties/test_norms.py::test_a_row_of_zeros",
        ],
    ),
    "a GradScaler's overflow": (
        "the step skipped, the scale halved, the next step with the bits of a run without it",
        [
            f"{HERE}::test_an_overflow_is_skipped_and_forgotten",
            f"{HERE}::test_an_overflow_of_the_logits_in_float16",
            "tests/faults/test_k4_state.py::test_steps_go_on_after_an_overflow_in_float16",
            "tests/discriminator/test_generator_step.py::test_an_overflow_leaves_the_averages",
        ],
    ),
    "ranks of unequal batches": (
        "the relativistic sum over both is that of one process within 1e-12; a step under DDP is PyTorch's",
        [
            f"{HERE}::test_ranks_of_unequal_batches",
            "tests/losses/test_distributed.py::test_two_ranks_are_one_batch",
        ],
    ),
    "DistributedDataParallel": (
        "the same bits on both ranks, and the averaged gradients; a static graph refuses penalties",
        [
            f"{HERE}::test_two_ranks",
            "tests/losses/test_distributed.py::test_loss_and_penalty_in_one_backward_are_synchronised",
            "tests/faults/test_k5_wrappers.py::test_a_static_graph",
            "tests/faults/test_k5_wrappers.py::test_what_a_static_graph_is_good_for",
            "tests/faults/test_k5_wrappers.py::test_ranks_stay_together",
        ],
    ),
    "a checkpoint in the middle": (
        "the same bits from there on, in this process and in a new one",
        [
            f"{HERE}::test_a_run_that_is_resumed",
            f"{HERE}::test_a_run_that_is_resumed_in_another_process",
            "tests/faults/test_k4_state.py::test_counts_are_kept_in_checkpoints",
        ],
    ),
    "a hundred thousand calls": (
        "no memory, no object and no tensor more",
        [f"{HERE}::test_nothing_grows", "tests/losses/test_autograd.py::test_the_graph_lets_go_of_its_memory"],
    ),
    "eight threads at once": (
        "the bits of one thread alone",
        [
            f"{HERE}::test_eight_threads_at_once",
            f"{HERE}::test_one_network_and_eight_threads",
            "tests/penalties/test_penalties.py::test_threads_give_the_settings_back",
            "tests/discriminator/test_frozen.py::test_blocks_of_two_threads_may_overlap",
        ],
    ),
    "streams": ("the same numbers in any stream", [f"{HERE}::test_several_streams"]),
    "forked and spawned processes": (
        "the same bits, and no hang, after import and after use",
        [f"{HERE}::test_a_forked_process", f"{HERE}::test_multiprocessing"],
    ),
    "workers of a DataLoader": ("the same bits, forked and spawned", [f"{HERE}::test_workers_of_a_data_loader"]),
    "accumulated gradients": (
        "those of the whole batch within 1e-11, and the same bits each time",
        [f"{HERE}::test_accumulated_gradients", f"{HERE}::test_a_lazy_penalty_counts_micro_batches"],
    ),
    "a compiled step": (
        "eager values within 1e-9 in float64, by aot_eager and inductor",
        [
            f"{HERE}::test_a_compiled_step",
            "tests/losses/test_modes.py::test_compile_traces_the_whole_graph",
            "tests/discriminator/test_step.py::test_inside_a_compiled_step",
        ],
    ),
    "an exported module": (
        "the same values, also where it is loaded; a penalty refuses",
        [
            f"{HERE}::test_an_exported_module",
            f"{HERE}::test_an_exported_module_is_saved",
            f"{HERE}::test_a_penalty_is_not_exported",
            "tests/losses/test_modes.py::test_export",
        ],
    ),
}


def run(tests: list[str], seed: int) -> Batch:
    """Run tests in a process of their own; those that are slow too."""
    return suite.passing(*suite.EVERY, *tests)


CLAIMS = [Claim(name, partial(run, tests), target, timeout=PATIENCE) for name, (target, tests) in ITEMS.items()]

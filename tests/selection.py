"""Which kind a test is of, by where it lies; which are quick (``make test``); and the order in which files begin.

Measured with an empty cache of compiled programs; ``build/tests-*.xml`` says what each takes now.
"""

from __future__ import annotations

FOLDERS = ("unit", "golden", "contract", "statistical", "cluster")
KINDS = {"contract/test_mpi.py": "mpi", "cluster/test_images.py": "images"}
"""The files whose tests need more than their folder says."""

QUICK: dict[str, tuple[str, ...]] = {
    "contract/test_campaign.py": (
        "test_every_data_set_gets_a_verdict_from_every_engine",
        "test_the_three_posteriors_are_the_exact_one",
        "test_a_wrong_posterior_would_be_seen",
        "test_log_evidence_is_exact",
        "test_figures_that_an_engine_has_not_are_null",
        "test_a_shard_says_what_it_was_computed_on",
        "test_python_interface",
        "test_the_report_stands_alone",
        "test_a_second_run_changes_nothing",
    ),
    "contract/test_log_density.py": (),
    "contract/test_bad_input.py": (),
    "contract/test_base_install.py": (),
    "statistical/test_nuts_exact.py": (
        "test_independence_steps_with_a_poor_mixture_leave_the_density_as_it_is",
        "test_steps_in_the_scale_of_a_component_leave_the_density_as_it_is",
        "test_a_mixture_whose_density_is_not_that_of_its_draws_is_seen",
    ),
    "contract/test_mpi.py": (
        "test_any_number_of_ranks_gives_the_bits_of_one_process[datasets-3]",
        "test_other_bits_would_be_seen",
    ),
    "contract/test_readme.py": ("test_make_has_the_targets_that_readme_names",),
    "golden": (),
    "unit": (),
}
"""Folder or file to the quick tests in it; none: all. Longest first, but MPI when the campaign leaves it a core."""

SLOW: dict[str, tuple[str, ...]] = {
    "contract/test_base_install.py": (
        "test_a_black_box_that_cannot_be_timed_has_its_data_sets_shared_out_and_says_why",
    ),
    "contract/test_log_density.py": (
        "test_a_loop_of_unknown_length_is_gone_through_once_a_point",
        "test_entries_that_never_change_are_left_out_of_figures",
        "test_it_is_known_which_entries_never_change",
    ),
    "unit/test_importance.py": (
        "test_an_accelerators_programs_give_what_a_processors_give",
        "test_a_data_set_is_the_same_alone_and_in_any_company",
        "test_bad_targets_come_back_empty_and_stall_nobody",
        "test_a_round_that_disagrees_with_the_one_before_is_not_trusted",
        "test_finished_data_sets_take_no_more_work",
        "test_many_parameters_get_few_kernels",
    ),
    "unit/test_loops.py": ("test_a_batch_on_an_accelerator_gives_what_a_processor_gives",),
    "unit/test_pilot.py": (
        "test_a_black_box_has_its_simulations_timed_apart_from_the_training",
        "test_a_real_pilot_times_every_kind_and_touches_nothing_else",
    ),
    "unit/test_truth_bench.py": ("test_every_case_has_data_sets_with_a_posterior",),
    "unit/test_snpe_features.py": ("test_counts_over_five_decades_stay_within_a_few_units",),
}
"""The tests of those folders and files that are not quick after all: they compile, train or sum for long."""


def marks_of(file: str, test: str) -> list[str]:
    """Return the markers of a test: its folder's, its file's kind, and ``quick``.

    Parameters
    ----------
    file
        The path of the test's file from ``tests``, as ``unit/test_config.py``.
    test
        The test's name, with its parameters: the tables name a function, or one of its tests.

    Raises
    ------
    ValueError
        The file lies in none of ``FOLDERS``.
    """
    folder = file.partition("/")[0]
    if folder not in FOLDERS:
        raise ValueError(f"tests/{file}: expected a test in one of the folders {', '.join(FOLDERS)}")
    known = {test, test.partition("[")[0]}
    names = QUICK.get(file, QUICK.get(folder))
    quick = names is not None and (not names or bool(known & set(names))) and not known & set(SLOW.get(file, ()))
    return [folder, *([KINDS[file]] if file in KINDS else []), *(["quick"] if quick else [])]


def begins(file: str) -> int:
    """Return the rank of a file: long ones begin first, so that no worker is left alone with one at the end."""
    folder = file.partition("/")[0]
    order = [*QUICK, "cluster", "statistical", "contract"]
    return order.index(file) if file in QUICK else order.index(folder)

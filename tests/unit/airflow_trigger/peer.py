"""What the tests of Airflow's dbt Cloud provider assert: where it is asserted here, or why it differs.

The table goes through the provider's tests one by one, and through what its code promises beyond them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PEER: Final = "4.11.1"
"""The version whose tests were read."""


@dataclass(frozen=True)
class Same:
    """Asserted here by these tests: of this folder, or by a path below `tests/`."""

    tests: tuple[str, ...]


@dataclass(frozen=True)
class Different:
    """On purpose. `names`: code that docs/airflow.md names; `tests`: what holds here instead."""

    because: str
    names: tuple[str, ...]
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One behaviour of the peer, and which of its tests assert it; none: its code promises it."""

    behaviour: str
    here: Same | Different
    seen: tuple[str, ...]


def same(*tests: str) -> Same:
    return Same(tests)


def different(because: str, names: tuple[str, ...], *tests: str) -> Different:
    return Different(because, names, tests)


def row(behaviour: str, here: Same | Different, *seen: str) -> Row:
    return Row(behaviour, here, seen)


NO_HOOK_PARAMS = different(
    "nothing in Airflow calls dbt Cloud; the watcher retries and limits its requests",
    ("hook_params",),
    "test_operator.py::test_an_argument_without_a_place_says_what_replaces_it",
)
NO_OPENLINEAGE = different(
    "the cause carries the watcher's marker, and the labels of the DbtRun say who created it",
    ("openlineage_inject_parent_job_info",),
    "test_operator.py::test_an_argument_without_a_place_says_what_replaces_it",
)
NO_LINEAGE_EVENTS = different(
    "whole manifests would be fetched by the worker, which has no token",
    (),
    "test_peer.py::test_nothing_else_of_the_providers_classes_is_missing",
)
NO_HOOK = different(
    "Airflow has no token to call dbt Cloud with",
    ("DbtCloudHook",),
    "test_peer.py::test_the_classes_without_a_counterpart_are_these",
)
NO_CONNECTION = different(
    "the token stays in a Secret that only the watcher reads",
    ("dbt_cloud_conn_id",),
    "test_access.py::test_without_anything_it_is_the_pods_own_and_no_connection_is_looked_up",
    "unit/connection/test_secret.py::test_a_host_may_have_a_port_and_a_scheme",
)
NO_STEP = different(
    "a file is kept once, when the run has ended",
    ("step",),
    "test_artifacts.py::test_an_argument_of_the_provider_without_a_place_is_taken_with_a_warning",
)
NOTHING_POLLED = different(
    "thousands of tasks wait on one watch of Kubernetes",
    ("check_interval",),
    "cluster/test_trigger.py::test_a_thousand_triggers_wait_on_one_watch",
)
WATCHER_RETRIES = different(
    "the watcher asks again by itself whatever is safe to repeat, and sends a start once",
    ("hook_params",),
    "unit/dbtcloud/test_submitting.py::test_it_is_sent_only_once_whatever_happens",
    "unit/dbtcloud/test_submitting.py::test_everything_else_leaves_it_undecided",
)

TRIGGER = (
    row(
        "class path and arguments survive the database",
        same("test_trigger.py::test_every_argument_survives_the_database"),
        "triggers::test_serialization",
    ),
    row(
        "hook_params survive it, less what is no JSON",
        NO_HOOK_PARAMS,
        "triggers::test_serialization_drops_hook_params_that_cannot_be_serialized",
    ),
    row(
        "no event while the run goes on",
        same("test_follow.py::test_a_live_run_is_waited_for"),
        "triggers::test_dbt_run_job_trigger",
    ),
    row(
        "end_time is an instant by the wall clock, the same in every process",
        same(
            "test_trigger.py::test_a_trigger_made_again_is_the_same",
            "cluster/test_trigger.py::test_an_end_time_that_passes_is_a_timeout_with_its_seconds",
        ),
        "triggers::test_dbt_run_job_trigger_uses_wall_clock_end_time",
    ),
    row(
        "the status is asked for once a poll",
        NOTHING_POLLED,
        "triggers::test_dbt_run_job_trigger_uses_wall_clock_end_time",
    ),
    row(
        "one event at the end: success, cancelled or error, with the run's id and a sentence",
        same(
            "test_event.py::test_a_success_has_the_sentence_that_users_know",
            "test_event.py::test_a_cancelled_run_says_who_cancelled_it",
            "test_event.py::test_a_failure_without_node_results_claims_no_count",
            "cluster/test_trigger.py::test_every_end_is_told_once",
        ),
        "triggers::test_dbt_job_run_for_terminal_status",
    ),
    row(
        "the event has status, message and run_id, no more",
        different(
            "who resumes should need no second request to say what happened",
            ("job_run_url", "reason", "namespace", "name"),
            "test_event.py::test_a_failure_counts_the_failed_nodes_and_repeats_what_dbt_said",
        ),
        "triggers::test_dbt_job_run_for_terminal_status",
    ),
    row(
        "any exception is an event of status error",
        different(
            "a network fault says nothing about the run",
            ("NoAccess",),
            "test_hub.py::test_outages_are_no_news_and_do_not_become_a_hot_loop",
            "test_hub.py::test_the_unforeseen_is_logged_and_survived",
        ),
        "triggers::test_dbt_job_run_exception",
    ),
    row(
        "access that stays refused is an event of status error",
        same("test_follow.py::test_a_refusal_is_borne_for_the_grace_and_then_told"),
    ),
    row(
        "an end_time that passed is an event of status error",
        different(
            "nobody said that the run failed",
            ("end_time", "timeout"),
            "test_trigger.py::test_an_end_time_in_the_past_is_a_timeout_at_once",
        ),
        "triggers::test_dbt_job_run_timeout",
    ),
    row(
        "a run that ended just before end_time did end",
        same("cluster/test_trigger.py::test_a_run_that_ended_before_the_end_time_is_no_timeout"),
    ),
    row(
        "an execution_deadline that passed is an event of status timeout",
        different(
            "a deadline in the trigger ends nothing when no triggerer runs",
            ("execution_deadline",),
            "test_operator.py::test_execution_timeout_cancels_the_run",
        ),
        "triggers::test_dbt_job_run_execution_timeout",
        "triggers::test_serialization",
    ),
    row(
        "is_still_running tells a live run from one that is over",
        same("cluster/test_trigger.py::test_whether_it_still_runs_can_be_asked"),
        "triggers::test_dbt_job_run_is_still_running",
    ),
    row(
        "is_still_running takes a hook",
        different(
            "there is none",
            ("is_still_running()",),
            "test_trigger.py::test_a_run_without_an_object_may_still_be_running",
        ),
        "triggers::test_dbt_job_run_is_still_running",
    ),
    row(
        "a status that nobody knows is not an end",
        same("test_follow.py::test_a_phase_that_only_a_newer_watcher_knows_is_waited_for"),
    ),
)

OPERATOR = (
    row(
        "every argument, with its default",
        same("test_peer.py::test_an_argument_has_the_providers_default_or_a_known_one"),
    ),
    row(
        "every argument is an attribute of its name",
        same("test_operator.py::test_every_argument_of_the_provider_is_an_attribute_of_that_name"),
        "operators::test_execute_wait_for_termination",
        "operators::test_execute_no_wait_for_termination",
        "operators::test_execute_no_wait_for_termination_and_reuse_existing_run",
        "operators::test_execute_retry_from_failure",
        "operators::test_execute_retry_from_failure_run",
        "operators::test_execute_retry_from_failure_rerun",
        "operators::test_custom_trigger_reason",
    ),
    row(
        "the same arguments are templates",
        same("test_peer.py::test_what_the_provider_templates_is_templated_or_has_no_effect"),
    ),
    row(
        "account, cause, steps, schema and run config reach dbt Cloud",
        same(
            "test_operator.py::test_the_providers_arguments_reach_the_object",
            "test_manifest.py::test_every_name_of_the_run_config_reaches_dbt_cloud_under_that_name",
            "unit/dbtcloud/test_submitting.py::test_a_start_sends_the_cause_and_only_the_overrides_that_are_set",
        ),
        "operators::test_execute_wait_for_termination",
        "operators::test_execute_no_wait_for_termination",
        "operators::test_custom_trigger_reason",
        "hooks::test_trigger_job_run",
        "hooks::test_trigger_job_run_with_overrides",
        "hooks::test_trigger_job_run_with_additional_run_configs",
    ),
    row(
        "the run config lies over the arguments",
        same("test_manifest.py::test_additional_run_config_lies_over_the_arguments"),
    ),
    row(
        "any name may stand in additional_run_config",
        different(
            "dbt Cloud ignores a misspelt one in silence",
            ("additional_run_config",),
            "test_manifest.py::test_arguments_that_cannot_work_are_refused_in_a_sentence",
        ),
    ),
    row(
        "account_id chooses the account, whatever the connection says",
        different(
            "a token belongs to the account of its Secret",
            ("account_id",),
            "unit/lifecycle/test_pending.py::test_the_account_of_the_connection_must_be_the_one_in_the_spec",
        ),
        "operators::test_execute_wait_for_termination",
        "operators::test_execute_no_wait_for_termination",
    ),
    row(
        "the default cause names task and DAG",
        same("test_operator.py::test_the_reason_is_the_providers_by_default"),
        "operators::test_execute_wait_for_termination",
        "operators::test_execute_does_not_inject_parent_job_info_by_default",
    ),
    row(
        "a cause that is too long is cut, with a warning",
        same("test_manifest.py::test_a_long_reason_is_cut_with_a_warning"),
        "hooks::test_trigger_job_run_with_longer_cause",
    ),
    row(
        "a cause may have 255 characters",
        different(
            "the watcher's marker needs some of them",
            ("trigger_reason",),
            "test_manifest.py::test_a_long_reason_is_cut_with_a_warning",
        ),
        "hooks::test_trigger_job_run_with_longer_cause",
    ),
    row(
        "OpenLineage's parent job takes the place of the cause",
        NO_OPENLINEAGE,
        "operators::test_execute_injects_openlineage_parent_job_info_into_cause",
        "operators::test_execute_injection_skipped_keeps_original_cause",
        "openlineage::test_parent_and_root_when_it_fits",
        "openlineage::test_root_dropped_when_parent_and_root_too_long",
        "openlineage::test_injection_skipped_when_parent_alone_too_long",
        "openlineage::test_injection_skipped_when_openlineage_unavailable",
    ),
    row(
        "OpenLineage events are made of the run's artifacts",
        NO_LINEAGE_EVENTS,
        "openlineage::test_previous_version_openlineage_provider",
        "openlineage::test_get_parent_run_metadata",
        "openlineage::test_generate_events",
        "openlineage::test_do_not_raise_error_if_runid_not_set_on_operator",
    ),
    row(
        "a job is found by its three names, exactly; none or several are an error that says so",
        same(
            "test_operator.py::test_a_job_may_be_named",
            "unit/dbtcloud/test_lists.py::test_a_job_is_found_by_its_three_names_exactly",
            "unit/dbtcloud/test_lists.py::test_a_name_that_leads_to_no_job_is_told_with_what_there_is",
        ),
        "operators::test_dbt_run_job_by_name",
        "hooks::test_get_job_by_name_returns_response",
        "hooks::test_get_job_by_incorrect_name_raises_exception",
        "hooks::test_get_job_by_duplicate_name_raises_exception",
    ),
    row(
        "with a name missing it is a ValueError, and nothing starts",
        same("test_operator.py::test_a_job_that_is_half_named_starts_nothing"),
        "operators::test_dbt_run_job_by_incorrect_name_raises_exception",
    ),
    row(
        "the XComs job_run_url and job_run_id are there before the wait",
        same("test_operator.py::test_a_run_is_created_and_waited_for_in_the_triggerer"),
    ),
    row("the return value is the run's id", same("test_operator.py::test_the_task_returns_the_run_id")),
    row(
        "a run that is over at once is not deferred",
        same("test_operator.py::test_a_run_that_is_over_at_once_is_not_deferred"),
        "operators::test_execute_succeeded_before_getting_deferred",
    ),
    row(
        "a run that failed at once fails the task, not deferred",
        same("test_operator.py::test_a_run_that_failed_at_once_fails_the_task_without_a_deferral"),
        "operators::test_execute_failed_before_getting_deferred",
    ),
    row(
        "a queued, starting or running run is deferred",
        same("test_operator.py::test_a_run_that_is_not_over_is_waited_for_whatever_its_phase"),
        "operators::test_dbt_run_job_op_async",
    ),
    row(
        "the trigger gets connection, run and interval",
        same("test_operator.py::test_a_run_is_created_and_waited_for_in_the_triggerer"),
        "operators::test_execute_deferrable_does_not_pass_execution_timeout_to_defer",
    ),
    row(
        "defer() has no time-out",
        different(
            "a task must end even when no triggerer runs",
            ("defer()",),
            "test_operator.py::test_a_deferral_lasts_no_longer_than_the_task_may",
        ),
        "operators::test_execute_deferrable_does_not_pass_execution_timeout_to_defer",
    ),
    row(
        "the trigger gets hook_params",
        NO_HOOK_PARAMS,
        "operators::test_execute_deferrable_hands_hook_params_to_the_trigger",
    ),
    row(
        "execution_timeout cancels the run of a deferred task and fails it",
        same("test_operator.py::test_execution_timeout_cancels_the_run"),
        "operators::test_execute_complete_timeout_cancels_job",
    ),
    row(
        "a time-out without a run's id fails the task and cancels nothing",
        same("test_operator.py::test_a_timeout_before_there_was_a_run_is_a_timeout_all_the_same"),
        "operators::test_execute_complete_timeout_without_run_id",
    ),
    row(
        "a cancel that fails does not hide the time-out",
        same(
            "test_operator.py::test_a_time_out_stays_one_when_the_run_cannot_be_cancelled",
            "test_operator.py::test_a_time_out_stays_one_when_the_object_cannot_be_read",
        ),
        "operators::test_execute_complete_timeout_cancel_job_does_not_mask_original_error",
    ),
    row(
        "a missing or unknown event is an error",
        same(
            "test_operator.py::test_a_lost_or_unknown_event_is_not_a_success",
            "test_failures.py::test_an_event_that_is_lost_or_strange_is_not_a_success",
        ),
        "operators::test_execute_complete_invalid_event_raises_instead_of_succeeding",
        "hooks::test_invalid_event_raises",
    ),
    row(
        "success, cancelled, error and timeout are understood",
        same("test_failures.py::test_each_end_has_its_exception", "test_failures.py::test_a_success_raises_nothing"),
        "hooks::test_valid_event_is_returned",
    ),
    row(
        "on a worker a success returns, a failure and a cancel raise",
        same(
            "test_operator.py::test_a_task_that_is_not_deferrable_waits_by_the_same_trigger",
            "test_operator.py::test_a_task_that_is_not_deferrable_fails_as_its_run_does",
        ),
        "operators::test_execute_wait_for_termination",
        "hooks::test_wait_for_job_run_status",
    ),
    row(
        "on a worker the wait ends after timeout, in a sentence that tells the seconds",
        same(
            "test_operator.py::test_a_task_that_is_not_deferrable_waits_no_longer_than_its_timeout",
            "test_event.py::test_a_wait_that_ends_first_says_after_how_many_seconds_and_that_nothing_was_cancelled",
        ),
        "operators::test_execute_wait_for_termination",
        "hooks::test_wait_for_job_run_status",
    ),
    row(
        "on a worker the status is asked for every check_interval",
        NOTHING_POLLED,
        "operators::test_execute_wait_for_termination",
    ),
    row(
        "one exception for every bad end, always retried",
        different(
            "who handles it, and Airflow, should know which it was",
            ("DbtRunFailed", "DbtRunCancelled", "DbtRunTimedOut", "DbtRunLostContact", "DbtRunRefused"),
            "test_failures.py::test_each_end_has_its_exception",
            "test_failures.py::test_what_trying_again_cannot_help_is_not_tried_again",
        ),
        "operators::test_execute_wait_for_termination",
    ),
    row(
        "a failed run's words and failed steps are logged",
        same(
            "test_failures.py::test_the_log_names_the_cause_first_then_the_rest",
            "test_operator.py::test_a_failed_run_explains_itself_in_the_log",
        ),
        "hooks::test_format_run_step_failure",
        "hooks::test_log_job_run_failure_details_with_error_steps",
    ),
    row(
        "they are fetched from dbt Cloud when the task resumes",
        different(
            "a request that fails would hide the end",
            (),
            "test_operator.py::test_a_failed_run_explains_itself_in_the_log",
        ),
        "hooks::test_log_job_run_failure_details_fetches_run_steps",
    ),
    row(
        "without waiting, the run's id is returned and nothing is watched",
        same("test_operator.py::test_without_waiting_the_run_id_is_returned_as_soon_as_there_is_one"),
        "operators::test_execute_no_wait_for_termination",
    ),
    row(
        "without waiting, deferrable is warned of",
        different(
            "`default_deferrable` would give the warning to every such task",
            ("wait_for_termination=False", "deferrable=True"),
            "test_operator.py::test_without_waiting_deferrable_has_no_effect_and_no_warning",
        ),
    ),
    row(
        "reuse_existing_run takes the job's newest live run",
        same(
            "test_operator.py::test_without_waiting_a_live_run_of_the_job_may_be_used",
            "unit/dbtcloud/test_lists.py::test_the_newest_live_run_of_a_job_is_found",
            "unit/lifecycle/test_pending.py::test_a_live_run_is_reused",
        ),
        "operators::test_execute_no_wait_for_termination_and_reuse_existing_run",
    ),
    row(
        "retry_from_failure has no effect on a first try",
        same("test_operator.py::test_retry_from_failure_resumes_the_failed_run_of_the_try_before"),
        "operators::test_execute_retry_from_failure",
        "operators::test_execute_retry_from_failure_run",
    ),
    row(
        "retry_from_failure resumes a failed run, and only a failed one",
        same(
            "test_operator.py::test_retry_from_failure_resumes_the_failed_run_of_the_try_before",
            "test_attempts.py::test_a_failed_run_is_resumed_when_asked_for",
            "test_attempts.py::test_a_cancelled_run_is_not_resumed",
        ),
        "operators::test_execute_retry_from_failure_rerun",
        "hooks::test_trigger_job_run_with_retry_from_failure",
    ),
    row(
        "retry_from_failure looks at the job's latest run",
        different(
            "that may be somebody else's",
            ("retry_from_failure",),
            "test_operator.py::test_retry_from_failure_resumes_the_failed_run_of_the_try_before",
        ),
        "hooks::test_trigger_job_run_with_retry_from_failure",
    ),
    row(
        "overrides that a resumed run does not get are warned of",
        same("test_manifest.py::test_overrides_that_a_resumed_run_does_not_get_are_warned_of"),
    ),
    row(
        "on_kill cancels the run",
        same(
            "test_operator.py::test_a_killed_task_cancels_its_run_even_from_a_new_process",
            "unit/dbtcloud/test_reading.py::test_cancel_may_be_repeated_and_tells_when_it_is_refused",
        ),
        "operators::test_on_kill_cancels_job_and_confirms_success",
        "hooks::test_cancel_job_run",
    ),
    row(
        "on_kill waits until the run is cancelled",
        different(
            "Airflow kills the process after seconds; the watcher does not go away",
            ("on_kill",),
            "test_operator.py::test_a_kill_asks_for_the_end_and_does_not_wait_for_it",
            "test_operator.py::test_nothing_starts_while_the_run_before_is_being_cancelled",
        ),
        "operators::test_on_kill_cancels_job_and_confirms_success",
    ),
    row(
        "on_kill never raises",
        same("test_operator.py::test_a_kill_never_raises"),
        "operators::test_on_kill_best_effort_cancellation_does_not_raise",
    ),
    row(
        "on_kill without a run does nothing",
        same("test_operator.py::test_a_kill_before_anything_began_is_no_trouble"),
    ),
    row(
        "the link Monitor Job Run opens the XCom job_run_url",
        same(
            "test_link.py::test_it_opens_the_address_that_the_task_left",
            "test_link.py::test_it_is_named_as_people_know_it",
        ),
        "operators::test_run_job_operator_link",
    ),
    row(
        "the link is None before there is a run",
        different(
            "it is declared to be a text",
            (),
            "test_link.py::test_before_there_is_a_run_it_opens_nothing",
        ),
    ),
)

SENSOR = (
    row(
        "its arguments are attributes",
        same("test_sensor.py::test_what_is_given_is_an_attribute_of_that_name"),
        "sensors::test_init",
    ),
    row("hook_params reach the hook", NO_HOOK_PARAMS, "sensors::test_init"),
    row(
        "every argument and template",
        same("test_peer.py::test_each_argument_of_the_provider_is_taken_or_known_not_to_be"),
    ),
    row(
        "a poke is false while the run goes on, true when it succeeded",
        same(
            "test_sensor.py::test_a_run_that_is_not_over_is_poked_again_whatever_its_phase",
            "test_sensor.py::test_a_poke_says_whether_it_is_over",
        ),
        "sensors::test_poke",
    ),
    row(
        "a poke of a failed or cancelled run raises, and logs why",
        same("test_sensor.py::test_a_poke_of_a_bad_end_says_which_run_and_explains_it_in_the_log"),
        "sensors::test_poke_with_exception",
    ),
    row(
        "a run that is over is not deferred",
        same("test_sensor.py::test_a_run_that_is_over_is_not_deferred"),
        "sensors::test_dbt_cloud_job_run_sensor_finish_before_deferred",
    ),
    row(
        "it returns nothing then",
        different(
            "the next task wants the same XCom in both modes",
            ("DbtRunSensor",),
            "test_sensor.py::test_a_run_that_is_over_is_not_deferred",
        ),
    ),
    row(
        "else it is deferred to the trigger",
        same("test_sensor.py::test_a_run_id_is_followed_by_an_object_of_its_own"),
        "sensors::test_execute_with_deferrable_mode",
    ),
    row(
        "a success logs the event's message and returns the run's id",
        same("test_sensor.py::test_a_success_returns_the_run_id_and_says_so_in_the_log"),
        "sensors::test_execute_complete_success",
    ),
    row(
        "cancelled, error and timeout raise, in a sentence that names the run",
        same("test_sensor.py::test_any_other_event_fails_the_sensor"),
        "sensors::test_execute_complete_failure",
    ),
    row(
        "its own timeout is an ordinary failure",
        different(
            "Airflow's sensors have an exception for it, which soft_fail knows",
            ("AirflowSensorTimeout", "soft_fail"),
            "test_sensor.py::test_the_end_of_the_wait_is_airflows_sensor_timeout",
        ),
        "sensors::test_execute_complete_failure",
    ),
    row(
        "a missing or unknown event is an error",
        same("test_sensor.py::test_a_lost_or_unknown_event_is_not_a_success"),
        "sensors::test_execute_complete_invalid_event_raises",
    ),
    row(
        "a deferrable sensor pokes every 5 s",
        different(
            "an end is seen within seconds whatever it is",
            ("poke_interval",),
            "test_sensor.py::test_a_deferrable_sensor_keeps_airflows_poke_interval",
        ),
    ),
    row("it cancels nothing", same("test_sensor.py::test_a_sensor_cancels_nothing_when_it_is_ended")),
)

ARTIFACTS = (
    row(
        "a file is written as <run id>_<path> with - for /, and its name returned",
        same("test_artifacts.py::test_the_file_is_written_byte_for_byte_under_the_name_that_the_provider_gives_it"),
        "operators::test_get_json_artifact",
        "operators::test_get_text_artifact",
        "hooks::test_get_job_run_artifact",
    ),
    row(
        "JSON is read and written anew",
        different(
            "what dbt wrote is what a reader wants",
            ("DbtRunArtifactOperator",),
            "test_artifacts.py::test_the_file_is_written_byte_for_byte_under_the_name_that_the_provider_gives_it",
        ),
        "operators::test_get_json_artifact",
    ),
    row(
        "a step's own file can be had",
        NO_STEP,
        "operators::test_get_json_artifact_with_step",
        "operators::test_get_text_artifact_with_step",
        "hooks::test_get_job_run_artifact_with_payload",
    ),
    row(
        "the default name comes from the rendered path",
        same("test_artifacts.py::test_the_name_comes_from_the_rendered_path"),
        "operators::test_default_output_file_name_uses_rendered_path",
    ),
    row(
        "a name of one's own is used, folders and all",
        same("test_artifacts.py::test_a_name_of_ones_own_may_have_folders"),
        "operators::test_get_artifact_with_specified_output_file",
    ),
    row(
        "connection and account choose where it is read",
        different(
            "the file is in the cluster",
            ("dbt_cloud_conn_id", "account_id"),
            "test_artifacts.py::test_an_argument_of_the_provider_without_a_place_is_taken_with_a_warning",
        ),
        "operators::test_get_json_artifact",
        "operators::test_get_text_artifact",
        "operators::test_get_artifact_with_specified_output_file",
    ),
)

LISTS = (
    row(
        "an account's jobs are listed",
        different(
            "only dbt Cloud knows them",
            ("DbtCloudListJobsOperator",),
            "test_peer.py::test_the_classes_without_a_counterpart_are_these",
        ),
        "operators::test_execute_list_jobs",
    ),
    row(
        "runs are listed, of one job or of all",
        same(
            "test_listing.py::test_some_of_them",
            "test_listing.py::test_all_of_a_namespace_newest_first",
        ),
        "operators::test_execute_list_job_runs",
        "operators::test_execute_without_job_id",
    ),
    row(
        "a row is what dbt Cloud answers, with include_related",
        different(
            "what is listed are DbtRuns",
            ("include_related",),
            "test_listing.py::test_what_is_returned_can_be_an_xcom",
        ),
        "operators::test_execute_list_job_runs",
    ),
    row(
        "by one status or by several; none that passes is an empty list",
        same(
            "test_listing.py::test_some_of_them",
            "test_listing.py::test_a_filter_that_nothing_passes_gives_an_empty_list",
        ),
        "operators::test_execute_filtering_and_latest",
    ),
    row(
        "the latest alone, also of a status; None if there is none",
        same("test_listing.py::test_the_newest_alone", "test_listing.py::test_the_newest_of_a_status_alone"),
        "operators::test_execute_filtering_and_latest",
    ),
    row(
        "a run without a status passes no filter of codes",
        same("test_listing.py::test_a_run_that_no_watcher_has_seen_is_pending"),
        "operators::test_execute_filtering_and_latest",
    ),
    row(
        "a code that does not exist matches nothing",
        different(
            "it is a mistake",
            ("DbtRunListOperator",),
            "test_listing.py::test_a_status_that_does_not_exist_is_refused",
        ),
    ),
    row(
        "latest_only is newest first",
        same("test_listing.py::test_the_newest_alone"),
        "operators::test_execute_order_by_behavior",
    ),
    row(
        "order_by orders",
        different(
            "the newest is what people look for",
            ("order_by",),
            "test_listing.py::test_an_argument_of_the_provider_without_a_place_is_taken_with_a_warning",
        ),
        "operators::test_execute_order_by_behavior",
    ),
    row(
        "every page is read",
        same("test_taskruns.py::test_a_list_of_several_pages_is_whole"),
        "operators::test_execute_multiple_pages",
    ),
)

HOOK = (
    row(
        "a status that is not one of six is an error",
        different(
            "dbt Cloud may add one; it is never taken for an end",
            ("DbtCloudHook",),
            "unit/dbtcloud/test_reading.py::test_an_unknown_status_is_never_taken_for_an_end",
        ),
        "hooks::test_valid_job_run_status",
        "hooks::test_invalid_job_run_status",
        "hooks::test_valid_terminal_job_run_status",
        "hooks::test_invalid_terminal_job_run_status",
    ),
    row(
        "host, account and token come from an Airflow connection, cached",
        NO_CONNECTION,
        "hooks::test_init_hook",
        "hooks::test_tenant_base_url",
        "hooks::test_fallback_to_default_account",
        "hooks::test_resolve_account_id_cached_sync",
        "hooks::test_resolve_account_id_cached_async",
        "hooks::test_account_id_cache_shared_between_sync_and_async",
        "hooks::test_get_headers_tenants_from_connection_does_not_use_sync_get_connection",
        "hooks::test_resolve_connection_cached_async",
        "hooks::test_connection_cache_shared_between_sync_and_async",
        "hooks::test_resolve_connection_async_requires_password",
    ),
    row(
        "Airflow can test the connection",
        different(
            "the watcher does, and says so on the object",
            ("dbt_cloud_conn_id",),
            "unit/dbtcloud/test_reading.py::test_the_account_can_be_checked",
        ),
        "hooks::test_connection_success",
        "hooks::test_connection_failure",
    ),
    row(
        "accounts, projects, environments, jobs, runs and artifacts can be read in a task",
        NO_HOOK,
        "hooks::test_list_accounts",
        "hooks::test_get_account",
        "hooks::test_list_projects",
        "hooks::test_list_projects_with_payload",
        "hooks::test_get_project",
        "hooks::test_list_environments",
        "hooks::test_list_environments_with_payload",
        "hooks::test_get_environment",
        "hooks::test_list_jobs",
        "hooks::test_list_jobs_with_payload",
        "hooks::test_get_job",
        "hooks::test_list_job_runs",
        "hooks::test_list_job_runs_with_payload",
        "hooks::test_get_job_runs",
        "hooks::test_get_job_run",
        "hooks::test_get_job_run_with_payload",
        "hooks::test_list_job_run_artifacts",
        "hooks::test_list_job_run_artifacts_with_payload",
    ),
    row(
        "a proxy is named in the connection",
        different(
            "the watcher's environment names it, as a cluster's does",
            ("HTTPS_PROXY",),
            "unit/dbtcloud/test_tls.py::test_a_proxy_of_the_environment_is_asked_for_the_world",
        ),
        "hooks::test_trigger_job_run_with_proxy",
        "hooks::test_timeout_with_proxies",
    ),
    row(
        "time-out and retries of a request are the task's",
        WATCHER_RETRIES,
        "hooks::test_timeout_passed_to_run_and_get_response",
        "hooks::test_timeout_passed_to_paginate",
        "hooks::test_retryable_error",
        "hooks::test_get_job_details_retry_with_retryable_errors",
        "hooks::test_get_job_details_retry_with_non_retryable_errors",
        "hooks::test_get_job_details_retry_with_exhausted_retries",
    ),
)

ROWS = TRIGGER + OPERATOR + SENSOR + ARTIFACTS + LISTS + HOOK

# mypy: ignore-errors
"""Runs in Airflow 2's own environment, which mypy cannot see: acts as its web server does, a JSON line for each."""

import json
import os
import sys
import traceback

from airflow.api.common.mark_tasks import set_dag_run_state_to_failed, set_dag_run_state_to_success
from airflow.api.common.trigger_dag import trigger_dag
from airflow.models import DagBag, DagModel, DagRun, TaskInstance, XCom
from airflow.utils.session import create_session
from sqlalchemy import delete

DAGS = DagBag(read_dags_from_db=True)


def trigger(dag_id, run_id, conf):
    # Else two runs of one second were one.
    trigger_dag(dag_id, run_id=run_id, conf=conf, replace_microseconds=False)


def mark(dag_id, run_id, task_id, state):
    with create_session() as session:
        DAGS.get_dag(dag_id).set_task_instance_state(
            task_id=task_id, run_id=run_id, state=state, commit=True, session=session
        )


def mark_run(dag_id, run_id, state):
    act = set_dag_run_state_to_failed if state == "failed" else set_dag_run_state_to_success
    act(dag=DAGS.get_dag(dag_id), run_id=run_id, commit=True)


def clear(dag_id, run_id, task_id, downstream, past, future):
    # Read anew: what was read before is believed for some seconds.
    dag = DagBag(read_dags_from_db=True).get_dag(dag_id)
    if task_id:
        dag = dag.partial_subset(
            task_ids_or_regex=[task_id],
            include_upstream=False,
            include_downstream=downstream,
            include_direct_upstream=False,
        )
    with create_session() as session:
        date = _run(session, dag_id, run_id).execution_date
        dag.clear(start_date=None if past else date, end_date=None if future else date, session=session)


def parse():
    # `airflow dags reserialize` first deletes what is stored of all DAGs: others would miss theirs meanwhile.
    DagBag(read_dags_from_db=False).sync_to_db()


def pause(dag_id, paused=True):
    with create_session() as session:
        session.query(DagModel).filter_by(dag_id=dag_id).update({"is_paused": paused})


def unpause(dag_id):
    pause(dag_id, paused=False)


def delete_run(dag_id, run_id):
    with create_session() as session:
        session.execute(delete(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))


def xcom(dag_id, run_id, task_id, key):
    return XCom.get_one(dag_id=dag_id, run_id=run_id, task_id=task_id, key=key)


def links(dag_id, run_id, task_id):
    task = DAGS.get_dag(dag_id).get_task(task_id)
    with create_session() as session:
        instance = session.query(TaskInstance).filter_by(dag_id=dag_id, run_id=run_id, task_id=task_id).one()
        return {name: task.get_extra_links(instance, name) for name in task.extra_links}


def _run(session, dag_id, run_id):
    return session.query(DagRun).filter_by(dag_id=dag_id, run_id=run_id).one()


ACTS = {act.__name__: act for act in (trigger, mark, mark_run, clear, parse, pause, unpause, delete_run, xcom, links)}


def serve(lines, answers):
    for line in lines:
        act, *arguments = json.loads(line)
        try:
            answer = {"result": ACTS[act](*arguments)}
        except Exception:  # noqa: BLE001 - told to whoever asked
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    # Airflow logs to stdout: only the answers may stand there.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)

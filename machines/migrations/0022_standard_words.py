"""What the database holds is said in the field's standard words. No host and no page knows the old ones any more."""

from collections.abc import Callable
from typing import Any

from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

OPERATIONS = {
    "bake": "build_base",
    "discard": "remove_base",
    "examine": "diagnose",
    "mark": "set_read_only",
    "mend": "fix",
    "prove": "limit_test",
    "tidy": "remove_dropins",
}
RULES = {  # of hosts' policies
    "ops": "operations",
    "port_lowest": "lowest_port",
    "pulls": "pull_urls",
    "panels": "panel_urls",
    "archive_gib": "max_archive_gib",
    "cache_gib": "max_cache_gib",
    "bases": "max_bases",
    "builds_at_once": "max_parallel_builds",
}
EVENTS = {"joined": "host-enrolled", "configuration-adopted": "configuration-imported"}
CODES = {"discard-unfinished": "remove-base-unfinished"}  # of problems
VERDICTS = {  # of limit tests
    "holds": "enforced",
    "broken": "exceeded",
    "unreached": "not_reached",
    "none": "no_limit",
    "refused": "skipped",
}
KEYS = {"can_mend": "can_fix", "passing": "retryable", "trials": "measurements"}  # of findings, problems, limit tests
AT_ONCE = 500  # rows


def _job(job: Any) -> None:
    job.op = OPERATIONS.get(job.op, job.op)
    if isinstance(job.order, dict) and "op" in job.order:
        job.order["op"] = OPERATIONS.get(job.order["op"], job.order["op"])
    job.result, job.problem = _renamed(job.result), _renamed(job.problem)
    if isinstance(job.problem, dict) and "code" in job.problem:
        job.problem["code"] = CODES.get(job.problem["code"], job.problem["code"])
    for measured in job.result.get("measurements", []) if job.op == "limit_test" else []:
        measured["verdict"] = VERDICTS.get(measured["verdict"], measured["verdict"])


def _host(host: Any) -> None:
    policy = host.facts.get("policy") if isinstance(host.facts, dict) else None
    if not isinstance(policy, dict):
        return
    policy = host.facts["policy"] = {RULES.get(rule, rule): value for rule, value in policy.items()}
    if isinstance(policy.get("operations"), list):
        policy["operations"] = sorted(OPERATIONS.get(op, op) for op in policy["operations"])


def _event(event: Any) -> None:
    event.kind = EVENTS.get(event.kind, event.kind)


def _renamed(data: Any) -> Any:
    """The same with new names for keys, however deep."""
    if isinstance(data, dict):
        return {KEYS.get(key, key): _renamed(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_renamed(each) for each in data]
    return data


def _change(change: Callable[[Any], None], model: str, *fields: str) -> Callable[[Apps, BaseDatabaseSchemaEditor], None]:
    """A step that changes all rows of a model, some at once."""

    def step(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
        rows = apps.get_model("machines", model).objects.using(editor.connection.alias)
        some: list[Any] = []
        for row in rows.only(*fields).order_by("pk").iterator(AT_ONCE):
            change(row)
            some.append(row)
            if len(some) == AT_ONCE:
                rows.bulk_update(some, fields)
                some.clear()
        rows.bulk_update(some, fields)

    return step


class Migration(migrations.Migration):
    dependencies = [("machines", "0021_hosts_believed")]

    operations = [
        migrations.RenameField("Machine", "not_as_asked", "mismatches"),
        migrations.RenameModel("Found", "ObservedFiles"),
        migrations.AlterField(
            "ObservedFiles",
            "machine",
            models.OneToOneField("machines.Machine", models.CASCADE, related_name="observed_files"),
        ),
        migrations.RenameIndex("ObservedFiles", new_name="observed_files_stale", old_name="found_stale"),
        migrations.RunPython(_change(_job, "Job", "op", "order", "result", "problem"), migrations.RunPython.noop),
        migrations.RunPython(_change(_host, "Host", "facts"), migrations.RunPython.noop),
        migrations.RunPython(_change(_event, "Event", "kind"), migrations.RunPython.noop),
    ]

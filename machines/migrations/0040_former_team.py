from django.db import migrations, models
from django.db.models import OuterRef, Subquery, Value
from django.db.models.functions import Coalesce


def whose_they_were(apps, schema_editor):
    """Of a machine that is gone, the last job of its name was about it and says whose it was; 0 for nobody's."""
    machines = apps.get_model("machines", "Machine").objects
    jobs = apps.get_model("machines", "Job").objects.filter(host=OuterRef("host"), machine_name=OuterRef("name"))
    last = Subquery(jobs.order_by("-id").values("team")[:1])
    machines.filter(team=None).exclude(removed_at=None).update(former_team=Coalesce(last, Value(0)))


class Migration(migrations.Migration):
    dependencies = [("machines", "0039_one_name_one_person")]

    operations = [
        migrations.AddField("machine", "former_team", models.BigIntegerField(default=None, editable=False, null=True)),
        migrations.RunPython(whose_they_were, migrations.RunPython.noop),
    ]

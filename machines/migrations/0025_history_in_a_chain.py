"""The history becomes a chain, which begins with what is there: numbered anew without holes, in the order it had."""

from typing import Any

import django.db.models.deletion
import django.utils.timezone
from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from machines.contract import chain
from machines.models.event import content


def begin(apps: Apps, _: BaseDatabaseSchemaEditor) -> None:
    event, last = apps.get_model("machines", "Event"), (0, chain.START)
    for key in event.objects.order_by("pk").values_list("pk", flat=True):
        last = _append(event, key, *last)
    apps.get_model("machines", "EventHead").objects.create(pk=1, number=last[0], hash=last[1])


def _append(event: Any, key: int, number: int, previous: str) -> tuple[int, str]:
    row = event.objects.select_related("host").get(pk=key)
    row.pk, row.previous, row.host_name = number + 1, previous, row.host.name if row.host else ""
    row.hash = chain.link(previous, content(row))
    event.objects.filter(pk=key).update(id=row.pk, previous=previous, hash=row.hash, host_name=row.host_name)
    return row.pk, row.hash


class Migration(migrations.Migration):

    dependencies = [
        ('machines', '0024_words_of_choices'),
    ]

    operations = [
        migrations.CreateModel(
            name='EventHead',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.PositiveBigIntegerField(default=0)),
                ('hash', models.CharField(default='', max_length=64)),
                ('first', models.PositiveBigIntegerField(default=1)),
            ],
        ),
        migrations.CreateModel(
            name='EventSeal',
            fields=[
                ('number', models.PositiveBigIntegerField(primary_key=True, serialize=False)),
                ('hash', models.CharField(max_length=64)),
                ('at', models.DateTimeField(db_index=True, default=django.utils.timezone.now)),
                ('signature', models.CharField(max_length=100)),
            ],
        ),
        migrations.AddField(
            model_name='event',
            name='address',
            field=models.CharField(default='', max_length=45),
        ),
        migrations.AddField(
            model_name='event',
            name='hash',
            field=models.CharField(default='', max_length=64),
        ),
        migrations.AddField(
            model_name='event',
            name='host_name',
            field=models.CharField(default='', max_length=63),
        ),
        migrations.AddField(
            model_name='event',
            name='job',
            field=models.ForeignKey(db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='events', to='machines.job'),
        ),
        migrations.AddField(
            model_name='event',
            name='object_kind',
            field=models.CharField(default='', max_length=30),
        ),
        migrations.AddField(
            model_name='event',
            name='object_name',
            field=models.CharField(default='', max_length=255),
        ),
        migrations.AddField(
            model_name='event',
            name='previous',
            field=models.CharField(default='', max_length=64),
        ),
        migrations.AddField(
            model_name='event',
            name='result',
            field=models.CharField(choices=[('done', 'Done'), ('refused', 'Refused'), ('failed', 'Failed')], default='done', max_length=10),
        ),
        migrations.AddField(
            model_name='event',
            name='token',
            field=models.CharField(default='', max_length=100),
        ),
        migrations.AlterField(
            model_name='event',
            name='host',
            field=models.ForeignKey(db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='events', to='machines.host'),
        ),
        migrations.RunPython(begin, migrations.RunPython.noop),
    ]

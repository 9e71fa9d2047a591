# Teams, their people, what they hold, and which hosts they may use.

import django.db.models.deletion
import django.utils.timezone
import machines.contract.permissions
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('machines', '0025_history_in_a_chain'),
    ]

    operations = [
        migrations.CreateModel(
            name='Team',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('slug', models.SlugField(max_length=63, unique=True)),
                ('name', models.CharField(max_length=80, unique=True)),
                ('description', models.CharField(blank=True, default='', max_length=300)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.AddField(
            model_name='job',
            name='cancelled_role',
            field=models.CharField(default='', max_length=30),
        ),
        migrations.AddField(
            model_name='job',
            name='actor_extra',
            field=models.JSONField(default=list),
        ),
        migrations.AddField(
            model_name='user',
            name='is_administrator',
            field=models.BooleanField(default=False),
        ),
        migrations.AlterField(
            model_name='preset',
            name='name',
            field=models.CharField(max_length=80),
        ),
        migrations.AlterField(
            model_name='recipe',
            name='name',
            field=models.CharField(max_length=80),
        ),
        migrations.CreateModel(
            name='Membership',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('role', models.CharField(choices=[('viewer', 'viewer'), ('operator', 'operator'), ('editor', 'editor'), ('owner', 'owner')], default=machines.contract.permissions.Role['VIEWER'], max_length=10)),
                ('may_console', models.BooleanField(default=False)),
                ('may_remove', models.BooleanField(default=False)),
                ('since', models.DateTimeField(default=django.utils.timezone.now)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='memberships', to=settings.AUTH_USER_MODEL)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='memberships', to='machines.team')),
            ],
            options={
                'ordering': ['team__name', 'user__username'],
            },
        ),
        migrations.CreateModel(
            name='HostShare',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('max_machines', models.PositiveIntegerField(blank=True, null=True)),
                ('max_memory', models.PositiveBigIntegerField(blank=True, null=True)),
                ('max_cpu', models.PositiveIntegerField(blank=True, null=True)),
                ('max_disk', models.PositiveBigIntegerField(blank=True, null=True)),
                ('networks', models.JSONField(blank=True, default=list)),
                ('bind_sources', models.JSONField(blank=True, default=list)),
                ('name_pattern', models.CharField(blank=True, default='', max_length=100)),
                ('host', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='shares', to='machines.host')),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='shares', to='machines.team')),
            ],
            options={
                'ordering': ['host__name', 'team__name'],
            },
        ),
        migrations.AddField(
            model_name='archive',
            name='team',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='archives', to='machines.team'),
        ),
        migrations.AddField(
            model_name='event',
            name='team',
            field=models.ForeignKey(db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='events', to='machines.team'),
        ),
        migrations.AddField(
            model_name='job',
            name='team',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='jobs', to='machines.team'),
        ),
        migrations.AddField(
            model_name='jobgroup',
            name='team',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='job_groups', to='machines.team'),
        ),
        migrations.AddField(
            model_name='machine',
            name='team',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='machines', to='machines.team'),
        ),
        migrations.AddField(
            model_name='preset',
            name='team',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='presets', to='machines.team'),
        ),
        migrations.AddField(
            model_name='recipe',
            name='team',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='recipes', to='machines.team'),
        ),
        migrations.AddConstraint(
            model_name='preset',
            constraint=models.UniqueConstraint(fields=('team', 'name'), name='a_team_has_a_preset_of_a_name_once'),
        ),
        migrations.AddConstraint(
            model_name='preset',
            constraint=models.UniqueConstraint(condition=models.Q(('team', None)), fields=('name',), name='one_preset_of_a_name'),
        ),
        migrations.AddConstraint(
            model_name='recipe',
            constraint=models.UniqueConstraint(fields=('team', 'name'), name='a_team_has_a_recipe_of_a_name_once'),
        ),
        migrations.AddConstraint(
            model_name='recipe',
            constraint=models.UniqueConstraint(condition=models.Q(('team', None)), fields=('name',), name='one_recipe_of_a_name'),
        ),
        migrations.AddConstraint(
            model_name='membership',
            constraint=models.UniqueConstraint(fields=('team', 'user'), name='one_membership_in_a_team'),
        ),
        migrations.AddConstraint(
            model_name='hostshare',
            constraint=models.UniqueConstraint(fields=('host', 'team'), name='a_host_is_shared_once_to_a_team'),
        ),
    ]

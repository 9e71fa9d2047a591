# The words of choices, as pages show them; no column changes.

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('machines', '0023_content_of_presets'),
    ]

    operations = [
        migrations.AlterField(
            model_name='preset',
            name='network_mode',
            field=models.CharField(blank=True, choices=[('', 'as it is'), ('veth', 'Private, NAT'), ('zone', 'Zone'), ('bridge', 'Bridge'), ('macvlan', 'MACVLAN'), ('ipvlan', 'IPVLAN'), ('host', 'Host network'), ('none', 'Loopback only'), ('unsaid', 'Not set in the file'), ('other', 'As written in the file')], default='', max_length=10),
        ),
        migrations.AlterField(
            model_name='revision',
            name='network_mode',
            field=models.CharField(choices=[('veth', 'Private, NAT'), ('zone', 'Zone'), ('bridge', 'Bridge'), ('macvlan', 'MACVLAN'), ('ipvlan', 'IPVLAN'), ('host', 'Host network'), ('none', 'Loopback only'), ('unsaid', 'Not set in the file'), ('other', 'As written in the file')], default='veth', max_length=10),
        ),
        migrations.AlterField(
            model_name='revision',
            name='volatile',
            field=models.CharField(blank=True, choices=[('', 'no: changes are kept (default)'), ('overlay', 'overlay: everything is writable, nothing is kept'), ('state', 'state: only /var starts empty, the rest is read-only'), ('yes', 'yes: everything but /usr starts empty')], default='', max_length=300),
        ),
    ]

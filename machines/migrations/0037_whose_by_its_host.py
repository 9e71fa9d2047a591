from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("machines", "0036_api_tokens")]

    operations = [
        migrations.AddField("machine", "host_team", models.CharField(default=None, max_length=63, null=True)),
    ]

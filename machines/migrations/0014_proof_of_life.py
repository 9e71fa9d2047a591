from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("machines", "0013_host_budgets")]

    operations = [
        migrations.AddField(model_name="host", name="signed_at", field=models.FloatField(default=0.0)),
    ]

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("machines", "0017_quarantine")]

    operations = [
        migrations.AddField(model_name="host", name="ledger_epoch", field=models.PositiveBigIntegerField(default=0)),
        migrations.AddField(model_name="host", name="resync_ahead", field=models.FloatField(default=0.0)),
        migrations.AddField(model_name="host", name="resync_epoch", field=models.PositiveBigIntegerField(default=0)),
        migrations.AddField(model_name="host", name="resync_since", field=models.DateTimeField(null=True)),
    ]

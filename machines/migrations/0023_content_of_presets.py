"""What was put on a machine, and what a group puts there, is called as on the preset itself."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("machines", "0022_standard_words")]

    operations = [
        migrations.RenameField("presetuse", "says", "content"),
        migrations.RenameField("jobgroup", "says", "content"),
    ]

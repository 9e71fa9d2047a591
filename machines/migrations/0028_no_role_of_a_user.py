# What a person may do is said by memberships.

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("machines", "0027_one_team_for_all")]

    operations = [migrations.RemoveField(model_name="user", name="role")]

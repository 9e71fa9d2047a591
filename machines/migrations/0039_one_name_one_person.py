"""Names that differ in case only are one name. Where two people have such names already, nobody is renamed: the one who
was there first has the name to the database, and the others are named here."""

import unicodedata

from django.db import migrations, models


def key_of(username):
    """As in machines/models/user.py."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold())[:450]


def fill(apps, schema_editor):
    people, held = apps.get_model("machines", "User").objects, {}
    for pk, username in people.order_by("pk").values_list("pk", "username"):
        first = held.setdefault(key_of(username), username)
        if first != username:
            print(f"“{username}” and “{first}” differ in case only; each signs in by exactly their own name.")
            continue
        people.filter(pk=pk).update(username_key=key_of(username))


class Migration(migrations.Migration):

    dependencies = [
        ('machines', '0038_receipts'),
    ]

    operations = [
        migrations.AddField(
            model_name='user',
            name='username_key',
            field=models.CharField(editable=False, max_length=450, null=True, unique=True),
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]

# Until now everybody saw everything: what there is goes to one team, and everybody is a member of it. In steps of their own:
# PostgreSQL changes no table whose rows the same transaction has changed.

from django.db import migrations


def one_team_for_all(apps, _schema):
    """Who saw everything still does, as a viewer of the team Everybody; administrators are administrators of the
    installation. Nothing is made in a database with nobody in it. The history so far stays the administrators': it is a
    chain, and not changed."""
    models = {name: apps.get_model("machines", name) for name in (
        "User", "Team", "Membership", "HostShare", "Host", "Machine", "Recipe", "Preset", "Archive", "Job", "JobGroup"
    )}  # fmt: skip
    models["User"].objects.filter(role="administrator").update(is_administrator=True)
    if not models["User"].objects.exists():
        return
    team = models["Team"].objects.create(slug="everybody", name="Everybody")
    for user in models["User"].objects.filter(role__in=["viewer", "administrator"]):
        role = "owner" if user.is_administrator else "viewer"
        models["Membership"].objects.create(team=team, user=user, role=role)
    for host in models["Host"].objects.all():
        models["HostShare"].objects.create(team=team, host=host)
    for name in ("Machine", "Recipe", "Preset", "Archive", "Job", "JobGroup"):
        models[name].objects.update(team=team)


class Migration(migrations.Migration):
    dependencies = [("machines", "0026_teams")]

    operations = [migrations.RunPython(one_team_for_all, migrations.RunPython.noop)]

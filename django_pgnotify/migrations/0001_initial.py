"""The ledger, its functions, and the registry of triggers.

The tables are made by SQL, so the models are unmanaged; see ``ledger/install.py``.
"""

from django.db import migrations, models

from django_pgnotify.operations import InstallLedger


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="InstalledTrigger",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "schema",
                        "name",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("schema", models.TextField()),
                ("table", models.TextField()),
                ("name", models.TextField()),
                ("relation", models.PositiveBigIntegerField()),
                ("function", models.TextField()),
                ("declaration", models.JSONField()),
                ("version", models.TextField()),
            ],
            options={
                "db_table": "django_pgnotify_trigger",
                "managed": False,
                "required_db_vendor": "postgresql",
            },
        ),
        migrations.CreateModel(
            name="ParkedEvent",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("handler", models.TextField(help_text="Dotted name of the handler.")),
                ("event", models.TextField(help_text="The event as JSON.")),
                ("traceback", models.TextField(help_text="Of the last attempt.")),
                ("attempts", models.IntegerField()),
                (
                    "retry",
                    models.BooleanField(
                        default=False, help_text="Asked to be tried once more."
                    ),
                ),
                ("parked_at", models.DateTimeField()),
            ],
            options={
                "db_table": "django_pgnotify_parked",
                "managed": False,
                "required_db_vendor": "postgresql",
            },
        ),
        InstallLedger(),
    ]

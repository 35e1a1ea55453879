"""The four tables, and the trigger that is written by hand."""

from django.db import migrations, models

import django_pgnotify

NOTED = """
CREATE FUNCTION noted_notify() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed noted := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    PERFORM pg_notify('data_change', json_build_object(
        'kind', lower(TG_OP),
        'id', changed.id, 'name', changed.name, 'value', changed.value)::text);
    RETURN NULL;
END $$;
CREATE TRIGGER noted_notify AFTER INSERT OR UPDATE OR DELETE ON noted
    FOR EACH ROW EXECUTE FUNCTION noted_notify();
"""


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Noted",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=60)),
                ("room", models.IntegerField(default=0)),
                ("value", models.BigIntegerField(default=0)),
            ],
            options={
                "db_table": "noted",
            },
        ),
        migrations.CreateModel(
            name="Plain",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=60)),
                ("room", models.IntegerField(default=0)),
                ("value", models.BigIntegerField(default=0)),
            ],
            options={
                "db_table": "plain",
            },
        ),
        migrations.CreateModel(
            name="Roomed",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=60)),
                ("room", models.IntegerField(default=0)),
                ("value", models.BigIntegerField(default=0)),
            ],
            options={
                "db_table": "roomed",
                "constraints": [
                    django_pgnotify.NotifyTrigger(
                        fields=["id", "name", "value"],
                        groups=["room-{room}"],
                        name="roomed_changes",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Thing",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=60)),
                ("room", models.IntegerField(default=0)),
                ("value", models.BigIntegerField(default=0)),
            ],
            options={
                "db_table": "thing",
                "constraints": [
                    django_pgnotify.NotifyTrigger(
                        fields=["id", "name", "value"], groups=["things"], name="thing_changes"
                    )
                ],
            },
        ),
        migrations.RunSQL(NOTED, migrations.RunSQL.noop),
    ]

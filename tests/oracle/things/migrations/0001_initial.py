from django.db import migrations, models

import django_pgnotify

TRUTH = """
CREATE TABLE oracle_truth (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid text NOT NULL DEFAULT pg_current_xact_id()::text,
    snapshot text NOT NULL DEFAULT pg_current_snapshot()::text,
    context text DEFAULT nullif(current_setting('django_pgnotify.context', true), ''),
    op text NOT NULL, old jsonb, new jsonb);
CREATE FUNCTION oracle_image(thing things_thing) RETURNS jsonb LANGUAGE sql
    RETURN to_jsonb(thing) || jsonb_build_object('body', md5(thing.body));
CREATE FUNCTION oracle_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO oracle_truth (op, old, new) VALUES (lower(TG_OP),
        CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN oracle_image(OLD) END,
        CASE WHEN TG_OP IN ('UPDATE', 'INSERT') THEN oracle_image(NEW) END);
    RETURN NULL;
END $$;
-- For each row, hence before the statement's own triggers: what the snapshot here does not see
-- had not committed when the ledger was written either.
CREATE TRIGGER oracle_row AFTER INSERT OR UPDATE OR DELETE ON things_thing
    FOR EACH ROW EXECUTE FUNCTION oracle_write();
CREATE TRIGGER a_oracle_truncate AFTER TRUNCATE ON things_thing
    FOR EACH STATEMENT EXECUTE FUNCTION oracle_write();
CREATE TABLE oracle_tick AS
    SELECT number, bits, snapshot::text, 0 AS leader, clock_timestamp() AS at
    FROM django_pgnotify_tick;
ALTER TABLE oracle_tick ADD PRIMARY KEY (number);
CREATE FUNCTION oracle_keep_tick() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO oracle_tick VALUES (NEW.number, NEW.bits, NEW.snapshot::text,
        pg_backend_pid(), clock_timestamp());
    RETURN NULL;
END $$;
CREATE TRIGGER oracle_tick AFTER INSERT ON django_pgnotify_tick
    FOR EACH ROW EXECUTE FUNCTION oracle_keep_tick();
CREATE TABLE oracle_handled (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text, pk text, data jsonb);
"""


class Migration(migrations.Migration):
    initial = True

    dependencies = [("django_pgnotify", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Thing",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("room", models.IntegerField(null=True)),
                ("value", models.IntegerField()),
                ("tag", models.CharField(max_length=60)),
                ("body", models.TextField()),
                ("hidden", models.BooleanField(default=False)),
            ],
            options={
                "constraints": [
                    django_pgnotify.NotifyTrigger(
                        name="thing_changes",
                        fields=["id", "room", "value", "tag", "body"],
                        groups=["all", "room-{room}"],
                        on=["insert", "update", "delete", "truncate"],
                        condition=models.Q(("hidden", False)),
                        context=["tag"],
                    )
                ],
            },
        ),
        migrations.RunSQL(TRUTH),
    ]

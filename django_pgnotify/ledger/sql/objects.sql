-- The ledger and everything beside it. Idempotent: run by the first migration, and again by
-- post_migrate whenever this text differs from the one that was run last.
-- @schema@ stands for the quoted name of the ledger's schema.

CREATE TABLE IF NOT EXISTS @schema@.django_pgnotify_ledger (
    id bigint GENERATED ALWAYS AS IDENTITY,
    -- The top-level transaction, savepoints included: what snapshots know.
    xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    topic text NOT NULL,
    model text,
    -- text, not jsonb: final JSON that nothing in the database looks into, and jsonb refuses \u0000.
    changes text NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    context text,
    context_keys text[]
);
CREATE INDEX IF NOT EXISTS django_pgnotify_ledger_xid ON @schema@.django_pgnotify_ledger (xid);
-- A bulk write's text is a seventh by lz4, in less time than the rest takes to write; pglz, which
-- every server has, costs more than the bytes are worth for an hour.
DO $do$ BEGIN
    ALTER TABLE @schema@.django_pgnotify_ledger
        ALTER COLUMN changes SET COMPRESSION lz4, ALTER COLUMN changes SET STORAGE EXTENDED;
EXCEPTION WHEN feature_not_supported THEN -- a server built without lz4
    ALTER TABLE @schema@.django_pgnotify_ledger ALTER COLUMN changes SET STORAGE EXTERNAL;
END $do$;
-- Everything in it is deleted soon. Giving pages back to the system locks writers out meanwhile:
-- only the relay does that, when the ledger comes near LEDGER_MAX_BYTES.
ALTER TABLE @schema@.django_pgnotify_ledger SET (
    autovacuum_vacuum_scale_factor = 0.05, vacuum_truncate = off,
    toast.autovacuum_vacuum_scale_factor = 0.05, toast.vacuum_truncate = off);

CREATE TABLE IF NOT EXISTS @schema@.django_pgnotify_tick (
    number bigint PRIMARY KEY,
    snapshot pg_snapshot NOT NULL,
    -- 64 random bits: a position holds them, so that a number used twice is noticed.
    bits bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
-- Tick 0 has seen nothing: the first relay begins with the oldest row.
INSERT INTO @schema@.django_pgnotify_tick (number, snapshot, bits)
SELECT 0, '1:1:', pg_catalog.hashtextextended(pg_catalog.gen_random_uuid()::text, 0)
WHERE NOT EXISTS (SELECT FROM @schema@.django_pgnotify_tick);

CREATE TABLE IF NOT EXISTS @schema@.django_pgnotify_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    generation uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    -- Ticks up to this one are known to be sent.
    sent bigint NOT NULL DEFAULT 0,
    -- Ticks up to this one can't be replayed from any more.
    trimmed bigint NOT NULL DEFAULT -1,
    -- System, timeline and database that the relay last worked in.
    identity text,
    -- LEDGER_MAX_BYTES, as migrate or the relay last saw it: 4 GiB.
    max_bytes bigint NOT NULL DEFAULT 4294967296
);
INSERT INTO @schema@.django_pgnotify_state DEFAULT VALUES ON CONFLICT DO NOTHING;

-- A row here says that the ledger is full: nothing is written until the relay has emptied it. A
-- table of its own, because an insert waits for nobody and makes nobody wait.
CREATE TABLE IF NOT EXISTS @schema@.django_pgnotify_full (
    since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

CREATE TABLE IF NOT EXISTS @schema@.django_pgnotify_trigger (
    schema text NOT NULL,
    "table" text NOT NULL,
    name text NOT NULL,
    -- Survives a rename of the table until post_migrate corrects the name.
    relation oid NOT NULL,
    function text NOT NULL,
    declaration jsonb NOT NULL,
    version text NOT NULL,
    PRIMARY KEY (schema, name)
);
CREATE INDEX IF NOT EXISTS django_pgnotify_trigger_relation
    ON @schema@.django_pgnotify_trigger (relation);

CREATE TABLE IF NOT EXISTS @schema@.django_pgnotify_handler (
    name text PRIMARY KEY,
    tick bigint NOT NULL,
    identity text NOT NULL
);

CREATE TABLE IF NOT EXISTS @schema@.django_pgnotify_parked (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    handler text NOT NULL,
    event text NOT NULL,
    traceback text NOT NULL,
    attempts integer NOT NULL,
    -- Somebody asked to try it once more.
    retry boolean NOT NULL DEFAULT false,
    parked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

-- Unlogged: a message on its way is lost with the process that waits for it.
CREATE UNLOGGED TABLE IF NOT EXISTS @schema@.django_pgnotify_message (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel text,
    body bytea NOT NULL,
    expires_at timestamptz NOT NULL
);
-- Read once or twice, and soon: to compress it takes longer than all else.
ALTER TABLE @schema@.django_pgnotify_message ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS django_pgnotify_message_expires_at
    ON @schema@.django_pgnotify_message (expires_at);
CREATE INDEX IF NOT EXISTS django_pgnotify_message_channel
    ON @schema@.django_pgnotify_message (channel, id) WHERE channel IS NOT NULL;

-- JSON, safe for JavaScript ---------------------------------------------------------------
-- One overload a type, single expressions that the planner inlines. PostgreSQL picks by the
-- column's type as it is now, so a retyped column needs no new trigger function.

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(boolean) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT coalesce($1::text, 'null') $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(smallint) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT coalesce($1::text, 'null') $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT coalesce($1::text, 'null') $$;

-- Beyond 2^53 - 1 JavaScript loses digits.
CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(bigint) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE
        WHEN $1 BETWEEN -9007199254740991 AND 9007199254740991 THEN $1::text
        ELSE coalesce('"' || $1::text || '"', 'null') END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(numeric) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    -- NaN is above Infinity.
    AS $$ SELECT CASE WHEN $1 >= 'Infinity' OR $1 = '-Infinity' THEN 'null'
        ELSE coalesce('"' || $1::text || '"', 'null') END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(real) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN $1 IN ('NaN', 'Infinity', '-Infinity') THEN 'null'
        ELSE coalesce($1::text, 'null') END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(double precision) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN $1 IN ('NaN', 'Infinity', '-Infinity') THEN 'null'
        ELSE coalesce($1::text, 'null') END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT coalesce(pg_catalog.to_json($1)::text, 'null') $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(varchar) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT coalesce(pg_catalog.to_json($1)::text, 'null') $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT coalesce('"' || $1::text || '"', 'null') $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(date) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN pg_catalog.isfinite($1) THEN pg_catalog.to_json($1)::text ELSE 'null' END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(timestamp) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT CASE
        WHEN $1 IS NULL OR NOT pg_catalog.isfinite($1) THEN 'null'
        WHEN $1 < '0001-01-01' THEN pg_catalog.to_json($1)::text
        ELSE '"' || pg_catalog.replace(
            pg_catalog.to_char($1, 'YYYY-MM-DD"T"HH24:MI:SS.US'), '.000000', '') || '"' END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(timestamptz) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT CASE
        WHEN $1 IS NULL OR NOT pg_catalog.isfinite($1) THEN 'null'
        WHEN $1 < '0001-01-01T00:00:00Z' THEN pg_catalog.to_json(pg_catalog.timezone('UTC', $1))::text
        ELSE '"' || pg_catalog.replace(pg_catalog.to_char(
            pg_catalog.timezone('UTC', $1), 'YYYY-MM-DD"T"HH24:MI:SS.US'), '.000000', '') || 'Z"' END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(time) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN $1 = '24:00' THEN '"24:00:00"'
        ELSE coalesce('"' || pg_catalog.replace(pg_catalog.to_char(
            '2000-01-01'::date + $1, 'HH24:MI:SS.US'), '.000000', '') || '"', 'null') END $$;

-- The form of Django's duration_iso_string; a month counts 30 days and a year 365, as psycopg reads them.
CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(interval) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN $1 IS NULL OR NOT pg_catalog.isfinite($1) THEN 'null' ELSE (
        SELECT '"' || CASE WHEN us < 0 THEN '-' ELSE '' END
            || 'P' || pg_catalog.div(pg_catalog.abs(us), 86400000000)
            || 'DT' || pg_catalog.lpad((pg_catalog.div(pg_catalog.abs(us), 3600000000) % 24)::text, 2, '0')
            || 'H' || pg_catalog.lpad((pg_catalog.div(pg_catalog.abs(us), 60000000) % 60)::text, 2, '0')
            || 'M' || pg_catalog.lpad((pg_catalog.div(pg_catalog.abs(us), 1000000) % 60)::text, 2, '0')
            || CASE WHEN us % 1000000 = 0 THEN ''
                    ELSE '.' || pg_catalog.lpad((pg_catalog.abs(us) % 1000000)::text, 6, '0') END
            || 'S"'
        -- numeric: an interval may have more microseconds than bigint holds
        FROM (SELECT pg_catalog.trunc(
                (extract(year FROM $1) * 365 + extract(month FROM $1) * 30 + extract(day FROM $1)) * 86400000000
                + extract(hour FROM $1) * 3600000000 + extract(minute FROM $1) * 60000000
                + extract(second FROM $1) * 1000000) AS us) AS parts
    ) END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(bytea) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT coalesce('"' || pg_catalog.translate(pg_catalog.encode($1, 'base64'), E'\n', '') || '"', 'null') $$;

-- Inside a JSON value nothing is rewritten.
CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(json) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT coalesce($1::text, 'null') $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(jsonb) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT coalesce($1::text, 'null') $$;

-- Every other type: its text, or its own cast to json (hstore).
CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(anyelement) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT coalesce(pg_catalog.to_json($1)::text, 'null') $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json_range(anyrange) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT CASE
        WHEN $1 IS NULL THEN 'null'
        WHEN pg_catalog.isempty($1) THEN '"empty"'
        ELSE '{"lower":' || @schema@.pgnotify_json(pg_catalog.lower($1))
            || ',"upper":' || @schema@.pgnotify_json(pg_catalog.upper($1))
            || ',"bounds":"' || CASE WHEN pg_catalog.lower_inc($1) THEN '[' ELSE '(' END
            || CASE WHEN pg_catalog.upper_inc($1) THEN ']' ELSE ')' END || '"}' END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_json_multirange(anymultirange) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN $1 IS NULL THEN 'null' ELSE '[' || coalesce(
        (SELECT pg_catalog.string_agg(@schema@.pgnotify_json_range(part), ',') FROM pg_catalog.unnest($1) AS part),
        '') || ']' END $$;

-- Elements stand flat in an array of any number of dimensions; where a slice of some dimension
-- begins or ends, a bracket opens or closes.
CREATE OR REPLACE FUNCTION @schema@.pgnotify_json_array(anyarray) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT CASE
        WHEN $1 IS NULL THEN 'null'
        WHEN pg_catalog.cardinality($1) = 0 THEN '[]'
        WHEN pg_catalog.array_ndims($1) = 1 THEN (
            SELECT '[' || pg_catalog.string_agg(@schema@.pgnotify_json(element), ',' ORDER BY place) || ']'
            FROM pg_catalog.unnest($1) WITH ORDINALITY AS elements (element, place))
        ELSE (
            SELECT pg_catalog.string_agg(
                pg_catalog.repeat('[', opens::int) || @schema@.pgnotify_json(element)
                || pg_catalog.repeat(']', closes::int), ',' ORDER BY place)
            FROM pg_catalog.unnest($1) WITH ORDINALITY AS elements (element, place),
            LATERAL (
                SELECT count(*) FILTER (WHERE (place - 1) % size = 0) AS opens,
                       count(*) FILTER (WHERE place % size = 0) AS closes
                FROM (
                    SELECT (SELECT pg_catalog.round(pg_catalog.exp(pg_catalog.sum(
                                pg_catalog.ln(pg_catalog.array_length($1, inner_dim)::numeric))))::bigint
                            FROM pg_catalog.generate_series(dim, pg_catalog.array_ndims($1)) AS inner_dim) AS size
                    FROM pg_catalog.generate_series(1, pg_catalog.array_ndims($1)) AS dim
                ) AS slices
            ) AS brackets) END $$;

-- anyelement and anyarray are equally good for an array, which PostgreSQL calls ambiguous: so an
-- overload for each. Arrays of other types (enums) are left to anyelement, whose JSON fits them.
DO $do$
DECLARE
    type text;
    template CONSTANT text :=
        'CREATE OR REPLACE FUNCTION @schema@.pgnotify_json(%s) RETURNS text LANGUAGE sql STABLE'
        ' PARALLEL SAFE AS $$ SELECT @schema@.pgnotify_json_%s($1) $$';
BEGIN
    FOREACH type IN ARRAY ARRAY['int4', 'int8', 'num', 'date', 'ts', 'tstz'] LOOP
        EXECUTE pg_catalog.format(template, type || 'range', 'range');
        EXECUTE pg_catalog.format(template, type || 'multirange', 'multirange');
        EXECUTE pg_catalog.format(template, type || 'range[]', 'array');
    END LOOP;
    FOREACH type IN ARRAY ARRAY['boolean', 'smallint', 'integer', 'bigint', 'numeric', 'real',
        'double precision', 'text', 'varchar', 'uuid', 'date', 'timestamp', 'timestamptz', 'time',
        'interval', 'bytea', 'json', 'jsonb'] LOOP
        EXECUTE pg_catalog.format(template, type || '[]', 'array');
    END LOOP;
END $do$;

-- Is the stored image the same? ------------------------------------------------------------
-- "=" only where it is exact. citext 'A' = 'a', 1.0 = 1.00, jsonb 1 = 1.0, -0.0 = 0.0 and
-- '1 day' = '24:00' are equal but not the same; json and point have no "=" at all.

CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(boolean, boolean) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT $1 IS NOT DISTINCT FROM $2 $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(smallint, smallint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT $1 IS NOT DISTINCT FROM $2 $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(integer, integer) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT $1 IS NOT DISTINCT FROM $2 $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(bigint, bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT $1 IS NOT DISTINCT FROM $2 $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(uuid, uuid) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT $1 IS NOT DISTINCT FROM $2 $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(date, date) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT $1 IS NOT DISTINCT FROM $2 $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(timestamp, timestamp) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT $1 IS NOT DISTINCT FROM $2 $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(timestamptz, timestamptz) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT $1 IS NOT DISTINCT FROM $2 $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(bytea, bytea) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT $1 IS NOT DISTINCT FROM $2 $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(text, text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT $1 COLLATE pg_catalog."C" IS NOT DISTINCT FROM $2 COLLATE pg_catalog."C" $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(varchar, varchar) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT $1 COLLATE pg_catalog."C" IS NOT DISTINCT FROM $2 COLLATE pg_catalog."C" $$;
-- 1.0 and 1.00 differ in their scale, which NaN and the infinities have not.
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(numeric, numeric) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT $1 IS NOT DISTINCT FROM $2 AND pg_catalog.scale($1) IS NOT DISTINCT FROM pg_catalog.scale($2) $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_same(anyelement, anyelement) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT $1::text COLLATE pg_catalog."C" IS NOT DISTINCT FROM $2::text COLLATE pg_catalog."C" $$;

-- How large would the JSON be, at least? Without unpacking the value: 1 GB may compress to 10 MB.

CREATE OR REPLACE FUNCTION @schema@.pgnotify_size(text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT coalesce(pg_catalog.octet_length($1), 0)::bigint $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_size(varchar) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT coalesce(pg_catalog.octet_length($1), 0)::bigint $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_size(bytea) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT coalesce(pg_catalog.octet_length($1), 0)::bigint $$;
CREATE OR REPLACE FUNCTION @schema@.pgnotify_size(anyelement) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT coalesce(pg_catalog.pg_column_size($1), 0)::bigint $$;

-- Group names ------------------------------------------------------------------------------
-- The twin of groups.py, held to it by one table of vectors.

CREATE OR REPLACE FUNCTION @schema@.pgnotify_hash(text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT 'h.' || pg_catalog."left"(
        pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to($1, 'UTF8')), 'hex'), 32) $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_group_part(text, boolean) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE
        WHEN $1 COLLATE pg_catalog."C" ~ CASE WHEN $2 THEN '^[A-Za-z0-9_-]+$' ELSE '^[A-Za-z0-9_]+$' END THEN $1
        ELSE @schema@.pgnotify_hash($1) END $$;

-- literals has one element more than vals; NULL for a NULL value: such a row is in no such group.
CREATE OR REPLACE FUNCTION @schema@.pgnotify_group(literals text[], vals text[]) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
DECLARE
    name text;
    max_length CONSTANT int := 99;
BEGIN
    FOR hashing IN 0..1 LOOP
        name := literals[1];
        FOR i IN 1..pg_catalog.cardinality(vals) LOOP
            name := name || CASE WHEN hashing = 1 THEN @schema@.pgnotify_hash(vals[i])
                ELSE @schema@.pgnotify_group_part(vals[i], pg_catalog.cardinality(vals) = 1) END || literals[i + 1];
        END LOOP;
        IF name IS NULL OR pg_catalog.length(name) <= max_length THEN
            RETURN name;
        END IF;
    END LOOP;
    RETURN @schema@.pgnotify_hash(name);
END $$;

-- Sets of groups. In plpgsql: they run for each row that moves, and the planner does not inline a
-- function with a subquery. COLLATE "C", since a column's collation may call 'A' and 'a' equal.
CREATE OR REPLACE FUNCTION @schema@.pgnotify_both(text[], text[]) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
DECLARE
    name text COLLATE pg_catalog."C";
    result text[] COLLATE pg_catalog."C" := '{}';
BEGIN
    FOREACH name IN ARRAY $1 LOOP
        IF name = ANY ($2) AND name <> ALL (result) THEN
            result := result || name;
        END IF;
    END LOOP;
    RETURN result;
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_only(text[], text[]) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
DECLARE
    name text COLLATE pg_catalog."C";
    result text[] COLLATE pg_catalog."C" := '{}';
BEGIN
    FOREACH name IN ARRAY $1 LOOP
        IF name <> ALL ($2) AND name <> ALL (result) THEN
            result := result || name;
        END IF;
    END LOOP;
    RETURN result;
END $$;

-- Names hold no character that JSON would escape.
CREATE OR REPLACE FUNCTION @schema@.pgnotify_names(text[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN pg_catalog.cardinality($1) = 0 THEN '[]'
        ELSE '["' || pg_catalog.array_to_string($1, '","') || '"]' END $$;

-- Writing the ledger -----------------------------------------------------------------------
-- SECURITY DEFINER: the writer's role needs no right on the ledger. EXECUTE is not for PUBLIC:
-- see the reference for the grants that a separate application role needs.

-- The bell; ledger/bell.py holds its text, which trigger functions have within.
CREATE OR REPLACE FUNCTION @schema@.pgnotify_ring() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    @ring@
END $$;

-- Marks the ledger as full. Looking costs some microseconds, so callers do it for large rows and for
-- one small row of 256, by the clock. Waits for no lock: one session marks, the others go on.
CREATE OR REPLACE FUNCTION @schema@.pgnotify_watch() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    relation oid;
    max_bytes bigint;
BEGIN
    SELECT l.oid, s.max_bytes INTO relation, max_bytes
    FROM @schema@.django_pgnotify_state AS s
    JOIN pg_class AS c ON c.oid = s.tableoid
    JOIN pg_class AS l ON l.relnamespace = c.relnamespace AND l.relname = 'django_pgnotify_ledger';
    IF pg_total_relation_size(relation) > max_bytes
        AND NOT EXISTS (SELECT FROM @schema@.django_pgnotify_full)
        AND pg_try_advisory_xact_lock(hashtextextended('django_pgnotify full', relation::bigint))
    THEN
        INSERT INTO @schema@.django_pgnotify_full DEFAULT VALUES;
        RAISE WARNING 'django_pgnotify: the ledger has more than % bytes, so no event is recorded any more', max_bytes
            USING HINT = 'Start manage.py pglisten, which empties it.';
    END IF;
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_append(
    topic text, model text, changes text, context_keys text[] DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM @schema@.django_pgnotify_full) THEN
        RETURN;
    END IF;
    INSERT INTO @schema@.django_pgnotify_ledger (topic, model, changes, context, context_keys)
    VALUES (pgnotify_append.topic, pgnotify_append.model, pgnotify_append.changes,
            nullif(current_setting('django_pgnotify.context', true), ''), pgnotify_append.context_keys);
    @ring@
    IF octet_length(changes) > 65536 OR date_part('microseconds', clock_timestamp())::int % 256 = 0 THEN
        PERFORM @schema@.pgnotify_watch();
    END IF;
END $$;

CREATE OR REPLACE FUNCTION @schema@.pgnotify_publish(
    topic text, data jsonb, groups text[] DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    targets text[] := coalesce(pgnotify_publish.groups, ARRAY[pgnotify_publish.topic]);
    max_bytes CONSTANT int := 16777216; -- 16 MiB an event
    body text := coalesce(data::text, 'null');
    bad text;
BEGIN
    SELECT g INTO bad FROM unnest(targets || topic) AS g
    WHERE g IS NULL OR g COLLATE "C" !~ '^[A-Za-z0-9_.-]{1,99}$' OR starts_with(g, 'pgnotify.') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'pgnotify_publish: % is not a topic or group name', coalesce(quote_literal(bad), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Use 1 to 99 of A-Z, a-z, 0-9, "-", "_" and ".", not starting with "pgnotify.".';
    END IF;
    PERFORM @schema@.pgnotify_append(topic, NULL,
        '[{"kind":"message","pk":null,'
        || CASE WHEN octet_length(body) > max_bytes THEN '"truncated":true' ELSE '"data":' || body END
        || ',"groups":' || to_json(targets)::text || '}]');
END $$;

REVOKE ALL ON FUNCTION @schema@.pgnotify_append(text, text, text, text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION @schema@.pgnotify_publish(text, jsonb, text[]) FROM PUBLIC;

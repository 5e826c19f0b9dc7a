-- Times are milliseconds since 1970-01-01T00:00:00Z. {schema} is the quoted schema, {t} the
-- configured table name.
CREATE TABLE {schema}."{t}" (
    -- Only cursors of lists contain it.
    id             bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- SHA-256 of the realm's tag and the id. The id itself is not stored.
    id_hash        bytea   NOT NULL UNIQUE CHECK (length(id_hash) = 32),
    public_id      bytea   NOT NULL UNIQUE CHECK (length(public_id) = 16),
    -- The realm, which is also part of the hash of the id.
    realm          text    COLLATE "C" NOT NULL,
    user_key       text    COLLATE "C",
    idp_session_id text    COLLATE "C",
    auth_level     bigint  NOT NULL,
    created        bigint  NOT NULL,
    authenticated  bigint,
    seen           bigint  NOT NULL,
    -- The time at which the current id was issued.
    id_issued      bigint  NOT NULL,
    -- The idle limit is a duration, the absolute limit a time.
    idle           bigint,
    absolute       bigint,
    deadline       bigint  NOT NULL,
    -- The time at which a sweep examines the session; never later than the deadline. Activity moves
    -- the deadline but not this, because it is indexed: an update that changes no indexed column
    -- writes no index.
    sweep_at       bigint  NOT NULL,
    persistent     boolean NOT NULL,
    revision       bigint  NOT NULL,
    client         text    COLLATE "C",
    format         bigint  NOT NULL,
    -- JSON in UTF-8. The type jsonb refuses \u0000 and rewrites numbers.
    data           bytea   NOT NULL
) WITH (fillfactor = 85);

CREATE INDEX "{t}_user" ON {schema}."{t}" (user_key, id) WHERE user_key IS NOT NULL;
CREATE INDEX "{t}_idp" ON {schema}."{t}" (idp_session_id) WHERE idp_session_id IS NOT NULL;
CREATE INDEX "{t}_sweep" ON {schema}."{t}" (sweep_at);

-- Replaced ids of sessions, each for ten minutes after its replacement and its grace.
CREATE TABLE {schema}."{t}_replaced" (
    id             bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id_hash        bytea   NOT NULL UNIQUE CHECK (length(id_hash) = 32),
    -- The id column of the session, which may have ended.
    session        bigint  NOT NULL,
    -- The hash of the id that replaced it.
    successor      bytea   NOT NULL CHECK (length(successor) = 32),
    replaced_at    bigint  NOT NULL,
    -- The end of the grace of a renewal.
    grace_until    bigint,
    by_sign_in     boolean NOT NULL,
    -- The salt from which, with the replaced id, the new id of a sign-in was derived.
    join_salt      bytea   CHECK (length(join_salt) = 32),
    -- Whether the session had a user before the replacement.
    had_user       boolean NOT NULL,
    -- The CSRF secret that the session had while the id was current.
    csrf_secret    bytea   CHECK (length(csrf_secret) = 32),
    forget_at      bigint  NOT NULL
);

CREATE INDEX "{t}_replaced_session" ON {schema}."{t}_replaced" (session);
CREATE INDEX "{t}_replaced_forget" ON {schema}."{t}_replaced" (forget_at);

CREATE TABLE {schema}."{t}_meta" (
    name  text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO {schema}."{t}_meta" (name, value) VALUES ('epoch', '0');
-- Distinguishes the entries of several databases in one cache.
INSERT INTO {schema}."{t}_meta" (name, value)
    VALUES ('identity', replace(gen_random_uuid()::text, '-', ''));

-- For psql. The program never reads this view, so SQL may read the clock here.
CREATE VIEW {schema}."{t}_readable" AS
SELECT
    encode(substr(id_hash, 1, 4), 'hex') AS id_hash_prefix,
    encode(public_id, 'hex') AS public_id,
    realm,
    user_key AS "user",
    to_timestamp(created / 1000.0) AS created,
    to_timestamp(authenticated / 1000.0) AS signed_in,
    to_timestamp(seen / 1000.0) AS seen,
    -- A session without limits has the highest deadline, which is no date.
    CASE WHEN deadline < 253402300800000 THEN to_timestamp(deadline / 1000.0) END AS deadline,
    CASE WHEN deadline > extract(epoch FROM now()) * 1000 THEN 'live' ELSE 'expired' END AS state,
    revision,
    convert_from(data, 'UTF8') AS data
FROM {schema}."{t}";

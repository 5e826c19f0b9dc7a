-- Times are milliseconds since 1970-01-01T00:00:00Z. {t} is the configured table name.
CREATE TABLE "{t}" (
    -- Keeps recent sessions together on few pages. Only cursors of lists contain it.
    id             INTEGER PRIMARY KEY,
    -- SHA-256 of the realm's tag and the id. The id itself is not stored.
    id_hash        BLOB    NOT NULL UNIQUE CHECK (length(id_hash) = 32),
    public_id      BLOB    NOT NULL CHECK (length(public_id) = 16),
    -- The realm, which is also part of the hash of the id.
    realm          TEXT    NOT NULL,
    user_key       TEXT,
    idp_session_id TEXT,
    auth_level     INTEGER NOT NULL DEFAULT 0,
    created        INTEGER NOT NULL,
    authenticated  INTEGER,
    seen           INTEGER NOT NULL,
    -- The time at which the current id was issued.
    id_issued      INTEGER NOT NULL,
    -- The idle limit is a duration, the absolute limit a time.
    idle           INTEGER,
    absolute       INTEGER,
    deadline       INTEGER NOT NULL,
    persistent     INTEGER NOT NULL,
    revision       INTEGER NOT NULL,
    client         TEXT,
    format         INTEGER NOT NULL,
    data           TEXT    NOT NULL
) STRICT;

-- Most sessions are anonymous and rarely looked up by public id: the next three indexes omit them.
CREATE UNIQUE INDEX "{t}_public_id" ON "{t}" (public_id) WHERE user_key IS NOT NULL;
CREATE INDEX "{t}_user" ON "{t}" (user_key) WHERE user_key IS NOT NULL;
CREATE INDEX "{t}_idp_session_id" ON "{t}" (idp_session_id) WHERE idp_session_id IS NOT NULL;
CREATE INDEX "{t}_deadline" ON "{t}" (deadline);

-- Replaced ids of sessions, each for ten minutes after its replacement and its grace.
CREATE TABLE "{t}_replaced" (
    id             INTEGER PRIMARY KEY,
    id_hash        BLOB    NOT NULL UNIQUE CHECK (length(id_hash) = 32),
    -- The session, by row number and public id, because a row number can be reused.
    session        INTEGER NOT NULL,
    public_id      BLOB    NOT NULL CHECK (length(public_id) = 16),
    -- The hash of the id that replaced it.
    successor      BLOB    NOT NULL CHECK (length(successor) = 32),
    replaced_at    INTEGER NOT NULL,
    -- The end of the grace of a renewal.
    grace_until    INTEGER,
    by_sign_in     INTEGER NOT NULL,
    -- The salt from which, with the replaced id, the new id of a sign-in was derived.
    join_salt      BLOB    CHECK (length(join_salt) = 32),
    -- Whether the session had a user before the replacement.
    had_user       INTEGER NOT NULL,
    -- The CSRF secret that the session had while the id was current.
    csrf_secret    BLOB    CHECK (length(csrf_secret) = 32),
    forget_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX "{t}_replaced_session" ON "{t}_replaced" (session);
CREATE INDEX "{t}_replaced_forget" ON "{t}_replaced" (forget_at);

CREATE TABLE "{t}_meta" (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
INSERT INTO "{t}_meta" (name, value) VALUES ('epoch', '0');
-- Distinguishes the entries of several databases in one cache. A restored copy gets another one.
INSERT INTO "{t}_meta" (name, value) VALUES ('identity', lower(hex(randomblob(16))));

-- For the sqlite3 shell. The program never reads this view, so SQL may read the clock here.
CREATE VIEW "{t}_readable" AS
SELECT
    lower(hex(substr(id_hash, 1, 4))) AS id_hash_prefix,
    lower(hex(public_id)) AS public_id,
    realm,
    user_key AS user,
    strftime('%Y-%m-%d %H:%M:%S', created / 1000, 'unixepoch') AS created_utc,
    strftime('%Y-%m-%d %H:%M:%S', authenticated / 1000, 'unixepoch') AS signed_in_utc,
    strftime('%Y-%m-%d %H:%M:%S', seen / 1000, 'unixepoch') AS seen_utc,
    strftime('%Y-%m-%d %H:%M:%S', deadline / 1000, 'unixepoch') AS deadline_utc,
    CASE WHEN deadline / 1000 > CAST(strftime('%s', 'now') AS INTEGER) THEN 'live' ELSE 'expired' END
        AS state,
    revision,
    data
FROM "{t}";

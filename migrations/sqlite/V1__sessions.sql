-- Times are milliseconds since 1970-01-01T00:00:00Z. {t} is the name chosen by the host.
CREATE TABLE "{t}" (
    -- Keeps live sessions together on few pages; it never leaves a transaction.
    id             INTEGER PRIMARY KEY,
    -- SHA-256 of the realm's tag and the id in the browser's cookie; the id itself is nowhere.
    key            BLOB    NOT NULL UNIQUE CHECK (length(key) = 32),
    handle         BLOB    NOT NULL CHECK (length(handle) = 16),
    -- Whose managers find it; the hash in the key covers the name.
    realm          TEXT    NOT NULL,
    user_key       TEXT,
    external_key   TEXT,
    auth_level     INTEGER NOT NULL DEFAULT 0,
    created        INTEGER NOT NULL,
    authenticated  INTEGER,
    seen           INTEGER NOT NULL,
    -- When the session got the id that it has.
    id_issued      INTEGER NOT NULL,
    -- The idle limit as a duration, the absolute limit as a moment.
    idle           INTEGER,
    absolute       INTEGER,
    deadline       INTEGER NOT NULL,
    persistent     INTEGER NOT NULL,
    revision       INTEGER NOT NULL,
    client         TEXT,
    format         INTEGER NOT NULL,
    data           TEXT    NOT NULL
) STRICT;

-- Anonymous sessions are many and are hardly ever looked up by handle: they pay for no index.
CREATE UNIQUE INDEX "{t}_handle" ON "{t}" (handle) WHERE user_key IS NOT NULL;
CREATE INDEX "{t}_user" ON "{t}" (user_key) WHERE user_key IS NOT NULL;
CREATE INDEX "{t}_external" ON "{t}" (external_key) WHERE external_key IS NOT NULL;
CREATE INDEX "{t}_deadline" ON "{t}" (deadline);

-- The ids that sessions had, each for some minutes after it was replaced.
CREATE TABLE "{t}_replaced" (
    id             INTEGER PRIMARY KEY,
    key            BLOB    NOT NULL UNIQUE CHECK (length(key) = 32),
    -- Its session. A row's number can be given to another session later, the handle cannot.
    session        INTEGER NOT NULL,
    handle         BLOB    NOT NULL CHECK (length(handle) = 16),
    -- The key that took its place.
    successor      BLOB    NOT NULL CHECK (length(successor) = 32),
    replaced_at    INTEGER NOT NULL,
    -- Until when it finds the session all the same; never after a sign-in.
    grace_until    INTEGER,
    by_sign_in     INTEGER NOT NULL,
    -- With the replaced id, which is nowhere, it gives the id that took its place.
    join_salt      BLOB    CHECK (length(join_salt) = 32),
    -- Whether the session had a user until then.
    had_user       INTEGER NOT NULL,
    forget_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX "{t}_replaced_session" ON "{t}_replaced" (session);
CREATE INDEX "{t}_replaced_forget" ON "{t}_replaced" (forget_at);

CREATE TABLE "{t}_meta" (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
INSERT INTO "{t}_meta" (name, value) VALUES ('epoch', '0');

-- For a person with the sqlite3 shell. The program never reads it, so here SQL may ask the time.
CREATE VIEW "{t}_readable" AS
SELECT
    lower(hex(substr(key, 1, 4))) AS key_prefix,
    lower(hex(handle)) AS handle,
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

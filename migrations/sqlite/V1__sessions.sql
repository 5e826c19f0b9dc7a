-- Times are milliseconds since 1970-01-01T00:00:00Z. {t} is the name chosen by the host.
CREATE TABLE "{t}" (
    -- Keeps live sessions together on few pages; it never leaves a transaction.
    id             INTEGER PRIMARY KEY,
    -- SHA-256 of the id in the browser's cookie; the id itself is nowhere.
    key            BLOB    NOT NULL UNIQUE CHECK (length(key) = 32),
    -- The key before the last renewal, and when it was left. It finds the session until
    -- previous_until, if that is set, and is known as renewed for some minutes more.
    previous_key   BLOB    CHECK (length(previous_key) = 32),
    previous_left  INTEGER,
    previous_until INTEGER,
    handle         BLOB    NOT NULL CHECK (length(handle) = 16),
    user_key       TEXT,
    external_key   TEXT,
    auth_level     INTEGER NOT NULL DEFAULT 0,
    created        INTEGER NOT NULL,
    authenticated  INTEGER,
    seen           INTEGER NOT NULL,
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

CREATE UNIQUE INDEX "{t}_previous" ON "{t}" (previous_key) WHERE previous_key IS NOT NULL;
-- Anonymous sessions are many and are hardly ever looked up by handle: they pay for no index.
CREATE UNIQUE INDEX "{t}_handle" ON "{t}" (handle) WHERE user_key IS NOT NULL;
CREATE INDEX "{t}_user" ON "{t}" (user_key) WHERE user_key IS NOT NULL;
CREATE INDEX "{t}_external" ON "{t}" (external_key) WHERE external_key IS NOT NULL;
CREATE INDEX "{t}_deadline" ON "{t}" (deadline);

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

-- Rooms and the stays in them. `member_count` is kept with every stay in the same transaction; `repair-rooms` counts anew.
CREATE TABLE rooms (
    room_id          BLOB NOT NULL PRIMARY KEY,
    conversation     INTEGER NOT NULL,
    owner            BLOB NOT NULL,
    max_participants INTEGER NOT NULL,
    locked           INTEGER NOT NULL,
    lobby            INTEGER NOT NULL,
    guests           INTEGER NOT NULL,
    closed           INTEGER NOT NULL,
    member_count     INTEGER NOT NULL,
    created_at       INTEGER NOT NULL
) STRICT;
CREATE INDEX rooms_by_owner ON rooms (owner, created_at);

CREATE TABLE room_sessions (
    session_id BLOB NOT NULL PRIMARY KEY,
    room_id    BLOB NOT NULL REFERENCES rooms (room_id),
    identity   TEXT NOT NULL,
    joined_at  INTEGER NOT NULL,
    left_at    INTEGER NOT NULL,
    active     INTEGER NOT NULL
) STRICT;
CREATE INDEX room_sessions_by_room ON room_sessions (room_id, active);
CREATE INDEX room_sessions_active ON room_sessions (active) WHERE active = 1;

-- For statistics: how long people were in rooms on each day (days since 1970, UTC).
CREATE TABLE room_days (
    day          INTEGER NOT NULL PRIMARY KEY,
    milliseconds INTEGER NOT NULL,
    sessions     INTEGER NOT NULL
) STRICT;

-- Workers that have leases, or had some not long ago. Times are nanoseconds since 1970.
CREATE TABLE owners (
    id INTEGER PRIMARY KEY,
    worker TEXT NOT NULL UNIQUE,
    host TEXT NOT NULL,
    place TEXT NOT NULL,
    os_pid INTEGER NOT NULL,
    started INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT;

-- Processes, each with its last checkpoint. What is long comes last, so that a list does not have to read it.
CREATE TABLE processes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- An integer, or a text: a UUID, or a string as it is typed.
    pid ANY NOT NULL UNIQUE,
    class TEXT NOT NULL,
    state TEXT NOT NULL,
    step INTEGER NOT NULL,
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    exit_status INTEGER,
    lease_number INTEGER NOT NULL DEFAULT 0,
    lease_owner INTEGER,
    transitions INTEGER NOT NULL DEFAULT 0,
    log_first INTEGER NOT NULL DEFAULT 0,
    log_next INTEGER NOT NULL DEFAULT 0,
    log_bytes INTEGER NOT NULL DEFAULT 0,
    child_parent ANY,
    child_step INTEGER,
    child_index INTEGER,
    task TEXT,
    format INTEGER NOT NULL,
    -- Over the texts of the checkpoint. NULL: not checked.
    checksum INTEGER,
    pause TEXT,
    status_text TEXT,
    wait TEXT,
    outcome TEXT,
    brought TEXT NOT NULL,
    body TEXT NOT NULL,
    outputs TEXT
) STRICT;

CREATE UNIQUE INDEX children ON processes (child_parent, child_step, child_index) WHERE child_parent IS NOT NULL;
CREATE UNIQUE INDEX tasks ON processes (task) WHERE task IS NOT NULL;
CREATE INDEX leases ON processes (lease_owner) WHERE lease_owner IS NOT NULL;
CREATE INDEX unfinished ON processes (id) WHERE outcome IS NULL;

-- What a process was made with. Apart from its row, which is written again with each checkpoint.
CREATE TABLE inputs (
    process INTEGER PRIMARY KEY,
    args TEXT NOT NULL,
    kwargs TEXT NOT NULL
) STRICT;

CREATE TABLE transitions (
    process INTEGER NOT NULL,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    step INTEGER NOT NULL,
    is_paused INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (process, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE log (
    process INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    source TEXT NOT NULL,
    line TEXT NOT NULL,
    PRIMARY KEY (process, number)
) STRICT, WITHOUT ROWID;

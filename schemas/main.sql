-- A to-do list. Clients that name this schema must have the same text, to the letter: its hash is its version.
CREATE TABLE IF NOT EXISTS todo (
  id TEXT PRIMARY KEY NOT NULL,
  title TEXT NOT NULL DEFAULT '',
  done INTEGER NOT NULL DEFAULT 0
);
SELECT crsql_as_crr('todo');

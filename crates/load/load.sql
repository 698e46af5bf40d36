-- What the load generator writes. A server under test has this text, to the letter, as load.sql in its schema folder.
CREATE TABLE IF NOT EXISTS item (
  id TEXT PRIMARY KEY NOT NULL,
  amount INTEGER,
  done INTEGER,
  price REAL,
  title TEXT
);
SELECT crsql_as_crr('item');

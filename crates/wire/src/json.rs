//! The JSON codec: the same messages as text, to be read and written by hand.
//!
//! One message is one object in one text WebSocket frame. Its `type` says what it is; the other fields may stand
//! before or behind it.
//!
//! A client introduces itself, having seen the server's changes up to db_version 12:
//!
//! ```json
//! {"type": "announcePresence",
//!  "sender": "000102030405060708090a0b0c0d0e0f",
//!  "lastSeens": [["eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", [12, 0]]],
//!  "schemaName": "main.sql",
//!  "schemaVersion": "-6684781798511370605"}
//! ```
//!
//! The server says from where it wants the client's changes:
//!
//! ```json
//! {"type": "startStreaming", "since": [7, 0], "excludeSites": ["eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"], "localOnly":
//! false}
//! ```
//!
//! Either sends changes: a cell, and a deleted row.
//!
//! ```json
//! {"type": "changes",
//!  "sender": "000102030405060708090a0b0c0d0e0f",
//!  "since": [7, 0],
//!  "changes": [
//!    {"table": "foo", "pk": "010901", "cid": "b", "val": 5, "colVersion": 1, "dbVersion": 8, "cl": 1, "seq": 0},
//!    {"table": "foo", "pk": "010902", "cid": "-1", "val": null, "colVersion": 2, "dbVersion": 9, "cl": 2, "seq": 0}]}
//! ```
//!
//! And whoever gets changes that do not follow on can say so:
//!
//! ```json
//! {"type": "rejectChanges", "whose": "000102030405060708090a0b0c0d0e0f", "since": [7, 0]}
//! ```
//!
//! The messages between servers have the names of [`Message`](crate::Message)'s variants with a small first letter,
//! and their structs' fields in camelCase: `{"type": "ping"}`,
//! `{"type": "err", "requestId": 3, "message": "no such room"}`.
//!
//! # Fields
//!
//! | Kind | Written as | Also read |
//! |---|---|---|
//! | site id, `pk` (the packed key) | lower-case hex digits | upper case |
//! | position | `[db_version, seq]` | |
//! | integer | a number up to 2^53 − 1 in magnitude, beyond that a decimal text | either, at any size of 64 bits |
//! | `schemaVersion`, `txid` | a decimal text | a number |
//!
//! `lastSeens`, `excludeSites` (both empty), `localOnly` (false), and a change's `site` (none), `cl` (1) and `seq`
//! (0) may be left out. `site` is written only if there is one. Unknown and repeated fields are errors.
//!
//! # Values
//!
//! Nothing is lost: what SQLite tells apart looks different here.
//!
//! | Value | JSON |
//! |---|---|
//! | null, text, boolean | `null`, `"hé"`, `true` |
//! | integer | `5`; beyond 2^53 − 1 in magnitude `{"$integer": "9007199254740993"}` |
//! | number | with a fraction or an exponent: `1.5`, `5.0`, `1e300`; `{"$real": "NaN"}`, `{"$real": "Infinity"}`, `{"$real": "-Infinity"}`; a NaN of other bits `{"$real": "7ff8000000000001"}` |
//! | blob | `{"$blob": "00ff"}`, in hex digits |
//!
//! The tagged forms are read for every number, and a plain integer of any 64 bits as well; a larger one is the
//! nearest number, as in SQL. JavaScript writes the number 5.0 as `5`: it has to send `{"$real": 5}` if the
//! difference matters.

pub(crate) mod bytes;
mod change;
mod error;
pub(crate) mod integer;
mod message;
mod value;

pub use self::error::JsonError;

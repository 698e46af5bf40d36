//! The messages with which SQLite databases synchronise, and their two codecs.
//!
//! Local-first applications on cr-sqlite keep a database at each *site* and exchange *changes* over a WebSocket with
//! a server that holds one database a room. This crate is what travels on that socket: it does no I/O and knows no
//! SQLite.
//!
//! - The [binary codec](binary) is byte for byte that of the npm package `@vlcn.io/ws-common` 0.2.0, so that unmodified
//!   vlcn clients understand it.
//! - The [JSON codec](json) carries the same messages without loss, to be read and written by hand.
//!
//! # Who says what
//!
//! | Tag | [`Message`] | Direction | Meaning |
//! |---|---|---|---|
//! | 1 | [`AnnouncePresence`] | client → server | who I am, what I have seen, which schema I have; once a connection |
//! | 2 | [`Changes`] | both | what you have not seen, in whole db_versions |
//! | 3 | [`RejectChanges`] | both | there is a gap between what I have and what you sent |
//! | 4 | [`StartStreaming`] | server → client | send me your changes, from here |
//! | 5 | [`CreateDbOnPrimary`] | follower → primary | open this room |
//! | 6 | [`ApplyChangesOnPrimary`] | follower → primary | apply what this client sent |
//! | 7 | `Ping` | follower → primary | |
//! | 8 | `Pong` | primary → follower | |
//! | 9 | [`CreateDbOnPrimaryResponse`] | primary → follower | it is open as of this transaction |
//! | 10 | [`ErrResponse`] | primary → follower | your request failed |
//! | 11 | [`ApplyChangesOnPrimaryResponse`] | primary → follower | they are applied |
//!
//! A session is 1, then 4, then 2 both ways:
//!
//! ```text
//! client                           server
//!   |--- AnnouncePresence ----------->|
//!   |<-- StartStreaming --------------|  since: what it has of the client's changes
//!   |<-- Changes ---------------------|  since: what the client has announced to have
//!   |--- Changes -------------------->|
//!   |             ...                 |
//! ```
//!
//! # Binary
//!
//! ```
//! use tower_sqlite_sync_wire::{Change, Changes, Message, Position, SiteId, Value};
//!
//! let change = Change {
//!     table: "todo",
//!     pk: &[1, 9, 1],
//!     cid: "title",
//!     val: Value::Text("milk"),
//!     col_version: 1,
//!     db_version: 8,
//!     site: None,
//!     cl: 1,
//!     seq: 0,
//! };
//! let message = Message::Changes(Changes {
//!     sender: SiteId::from_bytes([7; 16]),
//!     since: Position::at(7),
//!     changes: [change].into_iter().collect(),
//! });
//! let frame = message.encode();
//!
//! let Message::Changes(received) = Message::decode(frame)? else { unreachable!() };
//! // The changes are read where they came in: nothing is copied.
//! let titles: Vec<_> = received.changes.iter().map(|change| change.val).collect();
//! assert_eq!(titles, [Value::Text("milk")]);
//!
//! // Whatever is not a message is an error that says where, and never a panic.
//! let error = Message::decode([2, 7, 7].as_slice().into()).unwrap_err();
//! assert_eq!(error.to_string(), "byte 1: expected the sender's site id, but the message ends");
//! # Ok::<(), tower_sqlite_sync_wire::DecodeError>(())
//! ```
//!
//! # JSON
//!
//! ```
//! use tower_sqlite_sync_wire::{Message, Value};
//!
//! let message = Message::from_json(
//!     r#"{"type": "changes",
//!         "sender": "07070707070707070707070707070707",
//!         "since": [7, 0],
//!         "changes": [
//!           {"table": "todo", "pk": "010901", "cid": "title", "val": "milk", "colVersion": 1, "dbVersion": 8}]}"#,
//! )?;
//! let Message::Changes(received) = &message else { unreachable!() };
//! assert_eq!(received.changes.iter().next().map(|change| change.val), Some(Value::Text("milk")));
//!
//! // Both codecs speak of the same messages.
//! assert_eq!(Message::decode(message.encode()).as_ref(), Ok(&message));
//!
//! let error = Message::from_json(r#"{"type": "hello"}"#).unwrap_err();
//! assert_eq!((error.line(), error.column()), (1, 17));
//! # Ok::<(), tower_sqlite_sync_wire::JsonError>(())
//! ```
//!
//! # Where the format comes from
//!
//! From `@vlcn.io/ws-common` 0.2.0, whose encoder is built on lib0's. It is written down in [`binary`]; the crate's
//! tests hold messages that the original encoder made, and compare bytes and fields both ways.

#![forbid(unsafe_code)]

pub mod binary;
mod change;
mod change_list;
mod hex;
pub mod json;
mod message;
mod position;
mod schema;
mod site_id;

pub use self::{
    binary::{ChangesHead, DecodeError, DecodeErrorKind},
    change::{Change, Value},
    change_list::{ChangeIter, ChangeList, ChangeListBuilder},
    json::JsonError,
    message::{
        AnnouncePresence, ApplyChangesOnPrimary, ApplyChangesOnPrimaryResponse, Changes, CreateDbOnPrimary,
        CreateDbOnPrimaryResponse, ErrResponse, Message, RejectChanges, StartStreaming,
    },
    position::Position,
    schema::schema_version,
    site_id::{ParseSiteIdError, SiteId},
};

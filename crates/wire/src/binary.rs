//! The binary codec: byte for byte that of `@vlcn.io/ws-common` 0.2.0, which builds on lib0's encoding.
//!
//! One message is one WebSocket message, without length prefix or checksum. The first byte is the tag.
//!
//! | Primitive | Encoding |
//! |---|---|
//! | u8 | one byte |
//! | id | exactly 16 bytes |
//! | i64, f64 | 8 bytes, big-endian |
//! | varUint | 7-bit groups, least significant first; the top bit says that more follow |
//! | varInt | sign and magnitude. First byte: top bit = more follow, next bit = negative, 6 bits; then as varUint |
//! | string, bytes | length as varUint, then UTF-8, or the bytes |
//! | position | db_version i64, seq varInt |
//! | *list of* x | count as varUint, then that many x |
//!
//! | Tag | Message | Body, in order |
//! |---|---|---|
//! | 1 | [`AnnouncePresence`] | sender id; list of (site id, position); schema name string; schema version i64 |
//! | 2 | [`Changes`] | sender id; since position; list of change |
//! | 3 | [`RejectChanges`] | whose id; since position |
//! | 4 | [`StartStreaming`] | since position; list of id; local only u8 |
//! | 5 | [`CreateDbOnPrimary`] | request varInt; room string; schema name string; schema version i64 |
//! | 6 | [`ApplyChangesOnPrimary`] | request varInt; sender id; list of change; room string; position |
//! | 7, 8 | Ping, Pong | |
//! | 9 | [`CreateDbOnPrimaryResponse`] | request varInt; txid i64 |
//! | 10 | [`ErrResponse`] | request varInt; message string |
//! | 11 | [`ApplyChangesOnPrimaryResponse`] | request varInt |
//!
//! A **change** is: table string; pk bytes; cid string; value; col_version i64; db_version i64; site; cl i64; seq
//! varInt. A *value* starts with its type: 0 null, 1 integer (i64), 2 number (f64), 3 text (string), 4 boolean (u8),
//! 5 blob (bytes). A *site* is 0 for none, or 5 and an id.
//!
//! # How strict
//!
//! All that the reference's encoder can write is accepted, a varInt −0 (read as 0) and NaNs of any bits included. All
//! else is an error: trailing or missing bytes (the reference reads a missing last byte as 0), variable-length
//! integers above 2^53 − 1 or longer than needed, booleans and markers other than the ones above, text that is not
//! UTF-8, and counts that the rest of the message cannot hold. So equal messages have equal bytes, but for −0.

mod change;
mod error;
mod reader;
mod writer;

use bytes::{BufMut, Bytes, BytesMut};

pub use self::error::{DecodeError, DecodeErrorKind};
pub(crate) use self::reader::Reader;
use self::writer::Writer;
use crate::{
    AnnouncePresence, ApplyChangesOnPrimary, ApplyChangesOnPrimaryResponse, ChangeList, Changes, CreateDbOnPrimary,
    CreateDbOnPrimaryResponse, ErrResponse, Message, Position, RejectChanges, SiteId, StartStreaming,
};

/// The largest magnitude of a variable-length integer: 2^53 − 1, what a JavaScript number holds exactly.
pub(crate) const MAX_VAR_INT: u64 = (1 << 53) - 1;

// The shortest encodings, against which counts are checked.
const MIN_LAST_SEEN: usize = 16 + 8 + 1;
const MIN_SITE: usize = 16;

mod tag {
    pub(super) const ANNOUNCE_PRESENCE: u8 = 1;
    pub(super) const CHANGES: u8 = 2;
    pub(super) const REJECT_CHANGES: u8 = 3;
    pub(super) const START_STREAMING: u8 = 4;
    pub(super) const CREATE_DB_ON_PRIMARY: u8 = 5;
    pub(super) const APPLY_CHANGES_ON_PRIMARY: u8 = 6;
    pub(super) const PING: u8 = 7;
    pub(super) const PONG: u8 = 8;
    pub(super) const CREATE_DB_ON_PRIMARY_RESPONSE: u8 = 9;
    pub(super) const ERR: u8 = 10;
    pub(super) const APPLY_CHANGES_ON_PRIMARY_RESPONSE: u8 = 11;
}

impl Message {
    /// Reads the message that a binary frame holds.
    ///
    /// The changes in it are checked here, and stay where they are: see [`ChangeList`].
    ///
    /// # Errors
    ///
    /// When `bytes` is not exactly one well-formed message, with the offset of the fault. See [`binary`](crate::binary)
    /// for how strict this is.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(&bytes);
        let start = reader.offset();
        let message = match reader.u8("a message tag")? {
            tag::ANNOUNCE_PRESENCE => Self::AnnouncePresence(AnnouncePresence {
                sender: reader.site("the sender's site id")?,
                last_seens: read_last_seens(&mut reader)?,
                schema_name: reader.string("the schema name")?.to_owned(),
                schema_version: reader.i64("the schema version")?,
            }),
            tag::CHANGES => Self::Changes(Changes {
                sender: reader.site("the sender's site id")?,
                since: reader.position()?,
                changes: read_changes(&mut reader, &bytes)?,
            }),
            tag::REJECT_CHANGES => Self::RejectChanges(RejectChanges {
                whose: reader.site("the site id of whom is rejected")?,
                since: reader.position()?,
            }),
            tag::START_STREAMING => Self::StartStreaming(StartStreaming {
                since: reader.position()?,
                exclude_sites: read_exclude_sites(&mut reader)?,
                local_only: reader.bool("the local-only flag")?,
            }),
            tag::CREATE_DB_ON_PRIMARY => Self::CreateDbOnPrimary(CreateDbOnPrimary {
                request_id: reader.var_int("the request id")?,
                room: reader.string("the room")?.to_owned(),
                schema_name: reader.string("the schema name")?.to_owned(),
                schema_version: reader.i64("the schema version")?,
            }),
            tag::APPLY_CHANGES_ON_PRIMARY => Self::ApplyChangesOnPrimary(ApplyChangesOnPrimary {
                request_id: reader.var_int("the request id")?,
                sender: reader.site("the sender's site id")?,
                changes: read_changes(&mut reader, &bytes)?,
                room: reader.string("the room")?.to_owned(),
                new_last_seen: reader.position()?,
            }),
            tag::PING => Self::Ping,
            tag::PONG => Self::Pong,
            tag::CREATE_DB_ON_PRIMARY_RESPONSE => Self::CreateDbOnPrimaryResponse(CreateDbOnPrimaryResponse {
                request_id: reader.var_int("the request id")?,
                txid: reader.i64("the transaction id")?,
            }),
            tag::ERR => Self::Err(ErrResponse {
                request_id: reader.var_int("the request id")?,
                message: reader.string("the error message")?.to_owned(),
            }),
            tag::APPLY_CHANGES_ON_PRIMARY_RESPONSE => {
                Self::ApplyChangesOnPrimaryResponse(ApplyChangesOnPrimaryResponse {
                    request_id: reader.var_int("the request id")?,
                })
            }
            unknown => return Err(DecodeErrorKind::UnknownTag(unknown).at(start)),
        };
        reader.finish()?;
        Ok(message)
    }

    /// Writes the message as a binary frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::AnnouncePresence(message) => {
                out.put_u8(tag::ANNOUNCE_PRESENCE);
                out.put_site(message.sender);
                out.put_count(message.last_seens.len());
                for (site, position) in &message.last_seens {
                    out.put_site(*site);
                    out.put_position(*position);
                }
                out.put_string(&message.schema_name);
                out.put_i64(message.schema_version);
            }
            Self::Changes(message) => {
                out.reserve(ChangesHead::MAX_LEN + message.changes.byte_len());
                let head = ChangesHead { sender: message.sender, since: message.since, count: message.changes.len() };
                head.encode_into(&mut out);
                out.put_slice(message.changes.encoded());
            }
            Self::RejectChanges(message) => {
                out.put_u8(tag::REJECT_CHANGES);
                out.put_site(message.whose);
                out.put_position(message.since);
            }
            Self::StartStreaming(message) => {
                out.put_u8(tag::START_STREAMING);
                out.put_position(message.since);
                out.put_count(message.exclude_sites.len());
                for site in &message.exclude_sites {
                    out.put_site(*site);
                }
                out.put_bool(message.local_only);
            }
            Self::CreateDbOnPrimary(message) => {
                out.put_u8(tag::CREATE_DB_ON_PRIMARY);
                out.put_var_int(message.request_id);
                out.put_string(&message.room);
                out.put_string(&message.schema_name);
                out.put_i64(message.schema_version);
            }
            Self::ApplyChangesOnPrimary(message) => {
                out.put_u8(tag::APPLY_CHANGES_ON_PRIMARY);
                out.put_var_int(message.request_id);
                out.put_site(message.sender);
                out.put_count(message.changes.len());
                out.put_slice(message.changes.encoded());
                out.put_string(&message.room);
                out.put_position(message.new_last_seen);
            }
            Self::Ping => out.put_u8(tag::PING),
            Self::Pong => out.put_u8(tag::PONG),
            Self::CreateDbOnPrimaryResponse(message) => {
                out.put_u8(tag::CREATE_DB_ON_PRIMARY_RESPONSE);
                out.put_var_int(message.request_id);
                out.put_i64(message.txid);
            }
            Self::Err(message) => {
                out.put_u8(tag::ERR);
                out.put_var_int(message.request_id);
                out.put_string(&message.message);
            }
            Self::ApplyChangesOnPrimaryResponse(message) => {
                out.put_u8(tag::APPLY_CHANGES_ON_PRIMARY_RESPONSE);
                out.put_var_int(message.request_id);
            }
        }
        out.freeze()
    }
}

/// A [`Changes`] message up to its first change.
///
/// A server that has encoded changes once for many connections writes only this for each of them, and the changes
/// behind it.
///
/// ```
/// use bytes::BytesMut;
/// use tower_sqlite_sync_wire::{ChangeList, Changes, ChangesHead, Message, Position, SiteId};
///
/// let shared = ChangeList::default();
/// let sender = SiteId::from_bytes([7; 16]);
///
/// let mut frame = BytesMut::new();
/// ChangesHead { sender, since: Position::at(3), count: shared.len() }.encode_into(&mut frame);
/// frame.extend_from_slice(shared.encoded());
///
/// let whole = Message::Changes(Changes { sender, since: Position::at(3), changes: shared });
/// assert_eq!(Message::decode(frame.freeze()), Ok(whole));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangesHead {
    /// The site that sends the changes.
    pub sender: SiteId,
    /// Its position before them.
    pub since: Position,
    /// How many changes follow.
    pub count: usize,
}

impl ChangesHead {
    /// No head is longer than this, in bytes.
    pub const MAX_LEN: usize = 1 + 16 + (8 + 8) + 10;

    /// Appends the head.
    pub fn encode_into(&self, out: &mut BytesMut) {
        out.put_u8(tag::CHANGES);
        out.put_site(self.sender);
        out.put_position(self.since);
        out.put_count(self.count);
    }
}

fn read_last_seens(reader: &mut Reader<'_>) -> Result<Vec<(SiteId, Position)>, DecodeError> {
    let count = reader.count("the number of last seens", MIN_LAST_SEEN)?;
    (0..count).map(|_| Ok((reader.site("the site id of a last seen")?, reader.position()?))).collect()
}

fn read_exclude_sites(reader: &mut Reader<'_>) -> Result<Vec<SiteId>, DecodeError> {
    let count = reader.count("the number of excluded sites", MIN_SITE)?;
    (0..count).map(|_| reader.site("the id of an excluded site")).collect()
}

fn read_changes(reader: &mut Reader<'_>, message: &Bytes) -> Result<ChangeList, DecodeError> {
    let count = reader.count("the number of changes", change::MIN_LEN)?;
    ChangeList::read(count, reader, message)
}

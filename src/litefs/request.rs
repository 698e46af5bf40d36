//! What a replica asks of the primary, the answers, and both as bytes.
//!
//! A body starts with the version of this encoding (2) and its kind. Integers are big-endian; a *text* is its length (u32) and UTF-8;
//! a *position* is db_version and seq (i64 each); an *optional* x is 0, or 1 and x; what stands last has no length. Messages are those
//! of [`tower_sqlite_sync_wire`]'s binary codec.
//!
//! | request | kind | in order |
//! |---|---|---|
//! | [`OpenRoom`](Request::OpenRoom) | 1 | message 5, with request id 0 |
//! | [`Apply`](Request::Apply) | 2 | schema version i64; room text; *rights*; refused u8; message 2, which has the `since` that message 6 lacks |
//!
//! *Rights* are: optional identity text; optional text for whose the site may have been; optional tables, a count (u32) and so many
//! texts; u8, 0 to close whoever goes beyond them, 1 to revert what does; and u8, 1 if the client brings back what the room may have lost.
//!
//! | answer | kind | in order |
//! |---|---|---|
//! | [`Opened`](Answer::Opened) | 1 | transaction u64 |
//! | [`Applied`](Answer::Applied) | 2 | position; partial rows u8; changes u64; db_version i64 |
//! | [`Gap`](Answer::Gap) | 3 | position |
//! | [`NotPrimary`](Answer::NotPrimary) | 4 | optional text |
//! | [`Failed`](Answer::Failed) | 5 | code u16; text |

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use tower_sqlite_sync_wire as wire;

use super::position::TxId;
use crate::grant::Refuse;
use crate::primary::Rights;

/// Nodes that run different versions meet while a cluster is updated; they refuse each other's bodies and the clients come again.
const VERSION: u8 = 2;

mod kind {
    pub(super) const OPEN_ROOM: u8 = 1;
    pub(super) const APPLY: u8 = 2;

    pub(super) const OPENED: u8 = 1;
    pub(super) const APPLIED: u8 = 2;
    pub(super) const GAP: u8 = 3;
    pub(super) const NOT_PRIMARY: u8 = 4;
    pub(super) const FAILED: u8 = 5;
}

/// What a replica asks of the primary. The room is a name as it came: the primary's own rules are those that count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Create, migrate or just open this room.
    OpenRoom { room: String, schema_name: String, schema_version: i64 },
    /// Merge what a client sent.
    Apply {
        room: String,
        sender: wire::SiteId,
        /// Where the changes start. The primary's writer checks that nothing is missing before them.
        since: wire::Position,
        /// The version of the schema that the client has.
        schema_version: i64,
        changes: wire::ChangeList,
        /// What the client may have applied.
        rights: Arc<Rights>,
        /// Whether a guard objects to them.
        is_refused: bool,
    },
}

/// What the primary says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The room is open, and a copy that has come to this transaction has it too.
    Opened { txid: TxId },
    /// The changes are durable at the primary.
    Applied {
        /// What the room now has from the sender.
        position: wire::Position,
        /// They created rows without all of their columns.
        partial_rows: bool,
        /// How many of them are now in the database.
        changes: u64,
        /// The room's db_version with them.
        db_version: i64,
    },
    /// The changes start behind what the room has from their sender, which is this; nothing was applied.
    Gap { position: wire::Position },
    /// The one who was asked may not write, and takes this node for the primary.
    NotPrimary { believed: Option<String> },
    /// It was not done and won't be. Code and reason are those with which the client is to be closed.
    Failed { code: u16, reason: String },
}

/// A body is no request, or no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("it ends too early")]
    Truncated(#[from] TryGetError),
    #[error("it has version {0}, not {VERSION}: bring all nodes to the same version")]
    Version(u8),
    #[error("its kind, {0}, is unknown")]
    Kind(u8),
    #[error("a text in it is not UTF-8")]
    Utf8(#[from] std::str::Utf8Error),
    #[error("a flag in it is neither 0 nor 1")]
    Flag,
    #[error("it goes on for {0} bytes after its end")]
    Trailing(usize),
    #[error("the message in it is malformed: {0}")]
    Message(#[from] wire::DecodeError),
    #[error("the message in it is {0}")]
    OtherMessage(&'static str),
}

impl Request {
    /// The room that it is about.
    pub(crate) fn room(&self) -> &str {
        match self {
            Self::OpenRoom { room, .. } | Self::Apply { room, .. } => room,
        }
    }

    /// About how many bytes it takes: those of its changes.
    pub(super) fn byte_len(&self) -> usize {
        match self {
            Self::OpenRoom { .. } => 0,
            Self::Apply { changes, .. } => changes.byte_len(),
        }
    }

    pub(super) fn encode(self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        match self {
            Self::OpenRoom { room, schema_name, schema_version } => {
                out.put_u8(kind::OPEN_ROOM);
                let message = wire::CreateDbOnPrimary { request_id: 0, room, schema_name, schema_version };
                out.put(wire::Message::CreateDbOnPrimary(message).encode());
            }
            Self::Apply { room, sender, since, schema_version, changes, rights, is_refused } => {
                let head = wire::ChangesHead { sender, since, count: changes.len() };
                out.reserve(64 + room.len() + wire::ChangesHead::MAX_LEN + changes.byte_len());
                out.put_u8(kind::APPLY);
                out.put_i64(schema_version);
                put_text(&mut out, &room);
                put_rights(&mut out, &rights);
                out.put_u8(u8::from(is_refused));
                head.encode_into(&mut out);
                out.put_slice(changes.encoded());
            }
        }
        out.freeze()
    }

    pub(super) fn decode(mut body: Bytes) -> Result<Self, BodyError> {
        match kind(&mut body)? {
            kind::OPEN_ROOM => match wire::Message::decode(body)? {
                wire::Message::CreateDbOnPrimary(message) => Ok(Self::OpenRoom {
                    room: message.room,
                    schema_name: message.schema_name,
                    schema_version: message.schema_version,
                }),
                other => Err(BodyError::OtherMessage(other.name())),
            },
            kind::APPLY => {
                let schema_version = body.try_get_i64()?;
                let room = text(&mut body)?;
                let rights = Arc::new(rights(&mut body)?);
                let is_refused = flag(&mut body)?;
                match wire::Message::decode(body)? {
                    wire::Message::Changes(wire::Changes { sender, since, changes }) => {
                        Ok(Self::Apply { room, sender, since, schema_version, changes, rights, is_refused })
                    }
                    other => Err(BodyError::OtherMessage(other.name())),
                }
            }
            unknown => Err(BodyError::Kind(unknown)),
        }
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        match self {
            Self::Opened { txid } => {
                out.put_u8(kind::OPENED);
                out.put_u64(txid.0);
            }
            Self::Applied { position, partial_rows, changes, db_version } => {
                out.put_u8(kind::APPLIED);
                put_position(&mut out, *position);
                out.put_u8(u8::from(*partial_rows));
                out.put_u64(*changes);
                out.put_i64(*db_version);
            }
            Self::Gap { position } => {
                out.put_u8(kind::GAP);
                put_position(&mut out, *position);
            }
            Self::NotPrimary { believed } => {
                out.put_u8(kind::NOT_PRIMARY);
                put_optional_text(&mut out, believed.as_deref());
            }
            Self::Failed { code, reason } => {
                out.put_u8(kind::FAILED);
                out.put_u16(*code);
                put_text(&mut out, reason);
            }
        }
        out.freeze()
    }

    pub(super) fn decode(mut body: Bytes) -> Result<Self, BodyError> {
        let answer = match kind(&mut body)? {
            kind::OPENED => Self::Opened { txid: TxId(body.try_get_u64()?) },
            kind::APPLIED => Self::Applied {
                position: position(&mut body)?,
                partial_rows: flag(&mut body)?,
                changes: body.try_get_u64()?,
                db_version: body.try_get_i64()?,
            },
            kind::GAP => Self::Gap { position: position(&mut body)? },
            kind::NOT_PRIMARY => Self::NotPrimary { believed: optional_text(&mut body)? },
            kind::FAILED => Self::Failed { code: body.try_get_u16()?, reason: text(&mut body)? },
            unknown => return Err(BodyError::Kind(unknown)),
        };
        if body.has_remaining() { Err(BodyError::Trailing(body.remaining())) } else { Ok(answer) }
    }
}

fn kind(body: &mut Bytes) -> Result<u8, BodyError> {
    match body.try_get_u8()? {
        VERSION => Ok(body.try_get_u8()?),
        other => Err(BodyError::Version(other)),
    }
}

fn put_position(out: &mut BytesMut, position: wire::Position) {
    out.put_i64(position.db_version);
    out.put_i64(position.seq);
}

fn position(body: &mut Bytes) -> Result<wire::Position, BodyError> {
    Ok(wire::Position { db_version: body.try_get_i64()?, seq: body.try_get_i64()? })
}

fn flag(body: &mut Bytes) -> Result<bool, BodyError> {
    match body.try_get_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(BodyError::Flag),
    }
}

/// Room names and reasons are short; none comes near the 4 GiB that the length can hold.
fn put_text(out: &mut BytesMut, text: &str) {
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    out.put_u32(len);
    out.put_slice(text.as_bytes());
}

fn text(body: &mut Bytes) -> Result<String, BodyError> {
    let len = usize::try_from(body.try_get_u32()?).unwrap_or(usize::MAX);
    if len > body.remaining() {
        return Err(TryGetError { requested: len, available: body.remaining() }.into());
    }
    Ok(std::str::from_utf8(&body.split_to(len))?.to_owned())
}

fn put_optional_text(out: &mut BytesMut, text: Option<&str>) {
    out.put_u8(u8::from(text.is_some()));
    if let Some(text) = text {
        put_text(out, text);
    }
}

fn optional_text(body: &mut Bytes) -> Result<Option<String>, BodyError> {
    flag(body)?.then(|| text(body)).transpose()
}

fn put_rights(out: &mut BytesMut, Rights { identity, rebinds, tables, refuse, brings_back }: &Rights) {
    put_optional_text(out, identity.as_deref());
    put_optional_text(out, rebinds.as_deref());
    out.put_u8(u8::from(tables.is_some()));
    if let Some(tables) = tables {
        out.put_u32(u32::try_from(tables.len()).unwrap_or(u32::MAX));
        tables.iter().for_each(|table| put_text(out, table));
    }
    out.put_u8(u8::from(*refuse == Refuse::Revert));
    out.put_u8(u8::from(*brings_back));
}

fn rights(body: &mut Bytes) -> Result<Rights, BodyError> {
    let identity = optional_text(body)?.map(Arc::from);
    let rebinds = optional_text(body)?.map(Arc::from);
    let tables = match flag(body)? {
        true => Some((0..body.try_get_u32()?).map(|_| text(body)).collect::<Result<_, _>>()?),
        false => None,
    };
    let refuse = if flag(body)? { Refuse::Revert } else { Refuse::Close };
    let brings_back = flag(body)?;
    Ok(Rights { identity, rebinds, tables: tables.map(Arc::new), refuse, brings_back })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_position()(db_version: i64, seq in 0..1_i64 << 53) -> wire::Position {
            wire::Position { db_version, seq }
        }
    }

    fn any_changes() -> impl Strategy<Value = wire::ChangeList> {
        let change = |(table, pk, number): (String, Vec<u8>, i64)| {
            let change = wire::Change {
                table: &table,
                pk: &pk,
                cid: "title",
                val: wire::Value::Integer(number),
                col_version: 1,
                db_version: number,
                site: None,
                cl: 1,
                seq: 0,
            };
            [change].into_iter().collect::<wire::ChangeList>()
        };
        let one = any::<(String, Vec<u8>, i64)>().prop_map(change);
        vec(one, 0..5).prop_map(|lists| lists.iter().flatten().collect())
    }

    fn any_rights() -> impl Strategy<Value = Rights> {
        any::<(Option<String>, Option<String>, Option<BTreeSet<String>>, bool, bool)>().prop_map(
            |(identity, rebinds, tables, reverts, brings_back)| Rights {
                identity: identity.map(Arc::from),
                rebinds: rebinds.map(Arc::from),
                tables: tables.map(Arc::new),
                refuse: if reverts { Refuse::Revert } else { Refuse::Close },
                brings_back,
            },
        )
    }

    fn any_request() -> impl Strategy<Value = Request> {
        let open = any::<(String, String, i64)>().prop_map(|(room, schema_name, schema_version)| Request::OpenRoom {
            room,
            schema_name,
            schema_version,
        });
        let apply = (any::<(String, [u8; 16], i64, bool)>(), any_position(), any_changes(), any_rights()).prop_map(
            |((room, sender, schema_version, is_refused), since, changes, rights)| Request::Apply {
                room,
                sender: wire::SiteId::from_bytes(sender),
                since,
                schema_version,
                changes,
                rights: Arc::new(rights),
                is_refused,
            },
        );
        prop_oneof![open, apply]
    }

    fn any_answer() -> impl Strategy<Value = Answer> {
        prop_oneof![
            any::<u64>().prop_map(|txid| Answer::Opened { txid: TxId(txid) }),
            (any_position(), any::<(bool, u64, i64)>()).prop_map(|(position, (partial_rows, changes, db_version))| {
                Answer::Applied { position, partial_rows, changes, db_version }
            }),
            any_position().prop_map(|position| Answer::Gap { position }),
            any::<Option<String>>().prop_map(|believed| Answer::NotPrimary { believed }),
            any::<(u16, String)>().prop_map(|(code, reason)| Answer::Failed { code, reason }),
        ]
    }

    proptest! {
        #[test]
        fn a_request_comes_out_as_it_went_in(request in any_request()) {
            prop_assert_eq!(Request::decode(request.clone().encode()).unwrap(), request);
        }

        #[test]
        fn an_answer_comes_out_as_it_went_in(answer in any_answer()) {
            prop_assert_eq!(Answer::decode(answer.encode()).unwrap(), answer);
        }

        #[test]
        fn what_is_cut_short_or_goes_on_is_an_error(request in any_request(), answer in any_answer(), cut: prop::sample::Index) {
            let (request, answer) = (request.encode(), answer.encode());
            prop_assert!(Request::decode(request.slice(..cut.index(request.len()))).is_err());
            prop_assert!(Answer::decode(answer.slice(..cut.index(answer.len()))).is_err());
            let longer = |body: Bytes| Bytes::from([&body[..], &[0]].concat());
            prop_assert!(Request::decode(longer(request)).is_err());
            prop_assert!(Answer::decode(longer(answer)).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(kind in 0_u8..7, rest: Vec<u8>) {
            let body = Bytes::from([&[VERSION, kind], &rest[..]].concat());
            drop(Request::decode(body.clone()));
            drop(Answer::decode(body));
            drop(Request::decode(rest.clone().into()));
            drop(Answer::decode(rest.into()));
        }
    }

    #[test]
    fn another_version_is_named() {
        let error = Answer::decode(Bytes::from_static(&[1, 1])).unwrap_err();
        assert_eq!(error.to_string(), "it has version 1, not 2: bring all nodes to the same version");
    }
}

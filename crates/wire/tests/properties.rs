//! What holds for every message and for every sequence of bytes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::{collection::vec, option, prelude::*};
use tower_sqlite_sync_wire::{
    AnnouncePresence, ApplyChangesOnPrimary, ApplyChangesOnPrimaryResponse, Change, ChangeList, Changes,
    CreateDbOnPrimary, CreateDbOnPrimaryResponse, ErrResponse, Message, Position, RejectChanges, SiteId,
    StartStreaming, Value,
};

#[derive(Debug, Clone)]
enum OwnedValue {
    Null,
    Integer(i64),
    Number(f64),
    Text(String),
    Boolean(bool),
    Blob(Vec<u8>),
}

#[derive(Debug, Clone)]
struct OwnedChange {
    table: String,
    pk: Vec<u8>,
    cid: String,
    val: OwnedValue,
    versions: [i64; 3],
    site: Option<SiteId>,
    seq: i64,
}

impl OwnedChange {
    fn as_change(&self) -> Change<'_> {
        let [col_version, db_version, cl] = self.versions;
        Change {
            table: &self.table,
            pk: &self.pk,
            cid: &self.cid,
            val: match &self.val {
                OwnedValue::Null => Value::Null,
                OwnedValue::Integer(integer) => Value::Integer(*integer),
                OwnedValue::Number(number) => Value::Number(*number),
                OwnedValue::Text(text) => Value::Text(text),
                OwnedValue::Boolean(boolean) => Value::Boolean(*boolean),
                OwnedValue::Blob(bytes) => Value::Blob(bytes),
            },
            col_version,
            db_version,
            site: self.site,
            cl,
            seq: self.seq,
        }
    }
}

/// Integers of every length, not only long ones.
fn integer() -> impl Strategy<Value = i64> {
    (any::<i64>(), 0..64_u32).prop_map(|(integer, shift)| integer >> shift)
}

fn var_int() -> impl Strategy<Value = i64> {
    (any::<i64>(), 11..64_u32).prop_map(|(integer, shift)| (integer >> shift).max(1 - (1 << 53)))
}

fn site() -> impl Strategy<Value = SiteId> {
    any::<[u8; 16]>().prop_map(SiteId::from_bytes)
}

fn position() -> impl Strategy<Value = Position> {
    (integer(), var_int()).prop_map(|(db_version, seq)| Position { db_version, seq })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z]{0,200}"]
}

fn value() -> impl Strategy<Value = OwnedValue> {
    prop_oneof![
        Just(OwnedValue::Null),
        integer().prop_map(OwnedValue::Integer),
        any::<u64>().prop_map(|bits| OwnedValue::Number(f64::from_bits(bits))),
        any::<i32>().prop_map(|whole| OwnedValue::Number(f64::from(whole))),
        any::<f32>().prop_map(|short| OwnedValue::Number(f64::from(short))),
        text().prop_map(OwnedValue::Text),
        any::<bool>().prop_map(OwnedValue::Boolean),
        vec(any::<u8>(), 0..200).prop_map(OwnedValue::Blob),
    ]
}

fn owned_changes() -> impl Strategy<Value = Vec<OwnedChange>> {
    let key = vec(any::<u8>(), 0..40);
    let versions = [integer(), integer(), integer()];
    let change = (text(), key, text(), value(), versions, option::of(site()), var_int()).prop_map(
        |(table, pk, cid, val, versions, site, seq)| OwnedChange { table, pk, cid, val, versions, site, seq },
    );
    vec(change, 0..8)
}

fn changes() -> impl Strategy<Value = ChangeList> {
    owned_changes().prop_map(|changes| changes.iter().map(OwnedChange::as_change).collect())
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (site(), vec((site(), position()), 0..5), text(), integer()).prop_map(
            |(sender, last_seens, schema_name, schema_version)| {
                Message::AnnouncePresence(AnnouncePresence { sender, last_seens, schema_name, schema_version })
            }
        ),
        (site(), position(), changes()).prop_map(|(sender, since, changes)| Message::Changes(Changes {
            sender,
            since,
            changes
        })),
        (site(), position()).prop_map(|(whose, since)| Message::RejectChanges(RejectChanges { whose, since })),
        (position(), vec(site(), 0..5), any::<bool>()).prop_map(|(since, exclude_sites, local_only)| {
            Message::StartStreaming(StartStreaming { since, exclude_sites, local_only })
        }),
        (var_int(), text(), text(), integer()).prop_map(|(request_id, room, schema_name, schema_version)| {
            Message::CreateDbOnPrimary(CreateDbOnPrimary { request_id, room, schema_name, schema_version })
        }),
        (var_int(), site(), changes(), text(), position()).prop_map(
            |(request_id, sender, changes, room, new_last_seen)| {
                let message = ApplyChangesOnPrimary { request_id, sender, changes, room, new_last_seen };
                Message::ApplyChangesOnPrimary(message)
            }
        ),
        Just(Message::Ping),
        Just(Message::Pong),
        (var_int(), integer()).prop_map(|(request_id, txid)| {
            Message::CreateDbOnPrimaryResponse(CreateDbOnPrimaryResponse { request_id, txid })
        }),
        (var_int(), text()).prop_map(|(request_id, message)| Message::Err(ErrResponse { request_id, message })),
        var_int().prop_map(|request_id| {
            Message::ApplyChangesOnPrimaryResponse(ApplyChangesOnPrimaryResponse { request_id })
        }),
    ]
}

/// Reads all that a message gives out, so that whatever would panic does.
fn read_through(message: &Message) {
    if let Message::Changes(Changes { changes, .. })
    | Message::ApplyChangesOnPrimary(ApplyChangesOnPrimary { changes, .. }) = message
    {
        assert_eq!(changes.iter().len(), changes.iter().count());
    }
    assert_eq!(Message::decode(message.encode()).as_ref(), Ok(message));
    assert_eq!(Message::from_json(&message.to_json()).as_ref(), Ok(message));
}

proptest! {
    #[test]
    fn a_message_survives_the_binary_codec(message in message()) {
        prop_assert_eq!(Message::decode(message.encode()), Ok(message));
    }

    #[test]
    fn a_message_survives_the_json_codec(message in message()) {
        let text = message.to_json();
        prop_assert_eq!(Message::from_json(&text), Ok(message), "{}", text);
    }

    #[test]
    fn a_list_gives_back_the_changes_it_was_made_of(changes in owned_changes()) {
        let changes: Vec<_> = changes.iter().map(OwnedChange::as_change).collect();
        let list: ChangeList = changes.iter().copied().collect();
        prop_assert_eq!(list.iter().collect::<Vec<_>>(), changes);
        prop_assert_eq!(ChangeList::from_encoded(list.len(), list.encoded().clone()), Ok(list));
    }

    #[test]
    fn equal_messages_have_equal_bytes_and_others_have_others(a in message(), b in message()) {
        prop_assert_eq!(a == b, a.encode() == b.encode());
    }

    #[test]
    fn a_message_cut_short_is_an_error(message in message(), cut in any::<prop::sample::Index>()) {
        let bytes = message.encode();
        let len = cut.index(bytes.len());
        let error = Message::decode(bytes.slice(..len)).unwrap_err();
        prop_assert!(error.offset() <= len);
        let text = message.to_json();
        let len = cut.index(text.len());
        if text.is_char_boundary(len) {
            prop_assert!(Message::from_json(&text[..len]).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(tag in 0..12_u8, rest in vec(any::<u8>(), 0..200)) {
        let bytes = [&[tag], &rest[..]].concat();
        if let Ok(message) = Message::decode(bytes.into()) {
            read_through(&message);
        }
        let _ = Message::decode(rest.into());
    }

    #[test]
    fn a_message_with_wrong_bytes_does_not_panic(
        message in message(),
        wrong in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = message.encode().to_vec();
        for (at, byte) in wrong {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(message) = Message::decode(bytes.into()) {
            read_through(&message);
        }
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in any::<String>()) {
        prop_assert!(Message::from_json(&text).is_err());
    }

    #[test]
    fn json_with_a_wrong_character_does_not_panic(
        message in message(),
        at in any::<prop::sample::Index>(),
        wrong in prop_oneof![any::<char>(), "[]{}\",:0-9$-]".prop_map(|text| text.chars().next().unwrap())],
    ) {
        let mut characters: Vec<char> = message.to_json().chars().collect();
        let at = at.index(characters.len());
        characters[at] = wrong;
        if let Ok(message) = Message::from_json(&String::from_iter(characters)) {
            read_through(&message);
        }
    }
}

//! What the reference encoder, `@vlcn.io/ws-common` 0.2.0, made of known messages: one JSON object a line, with the
//! message's fields and its bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use bytes::Bytes;
use serde_json::Value as Json;
use tower_sqlite_sync_wire::{
    AnnouncePresence, ApplyChangesOnPrimary, ApplyChangesOnPrimaryResponse, Change, ChangeList, Changes, ChangesHead,
    CreateDbOnPrimary, CreateDbOnPrimaryResponse, ErrResponse, Message, Position, RejectChanges, SiteId,
    StartStreaming, Value, schema_version,
};

struct Vector {
    name: String,
    message: Message,
    bytes: Bytes,
}

#[test]
fn every_message_built_from_its_fields_has_the_reference_s_bytes() {
    for Vector { name, message, bytes } in vectors() {
        assert_eq!(message.encode(), bytes, "{name}");
    }
}

#[test]
fn every_message_of_the_reference_decodes_to_its_fields() {
    for Vector { name, message, bytes } in vectors() {
        assert_eq!(Message::decode(bytes).unwrap(), message, "{name}");
    }
}

#[test]
fn every_message_of_the_reference_survives_json() {
    for Vector { name, message, .. } in vectors() {
        let text = message.to_json();
        assert_eq!(Message::from_json(&text).unwrap(), message, "{name}: {text}");
    }
}

#[test]
fn a_head_and_changes_written_apart_are_the_reference_s_bytes() {
    for Vector { name, message, bytes } in vectors() {
        if let Message::Changes(Changes { sender, since, changes }) = message {
            let mut frame = bytes::BytesMut::new();
            ChangesHead { sender, since, count: changes.len() }.encode_into(&mut frame);
            assert!(frame.len() <= ChangesHead::MAX_LEN);
            for change in &changes {
                change.encode_into(&mut frame);
            }
            assert_eq!(frame, bytes, "{name}");
            let encoded = changes.encoded().clone();
            assert_eq!(ChangeList::from_encoded(changes.len(), encoded), Ok(changes), "{name}");
        }
    }
}

#[test]
fn a_message_cut_short_anywhere_is_an_error_within_what_is_left() {
    for Vector { name, bytes, .. } in vectors() {
        for len in 0..bytes.len() {
            let error = Message::decode(bytes.slice(..len)).expect_err(&name);
            assert!(error.offset() <= len, "{name} cut to {len}: {error}");
        }
    }
}

#[test]
fn a_byte_behind_a_message_is_an_error_at_that_byte() {
    for Vector { name, bytes, .. } in vectors() {
        let longer = [&bytes[..], &[0]].concat();
        let error = Message::decode(longer.into()).expect_err(&name);
        assert_eq!(error.offset(), bytes.len(), "{name}: {error}");
    }
}

#[test]
fn whatever_one_wrong_byte_turns_a_message_into_is_refused_or_wholly_readable() {
    for Vector { name, bytes, .. } in vectors() {
        for at in 0..bytes.len() {
            for flip in [0x01, 0x02, 0x04, 0x40, 0x80, 0xff] {
                let mut bytes = bytes.to_vec();
                bytes[at] ^= flip;
                if let Ok(message) = Message::decode(bytes.into()) {
                    let (Message::Changes(Changes { changes, .. })
                    | Message::ApplyChangesOnPrimary(ApplyChangesOnPrimary { changes, .. })) = &message
                    else {
                        continue;
                    };
                    assert_eq!(changes.iter().count(), changes.len(), "{name} byte {at}");
                    assert_eq!(changes.iter().collect::<ChangeList>(), *changes, "{name} byte {at}");
                }
            }
        }
    }
}

#[test]
fn schema_versions_are_the_reference_s() {
    let mut count = 0;
    for line in lines().filter(|line| line["name"] == "cryb64") {
        let text = match &line["text"] {
            Json::String(text) => text.clone(),
            repeated => {
                let times = repeated["times"].as_u64().unwrap().try_into().unwrap();
                repeated["repeat"].as_str().unwrap().repeat(times)
            }
        };
        assert_eq!(schema_version(&text), bigint(&line["version"]), "{line}");
        count += 1;
    }
    assert_eq!(count, 5);
}

fn lines() -> impl Iterator<Item = Json> {
    include_str!("vectors/wire.jsonl").lines().map(|line| serde_json::from_str(line).unwrap())
}

fn vectors() -> Vec<Vector> {
    let vectors: Vec<_> = lines().filter(|line| line.get("hex").is_some()).map(|line| vector(&line)).collect();
    assert_eq!(vectors.len(), 62);
    vectors
}

fn vector(line: &Json) -> Vector {
    let name = line["name"].as_str().unwrap().to_owned();
    Vector { name, message: message(&line["msg"]), bytes: hex(&line["hex"]).into() }
}

fn message(msg: &Json) -> Message {
    let text = |field: &str| msg[field].as_str().unwrap().to_owned();
    match msg["_tag"].as_u64().unwrap() {
        1 => Message::AnnouncePresence(AnnouncePresence {
            sender: site(&msg["sender"]),
            last_seens: array(&msg["lastSeens"]).map(|seen| (site(&seen[0]), position(&seen[1]))).collect(),
            schema_name: text("schemaName"),
            schema_version: bigint(&msg["schemaVersion"]),
        }),
        2 => Message::Changes(Changes {
            sender: site(&msg["sender"]),
            since: position(&msg["since"]),
            changes: changes(&msg["changes"]),
        }),
        3 => Message::RejectChanges(RejectChanges { whose: site(&msg["whose"]), since: position(&msg["since"]) }),
        4 => Message::StartStreaming(StartStreaming {
            since: position(&msg["since"]),
            exclude_sites: array(&msg["excludeSites"]).map(site).collect(),
            local_only: msg["localOnly"].as_bool().unwrap(),
        }),
        5 => Message::CreateDbOnPrimary(CreateDbOnPrimary {
            request_id: number(&msg["_reqid"]),
            room: text("room"),
            schema_name: text("schemaName"),
            schema_version: bigint(&msg["schemaVersion"]),
        }),
        6 => Message::ApplyChangesOnPrimary(ApplyChangesOnPrimary {
            request_id: number(&msg["_reqid"]),
            sender: site(&msg["sender"]),
            changes: changes(&msg["changes"]),
            room: text("room"),
            new_last_seen: position(&msg["newLastSeen"]),
        }),
        7 => Message::Ping,
        8 => Message::Pong,
        9 => Message::CreateDbOnPrimaryResponse(CreateDbOnPrimaryResponse {
            request_id: number(&msg["_reqid"]),
            txid: bigint(&msg["txid"]),
        }),
        10 => Message::Err(ErrResponse { request_id: number(&msg["_reqid"]), message: text("err") }),
        11 => {
            Message::ApplyChangesOnPrimaryResponse(ApplyChangesOnPrimaryResponse { request_id: number(&msg["_reqid"]) })
        }
        tag => panic!("no message has tag {tag}"),
    }
}

fn changes(list: &Json) -> ChangeList {
    let fields: Vec<_> = array(list)
        .map(|change| {
            assert_eq!(change.as_array().unwrap().len(), 9);
            let bytes = change[3].get("hex").map(|_| hex(&change[3]));
            (change, hex(&change[1]), bytes)
        })
        .collect();
    fields
        .iter()
        .map(|(change, pk, blob)| Change {
            table: change[0].as_str().unwrap(),
            pk,
            cid: change[2].as_str().unwrap(),
            val: value(&change[3], blob.as_deref()),
            col_version: bigint(&change[4]),
            db_version: bigint(&change[5]),
            site: (!change[6].is_null()).then(|| site(&change[6])),
            cl: bigint(&change[7]),
            seq: number(&change[8]),
        })
        .collect()
}

/// A JavaScript value: bigints are texts that end in `n`, numbers are doubles, even if JSON shows them without a
/// fraction.
fn value<'a>(value: &'a Json, blob: Option<&'a [u8]>) -> Value<'a> {
    match value {
        Json::Null => Value::Null,
        Json::Bool(boolean) => Value::Boolean(*boolean),
        Json::Number(number) => Value::Number(number.as_f64().unwrap()),
        Json::String(text) => parse_bigint(text).map_or(Value::Text(text), Value::Integer),
        _ => Value::Blob(blob.unwrap()),
    }
}

fn array(list: &Json) -> impl Iterator<Item = &Json> {
    list.as_array().unwrap().iter()
}

fn position(pair: &Json) -> Position {
    Position { db_version: bigint(&pair[0]), seq: number(&pair[1]) }
}

fn site(id: &Json) -> SiteId {
    SiteId::from_bytes(hex(id).try_into().unwrap())
}

fn bigint(text: &Json) -> i64 {
    parse_bigint(text.as_str().unwrap()).unwrap()
}

fn parse_bigint(text: &str) -> Option<i64> {
    text.strip_suffix('n')?.parse().ok()
}

fn number(number: &Json) -> i64 {
    number.as_i64().unwrap()
}

/// The bytes of `"00ff"` or of `{"hex": "00ff"}`.
fn hex(digits: &Json) -> Vec<u8> {
    let digits = digits.get("hex").unwrap_or(digits).as_str().unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

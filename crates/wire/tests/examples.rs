//! Messages as bytes, worked out by hand and by the reference encoder, each with what it means.

#![allow(clippy::unwrap_used)]

use tower_sqlite_sync_wire::{
    AnnouncePresence, ApplyChangesOnPrimary, ApplyChangesOnPrimaryResponse, Change, Changes, CreateDbOnPrimary,
    CreateDbOnPrimaryResponse, ErrResponse, Message, Position, RejectChanges, SiteId, StartStreaming, Value,
};

const S: SiteId = SiteId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
const S_HEX: &str = "000102030405060708090a0b0c0d0e0f";
const T: SiteId = SiteId::from_bytes([0xee; 16]);
const T_HEX: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";

fn means(hex: &str, message: &Message) {
    let hex = hex.replace([' ', '\n'], "").replace('S', S_HEX).replace('T', T_HEX);
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2).unwrap(), 16).unwrap());
    let bytes: Vec<u8> = bytes.collect();
    assert_eq!(message.encode(), bytes, "{message:?}");
    assert_eq!(Message::decode(bytes.into()).unwrap(), *message);
}

fn announce(last_seens: &[(SiteId, Position)], schema_name: &str, schema_version: i64) -> Message {
    let schema_name = schema_name.to_owned();
    Message::AnnouncePresence(AnnouncePresence {
        sender: S,
        last_seens: last_seens.to_vec(),
        schema_name,
        schema_version,
    })
}

fn cell(val: Value<'_>) -> Change<'_> {
    Change { table: "foo", pk: &[1, 9, 1], cid: "b", val, col_version: 1, db_version: 2, site: None, cl: 1, seq: 0 }
}

#[test]
fn an_announcement_is_these_bytes() {
    means("01 S 00 08 6d61696e2e73716c fffffffffffffffb", &announce(&[], "main.sql", -5));
    means("01 S 01 T 000000000000012c 00 0178 0000000000000001", &announce(&[(T, Position::at(300))], "x", 1));
    means(
        "01 S 01 T ffffffffffffffff 43 02c3a9 7fffffffffffffff",
        &announce(&[(T, Position { db_version: -1, seq: -3 })], "é", i64::MAX),
    );
}

#[test]
fn changes_are_these_bytes() {
    let changes = |since, changes: &[Change<'_>]| {
        Message::Changes(Changes { sender: S, since, changes: changes.iter().copied().collect() })
    };
    means("02 S 0000000000000000 00 00", &changes(Position::START, &[]));
    let delete = Change {
        table: "foo",
        pk: &[1, 9, 1],
        cid: Change::SENTINEL,
        val: Value::Null,
        col_version: 2,
        db_version: 2,
        site: Some(T),
        cl: 2,
        seq: 64,
    };
    means(
        "02 S 0000000000000001 00 01
         03666f6f 03010901 022d31 00 0000000000000002 0000000000000002 05 T 0000000000000002 8001",
        &changes(Position::at(1), &[delete]),
    );
}

#[test]
fn each_value_is_these_bytes() {
    let table = [
        (Value::Null, "00"),
        (Value::Integer(5), "01 0000000000000005"),
        (Value::Integer(-1), "01 ffffffffffffffff"),
        (Value::Number(5.0), "02 4014000000000000"),
        (Value::Number(1.5), "02 3ff8000000000000"),
        (Value::Number(-0.0), "02 8000000000000000"),
        (Value::Number(f64::NAN), "02 7ff8000000000000"),
        (Value::Number(f64::from_bits(0xfff0_0000_0000_0001)), "02 fff0000000000001"),
        (Value::Text("hé"), "03 03 68c3a9"),
        (Value::Text(""), "03 00"),
        (Value::Text("😀"), "03 04 f09f9880"),
        // What the reference encoder makes of a lone surrogate.
        (Value::Text("\u{fffd}"), "03 03 efbfbd"),
        (Value::Boolean(true), "04 01"),
        (Value::Boolean(false), "04 00"),
        (Value::Blob(&[0, 0xff]), "05 02 00ff"),
        (Value::Blob(&[]), "05 00"),
    ];
    for (value, hex) in table {
        means(
            &format!(
                "02 S 0000000000000000 00 01 03666f6f 03010901 0162 {hex} 0000000000000001 0000000000000002 00 0000000000000001 00"
            ),
            &Message::Changes(Changes {
                sender: S,
                since: Position::START,
                changes: [cell(value)].into_iter().collect(),
            }),
        );
    }
}

#[test]
fn a_request_for_changes_and_a_rejection_are_these_bytes() {
    means("03 S 0000000000000007 00", &Message::RejectChanges(RejectChanges { whose: S, since: Position::at(7) }));
    means(
        "04 0000000000000007 00 01 T 00",
        &Message::StartStreaming(StartStreaming { since: Position::at(7), exclude_sites: vec![T], local_only: false }),
    );
    means(
        "04 0000000000000000 00 00 01",
        &Message::StartStreaming(StartStreaming { since: Position::START, exclude_sites: vec![], local_only: true }),
    );
    means(
        "04 7fffffffffffffff 00 00 00",
        &Message::StartStreaming(StartStreaming { since: Position::MUTE, exclude_sites: vec![], local_only: false }),
    );
}

#[test]
fn messages_between_servers_are_these_bytes() {
    let create = |request_id, room: &str, schema_name: &str, schema_version| {
        let (room, schema_name) = (room.to_owned(), schema_name.to_owned());
        Message::CreateDbOnPrimary(CreateDbOnPrimary { request_id, room, schema_name, schema_version })
    };
    means("05 00 04726f6f6d 086d61696e2e73716c 0000000000000102", &create(0, "room", "main.sql", 258));
    means("05 a401 0172 0173 0000000000000001", &create(100, "r", "s", 1));
    means(
        "06 01 S 01
         03666f6f 03010901 0162 02 4014000000000000 0000000000000001 0000000000000002 00 0000000000000001 00
         0172 0000000000000002 00",
        &Message::ApplyChangesOnPrimary(ApplyChangesOnPrimary {
            request_id: 1,
            sender: S,
            changes: [cell(Value::Number(5.0))].into_iter().collect(),
            room: "r".to_owned(),
            new_last_seen: Position::at(2),
        }),
    );
    means("07", &Message::Ping);
    means("08", &Message::Pong);
    means(
        "09 00 00000000002df417",
        &Message::CreateDbOnPrimaryResponse(CreateDbOnPrimaryResponse { request_id: 0, txid: 0x2d_f417 }),
    );
    means("0a 41 02 6e6f", &Message::Err(ErrResponse { request_id: -1, message: "no".to_owned() }));
    means("0b 01", &Message::ApplyChangesOnPrimaryResponse(ApplyChangesOnPrimaryResponse { request_id: 1 }));
}

//! Messages that say something else, in another order, or nothing that can be read.

use tower_sqlite_sync_wire::{
    AnnouncePresence, ApplyChangesOnPrimary, ApplyChangesOnPrimaryResponse, Change, ChangeList, ChangeListBuilder,
    CreateDbOnPrimary, CreateDbOnPrimaryResponse, ErrResponse, Message, Position, RejectChanges, SiteId,
    StartStreaming, Value,
};

use crate::bytes::flip;
use crate::exchange::Sent;
use crate::fixture::Random;
use crate::frame::Frame;
use crate::fuzz;
use crate::recording::Recording;

/// Numbers on both sides of some bound.
const NUMBERS: [i64; 21] = [
    i64::MIN,
    -1,
    0,
    1,
    2,
    3,
    100,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    1 << 24,
    (1 << 24) + 1,
    1 << 25,
    1 << 31,
    1 << 32,
    1 << 52,
    (1 << 52) + 1,
    (1 << 53) - 1,
    1 << 53,
    i64::MAX - 1,
    i64::MAX,
];

/// Tables, columns, what is neither, and what is not the application's.
const NAMES: [&str; 22] = [
    "foo",
    "typed",
    "picky",
    "plain",
    "none",
    "FOO",
    "foo__crsql_clock",
    "foo__crsql_pks",
    "crsql_site_id",
    "sqlite_schema",
    "a",
    "b",
    "id",
    "r",
    "t",
    "v",
    "-1",
    "",
    "\0",
    "b\0",
    "\"; DROP TABLE foo; --",
    "é",
];

/// Keys that are packed well, for one table or for none, and others.
const KEYS: [&[u8]; 14] = [
    b"",
    b"\0",
    b"\x01",
    b"\x01\x05",
    b"\x01\x09\x01",
    b"\x01\x09\x02",
    b"\x01\x09\x05",
    b"\x01\x0b\x01x",
    b"\x01\x0b\x01\xff",
    b"\x02\x09\x01\x09\x01",
    b"\x01\x09\x01\x00",
    b"\x01\xfc\x01",
    b"\x01\x02\x7f\xf8\0\0\0\0\0\0",
    b"\xff",
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_messages_come_everybody_else_goes_on() {
    fuzz(session).await;
}

fn session(random: &mut Random, recording: &Recording) -> Sent {
    let site = SiteId::from_bytes(random.bytes(16).try_into().unwrap());
    let frames = recording.session(random, site);
    let mut messages: Vec<Message> =
        frames.iter().map(|frame| Message::decode(frame.payload.clone().into()).unwrap()).collect();
    // Rows of its own, half of the time: what has once leapt to its bound beats whatever comes after it.
    let shift = if random.one_in(2) { 0 } else { random.next().to_le_bytes()[0] };
    for message in &mut messages {
        if let Message::Changes(message) = message {
            message.changes = shifted(&message.changes, shift);
        }
        if random.one_in(2) {
            *message = changed(random, recording, message.clone());
        }
    }
    for _ in 0..random.below(3) {
        reorder(random, recording, &mut messages);
    }
    let (mut bytes, mut changesets) = (Vec::new(), 0);
    for message in &messages {
        let mut frame = match random.one_in(40) {
            true => Frame::whole(Frame::TEXT, message.to_json().into_bytes()),
            false => Frame::whole(Frame::BINARY, message.encode().to_vec()),
        };
        if random.one_in(12) {
            misspell(random, &mut frame.payload);
        }
        frame.write(&mut bytes);
        changesets += 1;
    }
    Sent { bytes, changesets, is_framed: true }
}

/// Changes what is sent when.
fn reorder(random: &mut Random, recording: &Recording, messages: &mut Vec<Message>) {
    let (at, other) = (random.below(messages.len()), random.below(messages.len()));
    match random.below(5) {
        0 => messages.swap(at, other),
        1 if messages.len() > 1 => drop(messages.remove(at)),
        2 => messages.insert(other, messages[at].clone()),
        3 => messages
            .insert(at, Message::RejectChanges(RejectChanges { whose: recording.server, since: position(random) })),
        _ => messages.insert(at, out_of_place(random)),
    }
}

/// Cuts, extends or garbles an encoded message.
fn misspell(random: &mut Random, payload: &mut Vec<u8>) {
    match random.below(3) {
        0 => payload.truncate(random.below(payload.len())),
        1 => {
            let len = random.below(20);
            payload.extend(random.bytes(len));
        }
        _ => flip(random, payload),
    }
}

/// What clients don't send.
fn out_of_place(random: &mut Random) -> Message {
    let request_id = *random.pick(&[0, 1, -1, (1 << 53) - 1]);
    let name = name(random).to_owned();
    match random.below(8) {
        0 => Message::StartStreaming(StartStreaming {
            since: position(random),
            exclude_sites: vec![site(random); random.below(3)],
            local_only: random.one_in(2),
        }),
        1 => Message::CreateDbOnPrimary(CreateDbOnPrimary {
            request_id,
            room: name,
            schema_name: "main.sql".to_owned(),
            schema_version: number(random),
        }),
        2 => Message::ApplyChangesOnPrimary(ApplyChangesOnPrimary {
            request_id,
            sender: site(random),
            changes: ChangeList::default(),
            room: name,
            new_last_seen: position(random),
        }),
        3 => Message::CreateDbOnPrimaryResponse(CreateDbOnPrimaryResponse { request_id, txid: number(random) }),
        4 => Message::ApplyChangesOnPrimaryResponse(ApplyChangesOnPrimaryResponse { request_id }),
        5 => Message::Err(ErrResponse { request_id, message: name }),
        6 => Message::Ping,
        _ => Message::Pong,
    }
}

/// The same kind of message with something else in it.
fn changed(random: &mut Random, recording: &Recording, message: Message) -> Message {
    match message {
        Message::Changes(mut message) => {
            message.changes = changes(random, &message.changes);
            match random.below(12) {
                0 => message.since = position(random),
                1 => message.sender = if random.one_in(2) { recording.server } else { site(random) },
                _ => {}
            }
            Message::Changes(message)
        }
        // Whoever isn't let in sends nothing that is looked at, so most are.
        Message::AnnouncePresence(message) => {
            let mut last_seens = vec![(recording.server, position(random))];
            last_seens.extend((0..random.below(3)).map(|_| (site(random), position(random))));
            let mut message = AnnouncePresence { last_seens, ..message };
            match random.below(10) {
                0 => message.schema_name = name(random).to_owned(),
                1 => message.schema_version = number(random),
                2 => message.sender = if random.one_in(2) { recording.server } else { site(random) },
                _ => {}
            }
            Message::AnnouncePresence(message)
        }
        other => other,
    }
}

/// The same changes of other rows.
fn shifted(list: &ChangeList, shift: u8) -> ChangeList {
    let mut builder = ChangeListBuilder::default();
    for change in list {
        match *change.pk {
            // The packed key of one small integer.
            [1, 9, key] => builder.push(Change { pk: &[1, 9, key.wrapping_add(shift) & 0x7f], ..change }),
            _ => builder.push(change),
        }
    }
    builder.finish()
}

/// Some of the changes as they were, others not, some twice, and in another order.
fn changes(random: &mut Random, list: &ChangeList) -> ChangeList {
    let mut changes: Vec<Change<'_>> = list.iter().collect();
    if random.one_in(4) {
        let (at, other) = (random.below(changes.len()), random.below(changes.len()));
        changes.swap(at, other);
    }
    // Most are such as are taken, for one that isn't makes all of a changeset be refused.
    let is_wild = random.one_in(3);
    let mut builder = ChangeListBuilder::default();
    for change in changes {
        let len = random.below(40);
        let (bytes, text) = (random.bytes(len), format!("text {}", random.below(100)));
        let mut change = change;
        let odds = if is_wild { 10 } else { 3 };
        if random.one_in(odds) {
            for _ in 0..=random.below(2) {
                change = if is_wild { wild(random, change, &bytes) } else { plausible(random, change, &bytes, &text) };
            }
        }
        builder.push(change);
        if random.one_in(30) {
            builder.push(change);
        }
    }
    builder.finish()
}

fn plausible<'a>(random: &mut Random, change: Change<'a>, bytes: &'a [u8], text: &'a str) -> Change<'a> {
    let small = i64::try_from(random.below(6)).unwrap();
    match random.below(10) {
        0 => Change { pk: KEYS[4 + random.below(3)], ..change },
        1 if change.cid != Change::SENTINEL => {
            Change { cid: Change::SENTINEL, col_version: small, cl: small, ..change }
        }
        2 => Change { col_version: small, ..change },
        3 => Change { col_version: 1 << 24, ..change },
        4 => Change { cl: small, ..change },
        5 => Change { db_version: change.db_version + small, ..change },
        6 => Change { db_version: [1 << 20, 1 << 24, 1 << 40, 1 << 52][random.below(4)], ..change },
        7 => Change { cl: 1 << 20, ..change },
        8 => Change { seq: small, site: Some(site(random)), ..change },
        _ => Change { val: value(random, bytes, text), ..change },
    }
}

fn wild<'a>(random: &mut Random, change: Change<'a>, bytes: &'a [u8]) -> Change<'a> {
    match random.below(8) {
        0 => Change { table: name(random), ..change },
        1 => Change { pk: if random.one_in(2) { KEYS[random.below(KEYS.len())] } else { bytes }, ..change },
        2 => Change { cid: name(random), ..change },
        3 => Change { col_version: number(random), ..change },
        4 => Change { db_version: number(random), ..change },
        5 => Change { cl: number(random), ..change },
        6 => Change { seq: number(random), ..change },
        _ => Change { val: value(random, bytes, "\0"), ..change },
    }
}

fn value<'a>(random: &mut Random, bytes: &'a [u8], text: &'a str) -> Value<'a> {
    match random.below(8) {
        0 => Value::Null,
        1 => Value::Integer(number(random)),
        2 => Value::Number(f64::from_bits(random.next())),
        3 => Value::Number(*random.pick(&[f64::NAN, f64::INFINITY, -f64::INFINITY, -0.0, 5e-324, 1e300, 9e15])),
        4 => Value::Boolean(random.one_in(2)),
        5 => Value::Blob(bytes),
        6 => Value::Text(name(random)),
        _ => Value::Text(text),
    }
}

fn name(random: &mut Random) -> &'static str {
    NAMES[random.below(NAMES.len())]
}

fn number(random: &mut Random) -> i64 {
    if random.one_in(4) { random.next().cast_signed() } else { *random.pick(&NUMBERS) }
}

fn position(random: &mut Random) -> Position {
    Position { db_version: number(random), seq: *random.pick(&[0, 0, 0, 1, -1, (1 << 53) - 1]) }
}

fn site(random: &mut Random) -> SiteId {
    SiteId::from_bytes(random.bytes(16).try_into().unwrap())
}

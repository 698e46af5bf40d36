//! What messages look like as JSON, and what is understood.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use tower_sqlite_sync_wire::{
    AnnouncePresence, Change, ChangeList, Changes, CreateDbOnPrimaryResponse, ErrResponse, JsonError, Message,
    Position, RejectChanges, SiteId, StartStreaming, Value,
};

const SITE: SiteId = SiteId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
const OTHER: SiteId = SiteId::from_bytes([0xee; 16]);

fn changes(changes: &[Change<'_>]) -> Message {
    let changes = changes.iter().copied().collect();
    Message::Changes(Changes { sender: SITE, since: Position::START, changes })
}

fn cell(val: Value<'_>) -> Change<'_> {
    Change { table: "foo", pk: &[1, 9, 1], cid: "b", val, col_version: 1, db_version: 2, site: None, cl: 1, seq: 0 }
}

fn with_changes(list: &str) -> Result<Message, JsonError> {
    Message::from_json(&format!(
        r#"{{"type":"changes","sender":"000102030405060708090a0b0c0d0e0f","since":[0,0],"changes":[{list}]}}"#
    ))
}

fn with_value(value: &str) -> Result<Message, JsonError> {
    with_changes(&format!(r#"{{"table":"foo","pk":"010901","cid":"b","val":{value},"colVersion":1,"dbVersion":2}}"#))
}

#[track_caller]
fn refused(text: &str, error: &str) {
    assert_eq!(Message::from_json(text).unwrap_err().to_string(), error);
}

#[test]
fn the_messages_of_a_session_look_like_this() {
    let table = [
        (
            Message::AnnouncePresence(AnnouncePresence {
                sender: SITE,
                last_seens: vec![(OTHER, Position::at(12))],
                schema_name: "main.sql".to_owned(),
                schema_version: -5,
            }),
            r#"{"type":"announcePresence","sender":"000102030405060708090a0b0c0d0e0f","lastSeens":[["eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",[12,0]]],"schemaName":"main.sql","schemaVersion":"-5"}"#,
        ),
        (
            changes(&[cell(Value::Integer(5))]),
            r#"{"type":"changes","sender":"000102030405060708090a0b0c0d0e0f","since":[0,0],"changes":[{"table":"foo","pk":"010901","cid":"b","val":5,"colVersion":1,"dbVersion":2,"cl":1,"seq":0}]}"#,
        ),
        (
            Message::RejectChanges(RejectChanges { whose: SITE, since: Position::at(7) }),
            r#"{"type":"rejectChanges","whose":"000102030405060708090a0b0c0d0e0f","since":[7,0]}"#,
        ),
        (
            Message::StartStreaming(StartStreaming {
                since: Position::MUTE,
                exclude_sites: vec![OTHER],
                local_only: false,
            }),
            r#"{"type":"startStreaming","since":["9223372036854775807",0],"excludeSites":["eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"],"localOnly":false}"#,
        ),
        (Message::Ping, r#"{"type":"ping"}"#),
        (Message::Pong, r#"{"type":"pong"}"#),
        (
            Message::Err(ErrResponse { request_id: -1, message: "no".to_owned() }),
            r#"{"type":"err","requestId":-1,"message":"no"}"#,
        ),
        (
            Message::CreateDbOnPrimaryResponse(CreateDbOnPrimaryResponse { request_id: 1, txid: 258 }),
            r#"{"type":"createDbOnPrimaryResponse","requestId":1,"txid":"258"}"#,
        ),
    ];
    for (message, text) in table {
        assert_eq!(message.to_json(), text);
        assert_eq!(Message::from_json(text).unwrap(), message);
    }
}

#[test]
fn the_examples_of_the_documentation_are_understood() {
    let docs = include_str!("../src/json.rs").lines().filter_map(|line| line.strip_prefix("//!"));
    let docs = docs.collect::<Vec<_>>().join("\n");
    let examples: Vec<_> = docs.split("```json").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 4);
    for example in examples {
        let message = Message::from_json(example).unwrap();
        assert_eq!(Message::from_json(&message.to_json()), Ok(message));
    }
}

#[test]
fn every_value_has_a_form_of_its_own() {
    let table = [
        (Value::Null, "null"),
        (Value::Integer(5), "5"),
        (Value::Integer(-9_007_199_254_740_991), "-9007199254740991"),
        (Value::Integer(9_007_199_254_740_992), r#"{"$integer":"9007199254740992"}"#),
        (Value::Integer(i64::MIN), r#"{"$integer":"-9223372036854775808"}"#),
        (Value::Number(5.0), "5.0"),
        (Value::Number(1.5), "1.5"),
        (Value::Number(-0.0), "-0.0"),
        (Value::Number(5e-324), "5e-324"),
        (Value::Number(f64::INFINITY), r#"{"$real":"Infinity"}"#),
        (Value::Number(f64::NEG_INFINITY), r#"{"$real":"-Infinity"}"#),
        (Value::Number(f64::from_bits(0x7ff8_0000_0000_0000)), r#"{"$real":"NaN"}"#),
        (Value::Number(f64::from_bits(0xfff8_0000_0000_0001)), r#"{"$real":"fff8000000000001"}"#),
        (Value::Text("h\u{e9} \"😀\"\n"), r#""hé \"😀\"\n""#),
        (Value::Text("5"), r#""5""#),
        (Value::Boolean(true), "true"),
        (Value::Boolean(false), "false"),
        (Value::Blob(&[0, 0xff]), r#"{"$blob":"00ff"}"#),
        (Value::Blob(&[]), r#"{"$blob":""}"#),
    ];
    for (value, text) in table {
        let message = changes(&[cell(value)]);
        assert!(message.to_json().contains(&format!(r#""val":{text},"#)), "{}", message.to_json());
        assert_eq!(with_value(text).unwrap(), message, "{text}");
    }
}

#[test]
fn large_numbers_are_not_mistaken_for_integers() {
    for number in [1e16, 9_007_199_254_740_993.0, 1e300, -1e19, f64::MAX, f64::MIN_POSITIVE] {
        let message = changes(&[cell(Value::Number(number))]);
        assert_eq!(Message::from_json(&message.to_json()).unwrap(), message);
    }
}

#[test]
fn values_can_be_written_in_more_than_one_way() {
    let table = [
        (r#"{"$integer": 5}"#, Value::Integer(5)),
        (r#"{"$integer": "5"}"#, Value::Integer(5)),
        ("9223372036854775807", Value::Integer(i64::MAX)),
        (r#"{"$real": 5}"#, Value::Number(5.0)),
        (r#"{"$real": -5}"#, Value::Number(-5.0)),
        (r#"{"$real": 5.5}"#, Value::Number(5.5)),
        (r#"{"$real": 9007199254740991}"#, Value::Number(9_007_199_254_740_991.0)),
        (r#"{"$real": 9007199254740993}"#, Value::Number(9_007_199_254_740_992.0)),
        ("9223372036854775808", Value::Number(9_223_372_036_854_775_808.0)),
        ("99999999999999999999", Value::Number(1e20)),
        ("5e0", Value::Number(5.0)),
        ("-0", Value::Number(-0.0)),
        (r#"{"$blob": "FFfe"}"#, Value::Blob(&[0xff, 0xfe])),
        (r#""\u0041\ud83d\ude00""#, Value::Text("A😀")),
    ];
    for (text, value) in table {
        assert_eq!(with_value(text).unwrap(), changes(&[cell(value)]), "{text}");
    }
}

#[test]
fn a_field_with_a_default_can_be_left_out() {
    let announce =
        r#"{"type":"announcePresence","sender":"000102030405060708090A0B0C0D0E0F","schemaName":"s","schemaVersion":7}"#;
    let Message::AnnouncePresence(announce) = Message::from_json(announce).unwrap() else { panic!() };
    assert_eq!((announce.sender, announce.last_seens, announce.schema_version), (SITE, vec![], 7));

    let start = r#"{"type":"startStreaming","since":[7,0]}"#;
    let Message::StartStreaming(start) = Message::from_json(start).unwrap() else { panic!() };
    assert_eq!((start.exclude_sites, start.local_only), (vec![], false));

    let change = r#"{"table":"foo","pk":"010901","cid":"b","val":5,"colVersion":1,"dbVersion":2}"#;
    assert_eq!(with_changes(change).unwrap(), changes(&[cell(Value::Integer(5))]));
}

#[test]
fn a_change_keeps_its_site_and_its_large_versions() {
    let change = Change {
        site: Some(OTHER),
        col_version: i64::MAX,
        db_version: 1 << 53,
        cl: i64::MIN,
        seq: (1 << 53) - 1,
        ..cell(Value::Null)
    };
    let message = changes(&[change]);
    assert!(message.to_json().contains(
        r#""colVersion":"9223372036854775807","dbVersion":"9007199254740992","site":"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee","cl":"-9223372036854775808","seq":9007199254740991"#
    ));
    assert_eq!(Message::from_json(&message.to_json()).unwrap(), message);
}

#[test]
fn fields_can_stand_in_any_order_and_over_several_lines() {
    let text = r#"
        { "changes": [],
          "since": [ "7", "0" ],
          "type": "changes",
          "sender": "000102030405060708090a0b0c0d0e0f" }
    "#;
    let expected = Changes { sender: SITE, since: Position::at(7), changes: ChangeList::default() };
    assert_eq!(Message::from_json(text).unwrap(), Message::Changes(expected));
}

#[test]
fn what_is_no_message_is_refused_with_its_place() {
    refused("", "line 1, column 0: EOF while parsing a value");
    refused("{", "line 1, column 1: EOF while parsing an object");
    refused("[]", "line 1, column 2: expected an object with a type");
    refused(r#"["ping"]"#, "line 1, column 0: expected a message");
    refused("7", "line 1, column 1: expected an object with a type");
    refused("{}", "line 1, column 2: missing field `type`");
    refused(r#"{"type":"ping"} {}"#, "line 1, column 17: trailing characters");
    refused(r#"{"type":"ping","type":"pong"}"#, "line 1, column 21: duplicate field `type`");
    refused(r#"{"type":"ping","more":1}"#, "line 1, column 21: expected no further field");
    refused(r#"{"type":7}"#, "line 1, column 9: expected a string");
    refused(r#"{"type":{"ping":null}}"#, "line 1, column 8: expected a string");
    refused(r#"{"type":null}"#, "line 1, column 12: expected a string");
    refused(
        "{\"type\":\"rejectChanges\",\n \"whose\":\"00\",\n \"since\":[0,0]}",
        "line 2, column 13: expected a site id of 32 hex digits",
    );
    refused(r#"{"type":"startStreaming","since":[1,2,3]}"#, "line 1, column 39: trailing characters");
    refused(r#"{"type":"startStreaming","since":[1]}"#, "line 1, column 36: expected a position: [db_version, seq]");
    refused(
        r#"{"type":"startStreaming","since":[0,9007199254740992]}"#,
        "line 1, column 53: expected an integer of at most 2^53 - 1",
    );
    refused(r#"{"type":"startStreaming","since":[0,0],"localOnly":1}"#, "line 1, column 52: expected a boolean");
}

#[test]
fn an_unknown_or_missing_or_repeated_field_of_a_change_is_refused() {
    let whole = r#""table":"foo","pk":"010901","cid":"b","val":5,"colVersion":1,"dbVersion":2"#;
    assert!(with_changes(&format!("{{{whole}}}")).is_ok());
    for field in whole.split(',') {
        let without = whole.replace(field, "").replace(",,", ",");
        let error = with_changes(&format!("{{{}}}", without.trim_matches(','))).unwrap_err();
        assert!(error.to_string().contains("missing field"), "{error}");
        let error = with_changes(&format!("{{{whole},{field}}}")).unwrap_err();
        assert!(error.to_string().contains("duplicate field"), "{error}");
    }
    let error = with_changes(&format!(r#"{{{whole},"colversion":1}}"#)).unwrap_err();
    assert!(error.to_string().contains("expected one of `table`, `pk`"), "{error}");
}

#[test]
fn a_change_is_an_object_and_not_an_array() {
    let error = with_changes(r#"["foo","010901","b",5,1,2]"#).unwrap_err();
    assert!(error.to_string().ends_with("expected a change"), "{error}");
}

#[test]
fn a_value_of_no_known_form_is_refused() {
    for value in [
        "[]",
        "{}",
        r#"{"$blob":"0"}"#,
        r#"{"$blob":"zz"}"#,
        r#"{"$blob":[0]}"#,
        r#"{"$text":"a"}"#,
        r#"{"$blob":"00","$integer":5}"#,
        r#"{"$integer":"5.0"}"#,
        r#"{"$integer":5.0}"#,
        r#"{"$integer":"9223372036854775808"}"#,
        r#"{"$real":"nan"}"#,
        r#"{"$real":true}"#,
        "1e999",
        "NaN",
        r#""\ud800""#,
    ] {
        let error = with_value(value).expect_err(value);
        assert_eq!(error.line(), 1, "{value}: {error}");
        assert!(error.column() > 130, "{value}: {error}");
    }
}

#[test]
fn an_error_does_not_repeat_what_was_written() {
    let change = |field: &str, value: &str| {
        let mut fields = [
            ("table", r#""t""#),
            ("pk", r#""00""#),
            ("cid", r#""c""#),
            ("val", "null"),
            ("colVersion", "1"),
            ("dbVersion", "1"),
        ];
        if let Some(known) = fields.iter_mut().find(|(name, _)| *name == field) {
            known.1 = value;
        }
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
        with_changes(&format!("{{{}}}", fields.join(",")))
    };
    for secret in [r#""secret""#, r#"["secret"]"#, r#"{"secret":1}"#, r#""secret, expected secret""#, "424242.5"] {
        for field in ["table", "pk", "val", "colVersion"] {
            if let Err(error) = change(field, secret) {
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains("secret") && !shown.contains("424242"), "{shown}");
            }
        }
    }
    for text in [
        r#"{"type":"secret"}"#,
        r#"{"type":"ping","secret":1}"#,
        r#"{"type":"err","requestId":1,"message":"","secret":1}"#,
        r#"{"type":"err","requestId":"secret","message":""}"#,
        r#""secret""#,
    ] {
        let error = Message::from_json(text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
    }
}

#[test]
fn deep_nesting_is_refused() {
    let error = with_value(&"[".repeat(1 << 20)).unwrap_err();
    assert_eq!(error.line(), 1);
    let error = Message::from_json(&format!(r#"{{"x":{}"#, "[".repeat(1 << 20))).unwrap_err();
    assert_eq!(error.line(), 1);
}

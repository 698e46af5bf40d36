//! Frames that are no messages: each is an error, at the byte where it goes wrong, and says nothing of the content.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use tower_sqlite_sync_wire::{ChangeList, DecodeError, DecodeErrorKind as Kind, Message, Position};

const SITE: &str = "000102030405060708090a0b0c0d0e0f";

fn bytes(hex: &str) -> Bytes {
    let hex = hex.replace(' ', "").replace('S', SITE);
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2).unwrap(), 16).unwrap()).collect()
}

fn decode(hex: &str) -> Result<Message, DecodeError> {
    Message::decode(bytes(hex))
}

#[track_caller]
fn refused(hex: &str, offset: usize, kind: Kind) {
    let error = decode(hex).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (kind, offset), "{error}");
}

/// A Changes message whose one change has the given value and what follows it. The value starts at byte [`VALUE`].
fn with_value(rest: &str) -> String {
    format!("02 S 0000000000000000 00 01 0174 03010901 0162 {rest}")
}

const VALUE: usize = 35;
const AFTER_VALUE: &str = "0000000000000001 0000000000000002 00 0000000000000001 00";

#[test]
fn an_empty_frame_has_no_tag() {
    refused("", 0, Kind::UnexpectedEnd { expected: "a message tag" });
}

#[test]
fn a_tag_that_no_message_has_is_refused() {
    refused("00", 0, Kind::UnknownTag(0));
    refused("0c 00", 0, Kind::UnknownTag(12));
    refused("7b 22", 0, Kind::UnknownTag(b'{'));
    refused("ff", 0, Kind::UnknownTag(255));
}

#[test]
fn bytes_behind_a_message_are_refused() {
    refused("07 00", 1, Kind::TrailingBytes(1));
    refused("03 S 0000000000000007 00 0102", 26, Kind::TrailingBytes(2));
}

#[test]
fn a_missing_last_byte_is_refused_though_the_reference_reads_zero() {
    refused("03 S 0000000000000007", 25, Kind::UnexpectedEnd { expected: "the seq of a position" });
    refused("04 0000000000000007 00 00", 11, Kind::UnexpectedEnd { expected: "the local-only flag" });
    let change = with_value(&format!("00 {}", AFTER_VALUE.trim_end_matches(" 00")));
    refused(&change, VALUE + 26, Kind::UnexpectedEnd { expected: "the seq of a change" });
}

#[test]
fn a_site_id_of_fewer_than_16_bytes_is_refused() {
    refused("03 000102", 1, Kind::UnexpectedEnd { expected: "the site id of whom is rejected" });
}

#[test]
fn a_flag_is_zero_or_one() {
    let expected = "the local-only flag";
    refused("04 0000000000000007 00 00 02", 11, Kind::NotABoolean { expected, found: 2 });
    let expected = "a boolean value";
    refused(&with_value(&format!("04 ff {AFTER_VALUE}")), VALUE + 1, Kind::NotABoolean { expected, found: 255 });
}

#[test]
fn a_value_of_an_unknown_type_is_refused() {
    refused(&with_value(&format!("06 {AFTER_VALUE}")), VALUE, Kind::UnknownValueType(6));
}

#[test]
fn a_site_marker_other_than_none_or_some_is_refused() {
    let change = with_value("00 0000000000000001 0000000000000002 01 S 0000000000000001 00");
    refused(&change, VALUE + 17, Kind::UnknownSiteMarker(1));
}

#[test]
fn text_that_is_not_utf8_is_refused_at_its_first_bad_byte() {
    let expected = "a text value";
    refused(&with_value(&format!("03 03 61ff61 {AFTER_VALUE}")), VALUE + 3, Kind::NotUtf8 { expected });
    // Surrogates have no place in UTF-8.
    refused(&with_value(&format!("03 03 eda080 {AFTER_VALUE}")), VALUE + 2, Kind::NotUtf8 { expected });
    refused("0a 00 01 ff", 3, Kind::NotUtf8 { expected: "the error message" });
}

#[test]
fn a_length_beyond_the_end_is_refused() {
    let expected = "a blob value";
    refused(&with_value(&format!("05 ffffffffffffff0f {AFTER_VALUE}")), VALUE + 9, Kind::UnexpectedEnd { expected });
    refused("0a 00 02 61", 3, Kind::UnexpectedEnd { expected: "the error message" });
}

#[test]
fn a_length_above_what_javascript_counts_is_refused() {
    let expected = "a blob value";
    for length in ["8080808080808010", "ffffffffffffffffff01", "ffffffffffffff1f", "80808080808080808000"] {
        refused(&with_value(&format!("05 {length} {AFTER_VALUE}")), VALUE + 1, Kind::IntegerTooLarge { expected });
    }
}

#[test]
fn a_length_written_longer_than_needed_is_refused() {
    let expected = "a blob value";
    refused(&with_value(&format!("05 8000 {AFTER_VALUE}")), VALUE + 1, Kind::IntegerTooLong { expected });
    refused(&with_value(&format!("05 818000 61 {AFTER_VALUE}")), VALUE + 1, Kind::IntegerTooLong { expected });
}

#[test]
fn a_count_that_the_rest_cannot_hold_is_refused_before_anything_is_read() {
    let most = (1 << 53) - 1;
    let huge = |expected| Kind::CountTooLarge { expected, count: most, possible: 0 };
    refused("01 S ffffffffffffff0f", 17, huge("the number of last seens"));
    refused("02 S 0000000000000000 00 ffffffffffffff0f", 26, huge("the number of changes"));
    refused("04 0000000000000000 00 ffffffffffffff0f", 10, huge("the number of excluded sites"));
    refused("06 00 S ffffffffffffff0f", 18, huge("the number of changes"));

    let change = with_value(&format!("00 {AFTER_VALUE}"));
    let two = change.replacen("00 01 0174", "00 02 0174", 1);
    let expected = "the number of changes";
    refused(&two, 26, Kind::CountTooLarge { expected, count: 2, possible: 1 });
}

#[test]
fn a_seq_of_minus_zero_is_read_as_zero_because_the_reference_can_write_it() {
    let minus = decode("03 S 0000000000000007 40").unwrap();
    assert_eq!(minus, decode("03 S 0000000000000007 00").unwrap());

    let zero = with_value(&format!("00 {AFTER_VALUE}"));
    let minus = format!("{}40", zero.trim_end_matches("00"));
    assert_eq!(decode(&minus), decode(&zero));
}

#[test]
fn encoded_changes_are_taken_over_only_if_they_are_as_many_as_said() {
    let change = bytes(&format!("0174 03010901 0162 00 {AFTER_VALUE}"));
    assert_eq!(ChangeList::from_encoded(1, change.clone()).unwrap().len(), 1);
    assert_eq!(ChangeList::from_encoded(0, Bytes::new()), Ok(ChangeList::default()));
    let few = ChangeList::from_encoded(0, change.clone()).unwrap_err();
    assert_eq!((few.kind(), few.offset()), (Kind::TrailingBytes(change.len()), 0));
    let many = ChangeList::from_encoded(2, change.clone()).unwrap_err();
    assert_eq!(many.offset(), change.len());
    assert!(ChangeList::from_encoded(usize::MAX, change).is_err());
}

#[test]
fn an_error_names_place_and_expectation_but_no_content() {
    let error = decode(&with_value(&format!("03 07 736563726574ff {AFTER_VALUE}"))).unwrap_err();
    assert_eq!(error.to_string(), "byte 43: a text value is not UTF-8");
    let error = decode("0c").unwrap_err();
    assert_eq!(error.to_string(), "byte 0: expected a message tag from 1 to 11, found 12");
}

#[test]
fn extreme_positions_are_kept() {
    for (hex, db_version, seq) in [
        ("8000000000000000 ffffffffffffff1f", i64::MIN, 1 - (1 << 53)),
        ("7fffffffffffffff bfffffffffffff1f", i64::MAX, (1 << 53) - 1),
    ] {
        let Ok(Message::RejectChanges(message)) = decode(&format!("03 S {hex}")) else {
            panic!("{hex} is a position");
        };
        assert_eq!(message.since, Position { db_version, seq });
    }
}

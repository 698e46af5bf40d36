//! Order keys: texts that sort by their bytes, with room for another one between any two.
//!
//! The digits are the 95 printable ASCII characters, from space (0) to `~` (94). A key is an integer part, whose first
//! character tells its length, and a fraction, which never ends in the digit 0. Keys that are appended one after another
//! count up the integer part, and so stay short.

use crate::{Error, Result};

const ZERO_DIGIT: u8 = b' ';
const LAST_DIGIT: u8 = b'~';
const BASE: u8 = LAST_DIGIT - ZERO_DIGIT + 1;

/// The key of the first row of a list.
const ZERO: &[u8] = b"a ";
/// The integer part before which there is none: no key on its own, since nothing could come before it.
const SMALLEST: &[u8] = b"A                          ";

/// A key between two others. `None` is an open end: a key before `b`, after `a`, or simply a first one.
///
/// # Errors
///
/// [`Error::OrderKey`] if one of the two isn't a key, or if `a` doesn't come before `b`.
pub fn key_between(a: Option<&str>, b: Option<&str>) -> Result<String> {
    let (a, b) = (a.map(Key::parse).transpose()?, b.map(Key::parse).transpose()?);
    let key = match (a, b) {
        (None, None) => ZERO.to_vec(),
        (None, Some(b)) => b.key_before()?,
        (Some(a), None) => a.key_after(),
        (Some(a), Some(b)) => a.key_before_other(&b)?,
    };
    // All are ASCII.
    Ok(key.into_iter().map(char::from).collect())
}

/// A valid key.
#[derive(Clone, Copy, Debug)]
struct Key<'a> {
    whole: &'a [u8],
    integer: &'a [u8],
    fraction: &'a [u8],
}

impl<'a> Key<'a> {
    fn parse(text: &'a str) -> Result<Key<'a>> {
        let invalid = |reason| Err(Error::OrderKey { reason });
        let whole = text.as_bytes();
        if !whole.iter().all(|byte| (ZERO_DIGIT..=LAST_DIGIT).contains(byte)) {
            return invalid("a key has a character that is no digit");
        }
        let length = match whole.first() {
            None => return invalid("a key is empty"),
            Some(head @ b'a'..=b'z') => usize::from(head - b'a') + 2,
            Some(head @ b'A'..=b'Z') => usize::from(b'Z' - head) + 2,
            Some(_) => return invalid("a key doesn't begin with a letter"),
        };
        let Some((integer, fraction)) = whole.split_at_checked(length) else {
            return invalid("a key is shorter than its first character says");
        };
        if fraction.last() == Some(&ZERO_DIGIT) {
            return invalid("a key's fraction ends in a space");
        }
        if whole == SMALLEST {
            return invalid("a key leaves no room before it");
        }
        Ok(Key { whole, integer, fraction })
    }

    fn key_before(&self) -> Result<Vec<u8>> {
        if self.integer == SMALLEST {
            return Ok(with_middle(self.integer, b"", Some(self.fraction)));
        }
        if !self.fraction.is_empty() {
            return Ok(self.integer.to_vec());
        }
        match previous_integer(self.integer) {
            // The reference returns it, and then refuses to go on from it.
            Some(previous) if previous == SMALLEST => Ok(with_middle(&previous, b"", None)),
            Some(previous) => Ok(previous),
            None => Err(Error::OrderKey { reason: "there is no key before the first" }),
        }
    }

    fn key_after(&self) -> Vec<u8> {
        next_integer(self.integer).unwrap_or_else(|| with_middle(self.integer, self.fraction, None))
    }

    fn key_before_other(&self, other: &Key<'_>) -> Result<Vec<u8>> {
        if self.whole >= other.whole {
            return Err(Error::OrderKey { reason: "the first key doesn't come before the second" });
        }
        if self.integer == other.integer {
            return Ok(with_middle(self.integer, self.fraction, Some(other.fraction)));
        }
        Ok(next_integer(self.integer)
            .filter(|next| next.as_slice() < other.whole)
            .unwrap_or_else(|| with_middle(self.integer, self.fraction, None)))
    }
}

/// An integer part, and a fraction in the middle between two. `None` is an open end.
fn with_middle(integer: &[u8], a: &[u8], b: Option<&[u8]>) -> Vec<u8> {
    let mut key = integer.to_vec();
    let (mut a, mut b) = (a, b);
    if let Some(above) = b {
        let digits_of_a = a.iter().chain(std::iter::repeat(&ZERO_DIGIT));
        let shared = above.iter().zip(digits_of_a).take_while(|(b, a)| b == a).count();
        let (prefix, rest) = above.split_at(shared);
        key.extend_from_slice(prefix);
        (a, b) = (a.get(shared..).unwrap_or_default(), Some(rest));
    }
    loop {
        let low = a.first().map_or(0, |digit| digit - ZERO_DIGIT);
        let high = b.and_then(<[u8]>::first).map_or(BASE, |digit| digit - ZERO_DIGIT);
        if high.saturating_sub(low) > 1 {
            key.push(ZERO_DIGIT + (low + high).div_ceil(2));
            return key;
        }
        // The two digits are neighbours. The upper one alone is less than the upper fraction if that has more to it.
        if let Some([digit, _, ..]) = b {
            key.push(*digit);
            return key;
        }
        key.push(ZERO_DIGIT + low);
        (a, b) = (a.get(1..).unwrap_or_default(), None);
    }
}

/// The integer part after this one, unless this is the last.
fn next_integer(integer: &[u8]) -> Option<Vec<u8>> {
    let mut next = integer.to_vec();
    let (head, digits) = next.split_first_mut()?;
    for digit in digits.iter_mut().rev() {
        if *digit < LAST_DIGIT {
            *digit += 1;
            return Some(next);
        }
        *digit = ZERO_DIGIT;
    }
    match *head {
        b'z' => return None,
        b'Z' => return Some(ZERO.to_vec()),
        _ => *head += 1,
    }
    match head.is_ascii_lowercase() {
        true => next.push(ZERO_DIGIT),
        false => next.truncate(next.len() - 1),
    }
    Some(next)
}

/// The integer part before this one, unless this is the first.
fn previous_integer(integer: &[u8]) -> Option<Vec<u8>> {
    let mut previous = integer.to_vec();
    let (head, digits) = previous.split_first_mut()?;
    for digit in digits.iter_mut().rev() {
        if *digit > ZERO_DIGIT {
            *digit -= 1;
            return Some(previous);
        }
        *digit = LAST_DIGIT;
    }
    match *head {
        b'A' => return None,
        b'a' => return Some(b"Z~".to_vec()),
        _ => *head -= 1,
    }
    match head.is_ascii_uppercase() {
        true => previous.push(LAST_DIGIT),
        false => previous.truncate(previous.len() - 1),
    }
    Some(previous)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_those_of_the_reference() {
        let z = "z".repeat(26);
        let (below_last, last) = (format!("{z}y"), format!("{z}z"));
        let (full, smallest) = (format!("z{}", "~".repeat(26)), format!("A{}", " ".repeat(26)));
        let (after_full, first, before_first) = (format!("{full}P"), format!("{smallest}!"), format!("{smallest} P"));
        for (a, b, between) in [
            (None, None, "a "),
            (None, Some("a "), "Z~"),
            (None, Some("Z~"), "Z}"),
            (Some("a "), None, "a!"),
            (Some("a0"), Some("a1"), "a0P"),
            (Some("a0V"), Some("a1"), "a0k"),
            (Some("Z~"), Some("a "), "Z~P"),
            (Some("Z~"), Some("a!"), "a "),
            (None, Some("Y  "), "X~~~"),
            (Some("b~~"), None, "c   "),
            (Some("a0"), Some("a0V"), "a0;"),
            (Some("a0"), Some("a0G"), "a04"),
            (Some("b125"), Some("b129"), "b127"),
            (Some("a0"), Some("a1V"), "a1"),
            (Some("Z~"), Some("a 1"), "a "),
            (None, Some("a0V"), "a0"),
            (None, Some("b999"), "b99"),
            (Some(&*below_last), None, &*last),
            (Some(&*full), None, &*after_full),
            (None, Some(&*first), &*before_first),
        ] {
            assert_eq!(key_between(a, b).unwrap(), between, "{a:?} {b:?}");
        }
    }

    #[test]
    fn what_is_no_key_or_in_the_wrong_order_is_an_error() {
        let smallest = format!("A{}", " ".repeat(26));
        for (a, b) in [
            (None, Some("")),
            (Some(""), None),
            (Some(""), Some("")),
            (Some("a0"), Some("a0")),
            (Some("a1"), Some("a0")),
            (Some("5"), None),
            (Some("-1"), None),
            (Some("b0"), None),
            (Some("a0 "), None),
            (Some("a\u{7f}"), None),
            (Some("aé"), None),
            (Some("a\n"), None),
            (None, Some(smallest.as_str())),
        ] {
            assert!(matches!(key_between(a, b), Err(Error::OrderKey { .. })), "{a:?} {b:?}");
        }
    }

    #[test]
    fn the_ends_of_the_integers_are_followed_by_fractions() {
        let mut key = format!("z{}{}", "~".repeat(25), "}");
        for _ in 0..300 {
            let next = key_between(Some(&key), None).unwrap();
            assert!(next > key);
            key = next;
        }
        let mut key = format!("A{}{}", " ".repeat(25), "\"");
        for _ in 0..300 {
            let next = key_between(None, Some(&key)).unwrap();
            assert!(next < key);
            key = next;
        }
    }

    #[test]
    fn a_key_as_long_as_a_book_is_no_problem() {
        let long = format!("a0{}", "~".repeat(1_000_000));
        let after = key_between(Some(&long), Some("a1")).unwrap();
        assert!(long < after && after.as_str() < "a1");
        let before = key_between(Some("a0"), Some(&format!("a0{}!", " ".repeat(1_000_000)))).unwrap();
        assert!("a0" < before.as_str());
    }

    /// Where to insert next, among keys that are there: anywhere, or always at the same place.
    fn places() -> impl Strategy<Value = Vec<usize>> {
        prop_oneof![
            prop::collection::vec(any::<usize>(), 1..120),
            (0usize..3, 1usize..400).prop_map(|(place, count)| vec![place; count]),
            (1usize..400).prop_map(|count| (0..count).collect()),
        ]
    }

    /// Any key there can be, in all lengths of the integer part.
    fn any_key() -> impl Strategy<Value = String> {
        ("[a-zA-Z]", "[ -~]{27}", "([ -~]{0,6}[!-~])?").prop_map(|(head, digits, fraction)| {
            let length = match head.as_bytes()[0] {
                head @ b'a'..=b'z' => head - b'a' + 1,
                head => b'Z' - head + 1,
            };
            format!("{head}{}{fraction}", &digits[..usize::from(length)])
        })
    }

    proptest! {
        #[test]
        fn keys_inserted_anywhere_keep_their_order_and_never_collide(places in places()) {
            let mut keys: Vec<String> = Vec::new();
            for place in places {
                let at = place % (keys.len() + 1);
                let before = at.checked_sub(1).map(|at| keys[at].as_str());
                let key = key_between(before, keys.get(at).map(String::as_str)).unwrap();
                prop_assert!(Key::parse(&key).is_ok());
                keys.insert(at, key);
            }
            prop_assert!(keys.is_sorted_by(|a, b| a < b));
        }

        #[test]
        fn between_any_two_keys_there_is_one(a in any_key(), b in any_key()) {
            let (a, b) = if a < b { (a, b) } else { (b, a) };
            let open = (key_between(None, Some(&a)).unwrap(), key_between(Some(&b), None).unwrap());
            prop_assert!(open.0 < a && b < open.1);
            prop_assert!(Key::parse(&open.0).is_ok() && Key::parse(&open.1).is_ok());
            if a == b {
                prop_assert!(key_between(Some(&a), Some(&b)).is_err());
            } else {
                let key = key_between(Some(&a), Some(&b)).unwrap();
                prop_assert!(a < key && key < b);
                prop_assert!(Key::parse(&key).is_ok());
            }
        }

        #[test]
        fn arbitrary_texts_never_panic(a in any::<Option<String>>(), b in "[ -~]{0,6}") {
            let _ = key_between(a.as_deref(), Some(&b));
            let _ = key_between(Some(&b), a.as_deref());
        }
    }
}

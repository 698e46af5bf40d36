//! 64-bit integers, for `#[serde(with)]`: JSON numbers while JavaScript holds them exactly, decimal texts beyond.
//! Both are read.

use std::fmt;

use serde::{Deserializer, Serializer, de};

use crate::binary::MAX_VAR_INT;

pub(crate) fn serialize<S: Serializer>(value: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    if is_exact_in_javascript(*value) { serializer.serialize_i64(*value) } else { serializer.collect_str(value) }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(IntegerVisitor)
}

/// Whether JSON readers that know only doubles get this integer right.
pub(crate) fn is_exact_in_javascript(value: i64) -> bool {
    value.unsigned_abs() <= MAX_VAR_INT
}

/// Integers that are written as text whatever their size: hashes and ids, whose type would otherwise change from one
/// to the next.
pub(crate) mod text {
    use serde::Serializer;

    pub(crate) use super::deserialize;

    pub(crate) fn serialize<S: Serializer>(value: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }
}

/// Integers that are varInts in the binary codec, and bounded by it.
pub(crate) mod var_int {
    use serde::{Deserializer, Serializer, de::Error};

    use super::{MAX_VAR_INT, is_exact_in_javascript};

    pub(crate) fn serialize<S: Serializer>(value: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        let bound = MAX_VAR_INT.cast_signed();
        serializer.serialize_i64((*value).clamp(-bound, bound))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        let value = super::deserialize(deserializer)?;
        if is_exact_in_javascript(value) {
            Ok(value)
        } else {
            Err(D::Error::custom("expected an integer of at most 2^53 - 1"))
        }
    }
}

struct IntegerVisitor;

impl de::Visitor<'_> for IntegerVisitor {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a 64-bit integer, as a number or a decimal text")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<i64, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Other("text"), &self))
    }
}

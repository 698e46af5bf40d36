//! Cell values in JSON.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};

use super::{bytes, integer};
use crate::{
    Value,
    hex::{self, Hex},
};

const INTEGER: &str = "$integer";
const REAL: &str = "$real";
const BLOB: &str = "$blob";

const NAN: &str = "NaN";
const INFINITY: &str = "Infinity";
const NEGATIVE_INFINITY: &str = "-Infinity";

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Null => serializer.serialize_unit(),
            Self::Integer(value) if integer::is_exact_in_javascript(value) => serializer.serialize_i64(value),
            Self::Integer(value) => tagged(serializer, INTEGER, format_args!("{value}")),
            Self::Number(value) if value.is_finite() => serializer.serialize_f64(value),
            Self::Number(value) if value.is_infinite() => {
                let name = if value > 0.0 { INFINITY } else { NEGATIVE_INFINITY };
                tagged(serializer, REAL, format_args!("{name}"))
            }
            Self::Number(value) if value.to_bits() == f64::NAN.to_bits() => {
                tagged(serializer, REAL, format_args!("{NAN}"))
            }
            Self::Number(value) => {
                let bits = value.to_be_bytes();
                tagged(serializer, REAL, format_args!("{}", Hex(&bits)))
            }
            Self::Text(value) => serializer.serialize_str(value),
            Self::Boolean(value) => serializer.serialize_bool(value),
            Self::Blob(value) => tagged(serializer, BLOB, format_args!("{}", Hex(value))),
        }
    }
}

fn tagged<S: Serializer>(serializer: S, tag: &str, content: fmt::Arguments<'_>) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(tag, &content)?;
    map.end()
}

/// A value that has been read, with what it had to unescape or to decode.
pub(super) enum OwnedValue<'de> {
    Plain(Value<'static>),
    Text(Cow<'de, str>),
    Blob(Vec<u8>),
}

impl OwnedValue<'_> {
    pub(super) fn as_value(&self) -> Value<'_> {
        match self {
            Self::Plain(value) => *value,
            Self::Text(text) => Value::Text(text),
            Self::Blob(bytes) => Value::Blob(bytes),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for OwnedValue<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> de::Visitor<'de> for ValueVisitor {
    type Value = OwnedValue<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, a boolean, a number, a text, or an object of $integer, $real or $blob alone")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(OwnedValue::Plain(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(OwnedValue::Plain(Value::Boolean(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(OwnedValue::Plain(Value::Integer(value)))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        let value = i64::try_from(value).map_or_else(|_| Value::Number(nearest(value)), Value::Integer);
        Ok(OwnedValue::Plain(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(OwnedValue::Plain(Value::Number(value)))
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(OwnedValue::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(OwnedValue::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some(tag) = map.next_key()? else {
            return Err(de::Error::invalid_length(0, &self));
        };
        let value = match tag {
            Tag::Integer => OwnedValue::Plain(Value::Integer(map.next_value::<Integer>()?.0)),
            Tag::Real => OwnedValue::Plain(Value::Number(map.next_value::<Real>()?.0)),
            Tag::Blob => OwnedValue::Blob(map.next_value::<Blob>()?.0),
        };
        match map.next_key::<de::IgnoredAny>()? {
            None => Ok(value),
            Some(_) => Err(de::Error::invalid_length(2, &self)),
        }
    }
}

#[derive(Deserialize)]
#[serde(expecting = "$integer, $real or $blob")]
enum Tag {
    #[serde(rename = "$integer")]
    Integer,
    #[serde(rename = "$real")]
    Real,
    #[serde(rename = "$blob")]
    Blob,
}

#[derive(Deserialize)]
struct Integer(#[serde(with = "integer")] i64);

#[derive(Deserialize)]
struct Blob(#[serde(with = "bytes")] Vec<u8>);

struct Real(f64);

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RealVisitor).map(Self)
    }
}

struct RealVisitor;

impl de::Visitor<'_> for RealVisitor {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, \"NaN\", \"Infinity\", \"-Infinity\" or 16 hex digits")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<f64, E> {
        Ok(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<f64, E> {
        let magnitude = nearest(value.unsigned_abs());
        Ok(if value < 0 { -magnitude } else { magnitude })
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<f64, E> {
        Ok(nearest(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<f64, E> {
        match text {
            NAN => Ok(f64::NAN),
            INFINITY => Ok(f64::INFINITY),
            NEGATIVE_INFINITY => Ok(f64::NEG_INFINITY),
            bits => hex::decode_array(bits)
                .map(f64::from_be_bytes)
                .ok_or_else(|| E::invalid_value(de::Unexpected::Other("text"), &self)),
        }
    }
}

/// The number that an integer literal too large for an integer means: the nearest, as in SQL.
#[expect(clippy::cast_precision_loss, reason = "rounding is what is wanted")]
const fn nearest(value: u64) -> f64 {
    value as f64
}

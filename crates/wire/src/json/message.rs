//! A message in JSON: an object whose `type` says what the other fields are.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IntoDeserializer, MapAccess, value::MapAccessDeserializer},
};

use super::JsonError;
use crate::Message;

const TYPE: &str = "type";

impl Message {
    /// Reads the message that a text frame holds.
    ///
    /// # Errors
    ///
    /// When `text` is not JSON, or not a message as described in [`json`](crate::json), with line and column of the
    /// fault.
    pub fn from_json(text: &str) -> Result<Self, JsonError> {
        // The type may come last. Looking for it first costs a scan, but nothing is kept from it: serde's own way
        // would hold all the fields before it in a tree.
        let Head { kind } = serde_json::from_str(text)?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let message = deserializer.deserialize_map(kind)?;
        deserializer.end()?;
        Ok(message)
    }

    /// Writes the message as a text frame, on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        #[expect(clippy::expect_used, reason = "writing into memory does not fail, and every key of ours is a string")]
        serde_json::to_string(self).expect("a message is always JSON")
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object with a type")]
struct Head {
    #[serde(rename = "type", deserialize_with = "kind")]
    kind: Kind,
}

/// Reads a text, and only that: serde_json would read `{"ping": null}` for the name of a variant as well.
fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
    let name = Cow::<'de, str>::deserialize(deserializer)?;
    Kind::deserialize(name.into_deserializer())
}

/// What a message is. Once that is known, it visits the message itself.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    AnnouncePresence,
    Changes,
    RejectChanges,
    StartStreaming,
    CreateDbOnPrimary,
    ApplyChangesOnPrimary,
    Ping,
    Pong,
    CreateDbOnPrimaryResponse,
    Err,
    ApplyChangesOnPrimaryResponse,
}

impl<'de> de::Visitor<'de> for Kind {
    type Value = Message;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Message, A::Error> {
        let body = MapAccessDeserializer::new(WithoutType(map));
        Ok(match self {
            Self::AnnouncePresence => Message::AnnouncePresence(Deserialize::deserialize(body)?),
            Self::Changes => Message::Changes(Deserialize::deserialize(body)?),
            Self::RejectChanges => Message::RejectChanges(Deserialize::deserialize(body)?),
            Self::StartStreaming => Message::StartStreaming(Deserialize::deserialize(body)?),
            Self::CreateDbOnPrimary => Message::CreateDbOnPrimary(Deserialize::deserialize(body)?),
            Self::ApplyChangesOnPrimary => Message::ApplyChangesOnPrimary(Deserialize::deserialize(body)?),
            Self::Ping => Nothing::deserialize(body).map(|Nothing {}| Message::Ping)?,
            Self::Pong => Nothing::deserialize(body).map(|Nothing {}| Message::Pong)?,
            Self::CreateDbOnPrimaryResponse => Message::CreateDbOnPrimaryResponse(Deserialize::deserialize(body)?),
            Self::Err => Message::Err(Deserialize::deserialize(body)?),
            Self::ApplyChangesOnPrimaryResponse => {
                Message::ApplyChangesOnPrimaryResponse(Deserialize::deserialize(body)?)
            }
        })
    }
}

/// A message without a body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The fields of a message that are not its type.
struct WithoutType<A>(A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutType<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.0.next_key::<Cow<'de, str>>()? {
            if key != TYPE {
                return seed.deserialize(key.into_deserializer()).map(Some);
            }
            self.0.next_value::<de::IgnoredAny>()?;
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(seed)
    }
}

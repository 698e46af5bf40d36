//! The name of a site.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::hex::{self, Hex};

/// The 16 bytes that name a site: one replica of a database, the server's copy of a room included.
///
/// As text, and in JSON, it is 32 hex digits: written in lower case, read in either.
///
/// ```
/// use tower_sqlite_sync_wire::SiteId;
///
/// let site: SiteId = "000102030405060708090A0B0C0D0E0F".parse()?;
/// assert_eq!(site.as_bytes()[15], 15);
/// assert_eq!(site.to_string(), "000102030405060708090a0b0c0d0e0f");
/// # Ok::<(), tower_sqlite_sync_wire::ParseSiteIdError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId([u8; 16]);

impl SiteId {
    /// The site with this id. Any 16 bytes are one.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id as it stands on the wire and in database files.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for SiteId {
    fn from(bytes: [u8; 16]) -> Self {
        Self::from_bytes(bytes)
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SiteId {
    type Err = ParseSiteIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex::decode_array(text).map(Self).ok_or(ParseSiteIdError)
    }
}

impl Serialize for SiteId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SiteId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SiteIdVisitor)
    }
}

/// A text is not a site id: not exactly 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a site id is 32 hex digits")]
pub struct ParseSiteIdError;

struct SiteIdVisitor;

impl de::Visitor<'_> for SiteIdVisitor {
    type Value = SiteId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a site id of 32 hex digits")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SiteId, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_id_reads_the_text_it_writes() {
        let site = SiteId::from_bytes(*b"\x00\x01\x02\xffABCDEFGHIJKL");
        assert_eq!(site.to_string(), "000102ff4142434445464748494a4b4c");
        assert_eq!(format!("{site:?}"), site.to_string());
        assert_eq!(site.to_string().parse(), Ok(site));
    }

    #[test]
    fn a_site_id_of_another_length_is_refused() {
        for text in ["", "00", &"0".repeat(31), &"0".repeat(33), &"0".repeat(34)] {
            assert_eq!(text.parse::<SiteId>(), Err(ParseSiteIdError));
        }
        assert_eq!("é".repeat(16).parse::<SiteId>(), Err(ParseSiteIdError));
    }
}

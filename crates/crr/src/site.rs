//! Who wrote a change, and how far a peer has seen.

use std::fmt;

/// The 16-byte id of a site: one replica of a database. Printed as 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId([u8; 16]);

impl SiteId {
    /// The site with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> SiteId {
        SiteId(bytes)
    }

    /// The id of a new site, out of random bytes, in the layout of a version 4 UUID (RFC 9562 §5.4).
    pub const fn from_random_bytes(mut bytes: [u8; 16]) -> SiteId {
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
        *version = *version & 0x0f | 0x40;
        *variant = *variant & 0x3f | 0x80;
        SiteId(bytes)
    }

    /// The bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The id in a blob; `None` if the blob isn't 16 bytes long.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<SiteId> {
        bytes.try_into().ok().map(SiteId)
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A place in the stream of a site's changes, ordered by version first. The default, `(0, 0)`, is the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The site's `db_version`.
    pub db_version: i64,
    /// The `seq` inside that version.
    pub seq: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_id_prints_as_hex() {
        let id = SiteId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 254, 255]);
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0dfeff");
        assert_eq!(format!("{id:?}"), id.to_string());
    }

    #[test]
    fn a_random_site_is_a_version_4_uuid() {
        let uuid = |byte| SiteId::from_random_bytes([byte; 16]).to_string();
        assert_eq!(uuid(0x00), "00000000000040008000000000000000");
        assert_eq!(uuid(0xff), "ffffffffffff4fffbfffffffffffffff");
    }

    #[test]
    fn positions_are_ordered_by_version_then_seq() {
        let at = |db_version, seq| Position { db_version, seq };
        assert!(at(1, 9) < at(2, 0));
        assert!(at(2, 0) < at(2, 1));
        assert_eq!(Position::default(), at(0, 0));
    }
}

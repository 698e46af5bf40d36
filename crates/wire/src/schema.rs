//! The version of a schema text.

/// The version of a schema: the 64-bit hash "cryb64" of its text, seed 0, as `@vlcn.io/ws-common` 0.2 computes it.
///
/// It names a text; it does not grow. The hash runs over UTF-16 code units, so that it equals the one that JavaScript
/// computes. Every character counts: CRLF and LF line ends give different versions, and so does a byte-order mark. To
/// match a file that the reference server reads, decode it with [`String::from_utf8_lossy`] and keep the byte-order
/// mark.
///
/// ```
/// use tower_sqlite_sync_wire::schema_version;
///
/// assert_eq!(schema_version("CREATE TABLE foo (a);"), -6684781798511370605);
/// ```
#[must_use]
pub fn schema_version(text: &str) -> i64 {
    let mut h1: u32 = 0xDEAD_BEEF;
    let mut h2: u32 = 0x41C6_CE57;
    for unit in text.encode_utf16().map(u32::from) {
        h1 = (h1 ^ unit).wrapping_mul(2_654_435_761);
        h2 = (h2 ^ unit).wrapping_mul(1_597_334_677);
    }
    // The halves are mixed in turn, the second with the new first: their order is part of the format.
    h1 = (h1 ^ (h1 >> 16)).wrapping_mul(2_246_822_507);
    h1 ^= (h2 ^ (h2 >> 13)).wrapping_mul(3_266_489_909);
    h2 = (h2 ^ (h2 >> 16)).wrapping_mul(2_246_822_507);
    h2 ^= (h1 ^ (h1 >> 13)).wrapping_mul(3_266_489_909);

    // JavaScript adds two signed halves instead of joining them: a negative low half borrows from the high one.
    let high = i64::from(h2.cast_signed()) << 32;
    high.wrapping_add(i64::from(h1.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_reference_s_hash_of_the_text() {
        let table = [
            ("", 5_227_514_475_777_527_171),
            ("a", 5_772_536_816_540_940_545),
            ("test", -3_251_892_364_775_988_791),
            ("CREATE TABLE foo (a);", -6_684_781_798_511_370_605),
            ("CREATE TABLE foo (a primary key, b);", -6_804_400_572_651_092_396),
            ("é", -2_738_472_778_642_938_155),
            ("😀", -8_083_739_215_034_469_202),
            ("\r\n", 2_755_564_562_859_402_900),
            ("\u{feff}a", 3_533_057_232_217_955_802),
            (
                "CREATE TABLE IF NOT EXISTS test (id PRIMARY KEY, name TEXT);\nSELECT crsql_as_crr('test');\n",
                -7_720_747_057_177_616_420,
            ),
        ];
        for (text, version) in table {
            assert_eq!(schema_version(text), version, "{text:?}");
        }
    }
}

//! The name of a room, checked once, where it enters the program.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Most characters in a safe name.
const MAX_CHARS: usize = 128;

/// Most bytes in a wide name: with `-journal` behind it, it still fits the 255 bytes that file systems allow.
const MAX_WIDE_BYTES: usize = 255 - "-journal".len();

/// What SQLite, LiteFS and the reference's file watcher append to a room's file name for files of their own. A room
/// `a-wal` would be the write-ahead log of room `a`.
const COMPANION_SUFFIXES: [&str; 5] = ["-wal", "-shm", "-pos", "-journal", ".touch"];

/// The wide name of a room that lives in memory.
const IN_MEMORY: &str = ":memory:";

/// The name of a room, and of its database file. What is in here is safe to join to the database folder.
///
/// A safe name ([`RoomName::parse`]) has 1 to 128 characters, all of them ASCII letters, digits, `_`, `-` or `.`,
/// does not start with `.`, and does not end in `-wal`, `-shm`, `-pos`, `-journal` or `.touch`.
///
/// Where file names differ in more than case (Linux, BSD), `Team` and `team` are two rooms. Where they don't (Windows,
/// Apple's systems), both would be one file, so names are brought to lower case: the registry, the auth hook and the
/// log then know one room by one name. On Windows the names it keeps for itself (`con`, `nul.db`, a dot at the end)
/// are refused as well.
///
/// ```
/// use tower_sqlite_sync::RoomName;
///
/// let room = RoomName::parse("team-7.notes")?;
/// assert_eq!(room.as_str(), "team-7.notes");
///
/// let error = RoomName::parse("../etc/passwd").unwrap_err();
/// assert_eq!(error.to_string(), "the room name starts with '.'");
/// # Ok::<(), tower_sqlite_sync::RoomNameError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomName(Arc<str>);

impl RoomName {
    /// Takes a safe name.
    ///
    /// # Errors
    ///
    /// [`RoomNameError`] says which rule the name breaks.
    pub fn parse(name: &str) -> Result<Self, RoomNameError> {
        Self::parse_on(Platform::HERE, name, Self::check_safe)
    }

    /// Takes any name that `@vlcn.io/ws-server` took, for folders that were made there: not empty, no `..`, `/`, `\`
    /// or NUL. Still refused, because they were never rooms that worked: a leading `.`, the suffixes of companion
    /// files, control characters (they forge log lines), and more than 247 bytes (no file name can be that long).
    ///
    /// `:memory:` is a room too; see [`RoomName::is_in_memory`].
    ///
    /// # Errors
    ///
    /// [`RoomNameError`] says which rule the name breaks.
    pub fn parse_wide(name: &str) -> Result<Self, RoomNameError> {
        if name == IN_MEMORY {
            return Ok(Self(Arc::from(name)));
        }
        Self::parse_on(Platform::HERE, name, Self::check_wide)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `:memory:`, the wide name of a room without a file.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.as_str() == IN_MEMORY
    }

    fn parse_on(
        platform: Platform,
        name: &str,
        check_characters: fn(&str) -> Result<(), RoomNameError>,
    ) -> Result<Self, RoomNameError> {
        // Folded first, so that `A-WAL` meets the rule for `-wal` where the two are one file.
        let name = if platform.case_blind { Cow::Owned(name.to_lowercase()) } else { Cow::Borrowed(name) };
        if name.is_empty() {
            return Err(RoomNameError::new("is empty"));
        }
        if name.starts_with('.') {
            return Err(RoomNameError::new("starts with '.'"));
        }
        check_characters(&name)?;
        if let Some(suffix) = COMPANION_SUFFIXES.iter().find(|suffix| name.ends_with(**suffix)) {
            return Err(RoomNameError::new(format!("ends in `{suffix}`, which names another room's companion file")));
        }
        if platform.windows {
            check_windows(&name)?;
        }
        Ok(Self(Arc::from(name)))
    }

    fn check_safe(name: &str) -> Result<(), RoomNameError> {
        if name.chars().nth(MAX_CHARS).is_some() {
            return Err(RoomNameError::new(format!("has more than {MAX_CHARS} characters")));
        }
        match name.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' | '.')) {
            Some(other) => {
                Err(RoomNameError::new(format!("contains {other:?}; use letters, digits, `_`, `-` and `.` only")))
            }
            None => Ok(()),
        }
    }

    fn check_wide(name: &str) -> Result<(), RoomNameError> {
        if name.len() > MAX_WIDE_BYTES {
            return Err(RoomNameError::new(format!("has more than {MAX_WIDE_BYTES} bytes")));
        }
        if name.contains("..") {
            return Err(RoomNameError::new("contains `..`"));
        }
        match name.chars().find(|c| matches!(c, '/' | '\\') || c.is_control()) {
            Some(other) => Err(RoomNameError::new(format!("contains {other:?}"))),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl AsRef<str> for RoomName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl std::str::FromStr for RoomName {
    type Err = RoomNameError;

    /// As [`RoomName::parse`].
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

/// Which rule a room name breaks. The text does not repeat the name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the room name {reason}")]
pub struct RoomNameError {
    reason: Cow<'static, str>,
}

impl RoomNameError {
    fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into() }
    }
}

/// How file names behave on the system that the program was built for.
#[derive(Clone, Copy)]
struct Platform {
    case_blind: bool,
    windows: bool,
}

impl Platform {
    const HERE: Self = Self { case_blind: cfg!(any(windows, target_vendor = "apple")), windows: cfg!(windows) };
}

/// The names that Windows gives to devices, whatever follows their first dot, and what it cuts off or refuses.
/// Source: "Naming Files, Paths, and Namespaces" in Microsoft's Win32 documentation.
fn check_windows(name: &str) -> Result<(), RoomNameError> {
    if name.ends_with(['.', ' ']) {
        return Err(RoomNameError::new("ends in a dot or a space, which Windows cuts off"));
    }
    if let Some(other) = name.chars().find(|c| matches!(c, '<' | '>' | ':' | '"' | '|' | '?' | '*')) {
        return Err(RoomNameError::new(format!("contains {other:?}, which Windows does not allow")));
    }
    let stem = name.split('.').next().unwrap_or(name).trim_end();
    let device = matches!(stem, "con" | "prn" | "aux" | "nul" | "conin$" | "conout$")
        || ["com", "lpt"].iter().any(|port| {
            stem.strip_prefix(port)
                .is_some_and(|number| matches!(number, "¹" | "²" | "³") || matches!(number.as_bytes(), [b'0'..=b'9']))
        });
    if device { Err(RoomNameError::new("is the name of a device on Windows")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINUX: Platform = Platform { case_blind: false, windows: false };
    const MACOS: Platform = Platform { case_blind: true, windows: false };
    const WINDOWS: Platform = Platform { case_blind: true, windows: true };

    fn safe(platform: Platform, name: &str) -> Result<RoomName, RoomNameError> {
        RoomName::parse_on(platform, name, RoomName::check_safe)
    }

    fn wide(platform: Platform, name: &str) -> Result<RoomName, RoomNameError> {
        RoomName::parse_on(platform, name, RoomName::check_wide)
    }

    #[test]
    fn a_safe_name_keeps_its_spelling() {
        let longest = "x".repeat(128);
        for name in ["a", "0", "_", "-", "my-room", "My.Room_2", "wal", "a-wal2", "a..b", "con", &longest] {
            assert_eq!(safe(LINUX, name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn each_broken_rule_has_its_reason() {
        let too_long = "x".repeat(129);
        for (name, reason) in [
            ("", "is empty"),
            (".primary", "starts with '.'"),
            ("..", "starts with '.'"),
            ("a/b", "contains '/'"),
            ("a\\b", "contains '\\\\'"),
            ("a b", "contains ' '"),
            ("a\0", "contains '\\0'"),
            ("é", "contains 'é'"),
            (":memory:", "contains ':'"),
            (&too_long, "more than 128 characters"),
            ("a-wal", "ends in `-wal`"),
            ("a-shm", "ends in `-shm`"),
            ("a-pos", "ends in `-pos`"),
            ("a-journal", "ends in `-journal`"),
            ("a.touch", "ends in `.touch`"),
        ] {
            let error = safe(LINUX, name).unwrap_err().to_string();
            assert!(error.contains(reason), "{name:?}: {error}");
        }
    }

    #[test]
    fn wide_names_are_what_the_reference_took_less_what_never_worked() {
        let longest = "é".repeat(123);
        for name in ["my room", "é", "a:b", ">>>", "a?", &longest] {
            assert_eq!(wide(LINUX, name).unwrap().as_str(), name);
        }
        let too_long = "é".repeat(124);
        for name in ["", "a..b", "a/b", "a\\b", "a\0b", "a\nb", "a\u{85}b", ".a", "a-wal", "a.touch", &too_long] {
            assert!(wide(LINUX, name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn only_the_wide_name_memory_is_a_room_in_memory() {
        assert!(RoomName::parse_wide(":memory:").unwrap().is_in_memory());
        assert!(!RoomName::parse("memory").unwrap().is_in_memory());
        assert!(RoomName::parse(":memory:").is_err());
    }

    #[test]
    fn names_that_are_one_file_are_one_room() {
        assert_ne!(safe(LINUX, "Team").unwrap(), safe(LINUX, "team").unwrap());
        assert_eq!(safe(MACOS, "Team").unwrap(), safe(MACOS, "team").unwrap());
        assert_eq!(wide(MACOS, "É").unwrap(), wide(MACOS, "é").unwrap());
        assert!(safe(LINUX, "a-WAL").is_ok());
        assert!(safe(MACOS, "a-WAL").is_err());
    }

    #[test]
    fn names_that_windows_keeps_for_itself_are_refused_there() {
        for name in ["CON", "nul.db", "Com1", "lpt9.x", "a."] {
            assert!(safe(WINDOWS, name).is_err(), "{name:?}");
            assert!(safe(LINUX, name).is_ok(), "{name:?}");
        }
        for name in ["com", "com10", "console", "nul-1"] {
            assert!(safe(WINDOWS, name).is_ok(), "{name:?}");
        }
        for name in ["a:stream", "a ", "a*", "aux .x"] {
            assert!(wide(WINDOWS, name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leaves_the_folder(name in "[a./\\\\:\u{0}\u{e9}-]{0,8}") {
            for name in [RoomName::parse(&name), RoomName::parse_wide(&name)].into_iter().flatten() {
                let path = std::path::Path::new("/folder").join(name.as_str());
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/folder")));
                prop_assert_eq!(path.file_name().and_then(|file| file.to_str()), Some(name.as_str()));
            }
        }
    }
}

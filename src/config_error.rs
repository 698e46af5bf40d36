//! What a setting may be, and what is said of one that is something else.
//!
//! Settings come from code, files and the environment, so they are checked together and once, before anything is made of them:
//! behind that, no sum of a time and a setting can overflow, and nothing waits for a place that doesn't exist.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest time that anything may take. Whoever means "never" gets along with a year, and the clocks with the sum.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The shortest time that is one: what is to happen within less can't.
pub(crate) const MOMENT: Duration = Duration::from_millis(1);

/// A time that may not be left out.
pub(crate) const TIMES: RangeInclusive<Duration> = MOMENT..=YEAR;

/// A time, or none at all.
pub(crate) const TIMES_OR_NONE: RangeInclusive<Duration> = Duration::ZERO..=YEAR;

/// How many there may be of something, or of its bytes.
pub(crate) const SOME: RangeInclusive<usize> = 1..=usize::MAX;

/// A setting, or two of them together, with which the layer can't work.
///
/// The text names the setting, what it was set to, and what it may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} can't be {value}: {advice}")]
pub struct ConfigError {
    setting: &'static str,
    value: String,
    advice: String,
}

impl ConfigError {
    /// The name of the setting, as files and the environment have it.
    #[must_use]
    pub fn setting(&self) -> &'static str {
        self.setting
    }

    pub(crate) fn new(setting: &'static str, value: impl Display, advice: impl Into<String>) -> Self {
        Self { setting, value: value.to_string(), advice: advice.into() }
    }
}

/// Checks a time.
pub(crate) fn time(
    setting: &'static str,
    value: Duration,
    allowed: RangeInclusive<Duration>,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (least, most) = (allowed.start().as_secs_f64(), allowed.end().as_secs_f64());
    let advice = format!("it is a number of seconds from {least} to {most}");
    Err(ConfigError::new(setting, value.as_secs_f64(), advice))
}

/// Checks a number of something that is called `unit`.
pub(crate) fn number(
    setting: &'static str,
    value: usize,
    unit: &str,
    allowed: RangeInclusive<usize>,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (least, most) = (allowed.start(), allowed.end());
    let advice = match *most {
        usize::MAX => format!("it is a number of {unit} from {least} up"),
        _ => format!("it is a number of {unit} from {least} to {most}"),
    };
    Err(ConfigError::new(setting, value, advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_setting_its_value_and_what_to_do() {
        let error = time("heartbeat", Duration::ZERO, TIMES).unwrap_err();
        assert_eq!(error.to_string(), "heartbeat can't be 0: it is a number of seconds from 0.001 to 31536000");
        assert_eq!(error.setting(), "heartbeat");
        let error = number("max_rooms", 0, "rooms", SOME).unwrap_err();
        assert_eq!(error.to_string(), "max_rooms can't be 0: it is a number of rooms from 1 up");
        let error = number("max_frame_bytes", 7, "bytes", 10..=20).unwrap_err();
        assert_eq!(error.to_string(), "max_frame_bytes can't be 7: it is a number of bytes from 10 to 20");
    }

    #[test]
    fn the_borders_are_allowed() {
        for value in [MOMENT, YEAR] {
            time("heartbeat", value, TIMES).unwrap();
        }
        for value in [Duration::ZERO, YEAR] {
            time("room_idle", value, TIMES_OR_NONE).unwrap();
        }
        for value in [1, usize::MAX] {
            number("max_rooms", value, "rooms", SOME).unwrap();
        }
    }
}

//! Making a failing scenario small.

use crate::play::{Difference, Stage};
use crate::scenario::Scenario;

/// How many shorter scenarios are tried at most.
const ATTEMPTS: usize = 3000;

/// Leaves out whatever can be left out while the scenario still fails in the same respect.
pub(crate) fn shrink(stage: &mut Stage, failing: Scenario, difference: Difference) -> (Scenario, Difference) {
    let (mut smallest, mut difference) = (failing, difference);
    let mut attempts = 0;
    // What comes after the difference can't matter.
    smallest.steps.truncate(difference.step + 1);
    'smaller: loop {
        for shorter in smallest.shorter() {
            attempts += 1;
            if attempts > ATTEMPTS {
                break 'smaller;
            }
            match stage.play(&shorter) {
                Err(other) if other.is_like(&difference) => {
                    (smallest, difference) = (shorter, other);
                    continue 'smaller;
                }
                _ => {}
            }
        }
        break;
    }
    (smallest, difference)
}

//! The example does what it says.
#![allow(clippy::unwrap_used)]

#[path = "../examples/two_files.rs"]
#[allow(dead_code, reason = "its main is for the command line")]
mod example;

#[test]
fn both_files_hold_the_edits_of_both() {
    let folder = tempfile::tempdir().unwrap();
    let [laptop, phone] = example::run(folder.path()).unwrap();
    assert_eq!(laptop, ["Buy oat milk (done)", "Go out"]);
    assert_eq!(phone, laptop);
}

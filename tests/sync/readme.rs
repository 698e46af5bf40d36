//! `tests/README.md` says which test holds what.

use std::path::Path;

#[test]
fn every_test_that_the_readme_names_is_there() {
    let text = include_str!("../README.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for (file, function) in text.split('`').filter_map(|code| code.split_once("::")) {
        let path = [root.join("tests").join(file), root.join(file)].into_iter().find(|path| path.exists());
        let source = std::fs::read_to_string(path.unwrap_or_else(|| panic!("there is no {file}"))).unwrap();
        assert!(source.contains(&format!("fn {function}(")), "{file} has no test {function}");
        named += 1;
    }
    assert!(named > 30, "{named}");
}

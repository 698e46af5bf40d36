//! Tells the linker to keep the library in memory once it is there.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // SQLite unloads an extension that fails to load. If it failed half way, as it may when memory is short, the connection
    // knows functions in it, and calls their destructors when it is closed.
    let elf = ["linux", "android", "freebsd", "netbsd", "openbsd", "dragonfly", "illumos"];
    if elf.contains(&std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default().as_str()) {
        println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
    }
}

//! A static program relocates itself at its start. In the usual form the list of what to relocate is 900 KiB, all of which is
//! read then and stays resident; packed (RELR, glibc 2.36) it is some dozen.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

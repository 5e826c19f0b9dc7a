//! Has the crate compiled for schedules.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(schedules)");
    println!("cargo::rustc-cfg=schedules");
    println!("cargo::rerun-if-changed=build.rs");
}

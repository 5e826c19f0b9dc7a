//! Mutations of command lines.

#[path = "../../../../tests/common/mod.rs"]
mod common;
#[path = "../../../../tests/mutated_input/mutations.rs"]
mod mutations;
mod targets;

use std::fs;
use std::process::Stdio;

/// Keeps the number of copies bounded that `backup` makes in the current folder.
fn remove_old_copies() {
    let made: Vec<_> = fs::read_dir(".").unwrap().map(|entry| entry.unwrap().path()).collect();
    if made.len() > 50 {
        made.iter().for_each(|file| fs::remove_file(file).unwrap());
    }
}

#[test]
fn every_command_line_ends_with_a_documented_code() {
    // A child process, whose output is discarded.
    let mut child = common::child("mutated_input", "arguments");
    let folder = common::Folder::new();
    child.current_dir(folder.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
    let ended = child.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn child_process() {
    if common::role().is_some() {
        mutations::drive("arguments", 2000, |bytes| {
            targets::arguments(bytes);
            remove_old_copies();
        });
    }
}

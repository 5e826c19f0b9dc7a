//! Mutations of a corpus, and random bytes, for every target.

mod mutations;
mod targets;

use std::fs;

use mutations::folder;
use targets::TARGETS;

fn drive(name: &str, cases: u32) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    mutations::drive(name, cases, target);
}

#[test]
fn a_cookie_header_finds_only_the_session_of_its_id() {
    drive("cookie_header", 4000);
}

#[test]
fn a_sealed_cookie_opens_only_as_it_was_issued() {
    drive("sealed_cookie", 1000);
}

#[test]
fn other_headers_choose_no_session_and_break_no_response() {
    drive("request_head", 2000);
}

#[test]
fn any_text_is_a_record_or_undecodable() {
    drive("record", 4000);
}

#[test]
fn data_is_read_as_json_is() {
    drive("data", 4000);
}

#[test]
fn a_row_with_any_content_breaks_no_call() {
    drive("row", 1000);
}

#[test]
fn a_token_is_valid_only_if_it_unmasks_to_the_secret() {
    drive("csrf_token", 4000);
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let mut names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut folders: Vec<_> = fs::read_dir(folder(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    folders.sort();
    assert_eq!(names, folders);
}

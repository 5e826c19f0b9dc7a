//! Bytes from strangers: mutations of a corpus and bytes of no kind at all, for every target.
//!
//! `CLOAKROOM_FUZZ=n` runs n inputs for each, in place of a bounded share.

mod common;
#[path = "hostile/targets.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use targets::TARGETS;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/corpus").join(target)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One step away from a seed.
#[derive(Clone, Debug)]
enum Step {
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, u8),
    /// The rest is another seed's.
    Splice(Index, Index, Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // What means something to one parser or another.
    let telling = prop::sample::select(&b"\0\t\n\r \"\\,-./0129:;=ANZ_az{}[]\x7f\x80\xc3\xff"[..]);
    let byte = prop_oneof![telling, any::<u8>()];
    let step = prop_oneof![
        4 => (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Step::Replace(at, byte)),
        2 => (any::<Index>(), prop::collection::vec(byte, 1..4))
            .prop_map(|(at, bytes)| Step::Insert(at, bytes)),
        2 => (any::<Index>(), 1_usize..16).prop_map(|(at, count)| Step::Remove(at, count)),
        1 => (any::<Index>(), 1_usize..32, 1_u8..8)
            .prop_map(|(at, count, times)| Step::Repeat(at, count, times)),
        1 => any::<(Index, Index, Index)>().prop_map(|(at, seed, from)| Step::Splice(at, seed, from)),
    ];
    prop::collection::vec(step, 0..6)
}

fn take(step: &Step, mut bytes: Vec<u8>, corpus: &[Vec<u8>]) -> Vec<u8> {
    match step {
        Step::Replace(at, byte) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Step::Replace(..) => {}
        Step::Insert(at, new) => {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, new.iter().copied());
        }
        Step::Remove(at, count) => {
            let at = at.index(bytes.len() + 1);
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Step::Repeat(at, count, times) => {
            let at = at.index(bytes.len() + 1);
            let part = bytes[at..(at + count).min(bytes.len())].repeat(usize::from(*times));
            bytes.splice(at..at, part);
        }
        Step::Splice(at, seed, from) => {
            bytes.truncate(at.index(bytes.len() + 1));
            let seed = &corpus[seed.index(corpus.len())];
            bytes.extend(&seed[from.index(seed.len() + 1)..]);
        }
    }
    bytes
}

fn inputs(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let mutated = (any::<Index>(), steps()).prop_map(move |(seed, steps)| {
        let seed = corpus[seed.index(corpus.len())].clone();
        steps.iter().fold(seed, |bytes, step| take(step, bytes, &corpus))
    });
    prop_oneof![9 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..256)]
}

fn drive(name: &str, shard: u32) {
    drive_and(name, shard, || ());
}

fn drive_and(name: &str, shard: u32, tidy: impl Fn()) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let corpus = corpus(name);
    corpus.iter().for_each(|seed| target(seed));
    let asked = std::env::var("CLOAKROOM_FUZZ").ok().map(|count| count.parse().unwrap());
    let cases = asked.unwrap_or(shard);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&inputs(corpus), |bytes| {
        target(&bytes);
        tidy();
        Ok(())
    });
    run.unwrap();
    println!("{name}: {cases} inputs");
}

#[test]
fn a_cookie_header_finds_the_session_whose_id_is_in_it_and_no_other() {
    drive("cookie_header", 4000);
}

#[test]
fn a_sealed_cookie_opens_only_as_it_was_issued() {
    drive("sealed_cookie", 1000);
}

#[test]
fn other_headers_neither_choose_the_session_nor_break_the_answer() {
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
fn a_row_in_which_anything_stands_breaks_no_call() {
    drive("row", 1000);
}

#[test]
fn a_token_is_valid_only_if_it_unmasks_to_the_secret() {
    drive("csrf_token", 4000);
}

/// Of the copies that are made, a few stand in the way of the next.
fn leave_few_files_here() {
    let made: Vec<_> = fs::read_dir(".").unwrap().map(|entry| entry.unwrap().path()).collect();
    if made.len() > 50 {
        made.iter().for_each(|file| fs::remove_file(file).unwrap());
    }
}

#[test]
fn every_command_line_ends_with_a_documented_code() {
    // In a process of its own: what the commands print is nobody's concern.
    let mut child = common::child("arguments");
    let folder = common::Folder::new();
    child.current_dir(folder.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
    let ended = child.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn child_process() {
    if common::role().is_some() {
        drive_and("arguments", 2000, leave_few_files_here);
    }
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

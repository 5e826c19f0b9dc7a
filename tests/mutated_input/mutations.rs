//! Drives a function of bytes with mutations of its corpus, and with random bytes.
//!
//! `CLOAKROOM_FUZZ=n` runs n inputs for each target, in place of its own number.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// Returns the folder with the corpus of a target.
pub(crate) fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mutated_input/corpus").join(target)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One mutation of a seed.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, u8),
    /// Replaces the rest by the end of another seed.
    Splice(Index, Index, Index),
}

fn steps() -> impl Strategy<Value = Vec<Mutation>> {
    // Bytes with a meaning to one of the parsers.
    let special = prop::sample::select(&b"\0\t\n\r \"\\,-./0129:;=ANZ_az{}[]\x7f\x80\xc3\xff"[..]);
    let byte = prop_oneof![special, any::<u8>()];
    let step = prop_oneof![
        4 => (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        2 => (any::<Index>(), prop::collection::vec(byte, 1..4))
            .prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        2 => (any::<Index>(), 1_usize..16).prop_map(|(at, count)| Mutation::Remove(at, count)),
        1 => (any::<Index>(), 1_usize..32, 1_u8..8)
            .prop_map(|(at, count, times)| Mutation::Repeat(at, count, times)),
        1 => any::<(Index, Index, Index)>().prop_map(|(at, seed, from)| Mutation::Splice(at, seed, from)),
    ];
    prop::collection::vec(step, 0..6)
}

fn apply(step: &Mutation, mut bytes: Vec<u8>, corpus: &[Vec<u8>]) -> Vec<u8> {
    match step {
        Mutation::Replace(at, byte) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Mutation::Replace(..) => {}
        Mutation::Insert(at, new) => {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, new.iter().copied());
        }
        Mutation::Remove(at, count) => {
            let at = at.index(bytes.len() + 1);
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Mutation::Repeat(at, count, times) => {
            let at = at.index(bytes.len() + 1);
            let part = bytes[at..(at + count).min(bytes.len())].repeat(usize::from(*times));
            bytes.splice(at..at, part);
        }
        Mutation::Splice(at, seed, from) => {
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
        steps.iter().fold(seed, |bytes, step| apply(step, bytes, &corpus))
    });
    prop_oneof![9 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..256)]
}

/// Calls the target with its corpus, and with this number of mutated and random inputs.
pub(crate) fn drive(name: &str, cases: u32, target: impl Fn(&[u8])) {
    let corpus = corpus(name);
    corpus.iter().for_each(|seed| target(seed));
    let chosen = std::env::var("CLOAKROOM_FUZZ").ok().map(|count| count.parse().unwrap());
    let cases = chosen.unwrap_or(cases);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&inputs(corpus), |bytes| {
        target(&bytes);
        Ok(())
    });
    run.unwrap();
    println!("{name}: {cases} inputs");
}

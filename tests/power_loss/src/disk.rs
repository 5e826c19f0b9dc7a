//! The files as they are on the disk at some moment of a recording.
//!
//! Writes before a file's last sync are there. Each later one is there or not, on its own, in whole
//! or in sectors, or is replaced by garbage; so any of several writes to one place can be the one
//! that is found. A length can have grown before the bytes arrived. What became of a name since the
//! folder was last synced can be undone, from the end.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::recording::Event;

const SECTOR: usize = 512;

/// The content of files, by name.
pub type Files = HashMap<String, Vec<u8>>;

/// The loss of unsynced writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: the power did not fail.
    Nothing,
    /// All of it.
    Everything,
    /// So many writes of a hundred.
    Writes(usize),
    /// So many sectors of a hundred.
    Sectors(usize),
    /// So many sectors of a hundred hold garbage, and as many are lost.
    Garbage(usize),
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Arc<[u8]> },
    Truncate { length: usize },
}

#[derive(Clone, Debug, Default)]
struct File {
    synced: Vec<u8>,
    /// With the numbers of their events.
    since: Vec<(usize, Change)>,
}

/// The state of the disk after a part of a recording.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: HashMap<usize, File>,
    folder: HashMap<String, usize>,
    /// The changes of names since the folder was synced, with the numbers of their events.
    renamed: Vec<(usize, String, Option<usize>)>,
    at: usize,
    /// It says that it has synced, and has not.
    pub ignores_syncs: bool,
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => write(content, *offset, bytes),
            Change::Truncate { length } => content.truncate(*length),
        }
    }
}

impl Disk {
    /// The number of events that were played.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Plays the recording up to this event.
    pub fn play(&mut self, recording: &[Event], until: usize) {
        while self.at < until {
            self.happen(&recording[self.at]);
            self.at += 1;
        }
    }

    fn happen(&mut self, event: &Event) {
        let at = self.at;
        match event {
            Event::Create { name, file, content } => {
                self.files.insert(*file, File { synced: content.clone(), since: vec![] });
                match content.is_empty() {
                    true => self.renamed.push((at, name.clone(), Some(*file))),
                    // It existed before the recording.
                    false => drop(self.folder.insert(name.clone(), *file)),
                }
            }
            Event::Write { file, offset, bytes } => {
                let change = Change::Write { offset: *offset, bytes: bytes.clone() };
                self.file(*file).since.push((at, change));
            }
            Event::Truncate { file, length } => {
                self.file(*file).since.push((at, Change::Truncate { length: *length }));
            }
            Event::Sync { file, covers } if !self.ignores_syncs => {
                let file = self.file(*file);
                for (_, change) in file.since.extract_if(.., |(at, _)| *at < *covers) {
                    change.apply(&mut file.synced);
                }
            }
            Event::Delete { name } => self.renamed.push((at, name.clone(), None)),
            Event::SyncFolder { covers } if !self.ignores_syncs => {
                for (_, name, file) in self.renamed.extract_if(.., |(at, ..)| *at < *covers) {
                    rename(&mut self.folder, name, file);
                }
            }
            Event::Sync { .. } | Event::SyncFolder { .. } | Event::Mark(_) => {}
        }
    }

    fn file(&mut self, file: usize) -> &mut File {
        self.files.get_mut(&file).expect("a file that was created")
    }

    /// The files after a power cut at this moment. `roll` returns a number below its argument.
    pub fn files(&self, loss: Loss, roll: &mut impl FnMut(usize) -> usize) -> Files {
        let mut folder = self.folder.clone();
        let mut undone: Vec<&String> = vec![];
        for (_, name, file) in &self.renamed {
            let lost = match loss {
                Loss::Nothing => false,
                Loss::Everything => true,
                Loss::Writes(_) | Loss::Sectors(_) | Loss::Garbage(_) => roll(2) == 0,
            };
            // From the end: what follows something lost is lost.
            if undone.contains(&name) || lost {
                undone.push(name);
            } else {
                rename(&mut folder, name.clone(), *file);
            }
        }
        folder.into_iter().map(|(name, file)| (name, self.files[&file].found(loss, roll))).collect()
    }
}

fn rename(folder: &mut HashMap<String, usize>, name: String, file: Option<usize>) {
    match file {
        Some(file) => drop(folder.insert(name, file)),
        None => drop(folder.remove(&name)),
    }
}

impl File {
    fn found(&self, loss: Loss, roll: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
        let mut content = self.synced.clone();
        for (_, change) in &self.since {
            match (loss, change) {
                (Loss::Nothing, change) => change.apply(&mut content),
                (Loss::Everything, _) => {}
                (Loss::Writes(percent), change) => match roll(100) < percent {
                    true => grow(&mut content, change, roll),
                    false => change.apply(&mut content),
                },
                (Loss::Sectors(percent) | Loss::Garbage(percent), _) => {
                    let garbage = matches!(loss, Loss::Garbage(_));
                    for part in change.sectors() {
                        match roll(100) {
                            roll if roll >= percent => part.apply(&mut content),
                            other if garbage && other % 2 == 0 => {
                                part.garbage(roll).apply(&mut content);
                            }
                            _ => grow(&mut content, &part, roll),
                        }
                    }
                }
            }
        }
        content
    }
}

/// The length of a write that was lost, or not even that.
fn grow(content: &mut Vec<u8>, change: &Change, roll: &mut impl FnMut(usize) -> usize) {
    if let Change::Write { offset, bytes } = change
        && roll(2) == 0
    {
        content.resize(content.len().max(offset + bytes.len()), 0);
    }
}

impl Change {
    fn sectors(&self) -> Vec<Change> {
        let Change::Write { offset, bytes } = self else { return vec![self.clone()] };
        let mut parts = vec![];
        let mut from = 0;
        while from < bytes.len() {
            let to = (((offset + from) / SECTOR + 1) * SECTOR - offset).min(bytes.len());
            parts.push(Change::Write { offset: offset + from, bytes: bytes[from..to].into() });
            from = to;
        }
        parts
    }

    fn garbage(&self, roll: &mut impl FnMut(usize) -> usize) -> Change {
        match self {
            Change::Write { offset, bytes } => {
                let bytes = bytes.iter().map(|_| u8::try_from(roll(256)).unwrap()).collect();
                Change::Write { offset: *offset, bytes }
            }
            Change::Truncate { .. } => self.clone(),
        }
    }
}

/// Puts the files into an empty folder.
pub fn put(files: &Files, folder: &Path) {
    for (name, content) in files {
        fs::write(folder.join(name), content).expect("a file can be written");
    }
}

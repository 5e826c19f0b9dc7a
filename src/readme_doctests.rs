//! Compiles the code in README.md and in pages of docs, and runs it unless it is marked `no_run`.

#![doc = include_str!("../README.md")]
#![doc = include_str!("../docs/guide.md")]
#![doc = include_str!("../docs/moving.md")]
#![doc = include_str!("../docs/own-tables.md")]

//! Compiles the code of the pages about the command line.

#![doc = include_str!("../README.md")]
#![doc = include_str!("../../../docs/commands.md")]

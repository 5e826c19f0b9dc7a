//! Compiles the code of README.md, and runs it where it says so.

#![doc = include_str!("../README.md")]

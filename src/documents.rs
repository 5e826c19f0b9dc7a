//! The code in the README is compiled, and run where it says so.

#![doc = include_str!("../README.md")]

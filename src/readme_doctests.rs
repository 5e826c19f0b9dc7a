//! The code in the README and the other pages is compiled, and run where it says so.

#![doc = include_str!("../README.md")]
#![doc = include_str!("../docs/operating.md")]

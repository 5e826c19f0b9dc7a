//! The meta commands of memcached's text protocol, as far as the store needs them: `mg`, `ms` and
//! `md`; without any access to the network. The facts are from memcached's `doc/protocol.txt`.
//! Every command carries a token, which the server repeats in its reply. So a reply that is late,
//! doubled or meant for another client is never taken for another command's.

use std::fmt::{self, Display};

use crate::error::ErrorKind;
use crate::stores::memcached::client::{CommandFailure, CommandResult, unavailable};

/// The oldest version that repeats the token when there is no item.
const OLDEST: [u32; 3] = [1, 6, 18];

/// The maximum length of a reply's first line. The longest that memcached sends is an error text.
pub(super) const MAX_LINE: usize = 1024;

/// Commands that are sent together, as bytes. Their tokens follow each other.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) first_token: u64,
    pub(super) commands: u64,
    /// Whether commands of the batch change items.
    pub(super) writes: bool,
}

/// The condition of a write.
#[derive(Clone, Copy, Debug)]
pub(super) enum WriteCondition {
    Always,
    /// There is no item.
    Absent,
    /// The item has this version.
    Version(u64),
}

/// The reply to one command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MetaReply {
    /// The item that was read.
    Item(ItemReply),
    /// The command was carried out. A write has stored this version.
    Done { cas: Option<u64> },
    /// There is no item.
    Missing,
    /// The condition does not hold.
    ConditionFailed,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ItemReply {
    pub(super) value: Vec<u8>,
    pub(super) cas: u64,
    pub(super) lease: Option<LeaseReply>,
}

/// Whether a read that found no item has received the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseReply {
    Granted,
    /// Another client has the lease.
    Busy,
}

/// The first line of a reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReplyLine {
    /// A value of this length follows.
    Value {
        bytes: usize,
        cas: Option<u64>,
        lease: Option<LeaseReply>,
    },
    Complete(MetaReply),
}

impl Batch {
    pub(super) fn new(first_token: u64) -> Self {
        Batch { bytes: Vec::with_capacity(256), first_token, commands: 0, writes: false }
    }

    /// Reads an item. With `lease_seconds`, a miss makes an empty item that expires after them, and
    /// the first client to miss gets the lease on it.
    pub(super) fn get(&mut self, key: impl Display, lease_seconds: Option<u32>) {
        self.begin(format_args!("mg {key} v c"));
        if let Some(seconds) = lease_seconds {
            self.text(format_args!(" N{seconds}"));
        }
        self.text(format_args!("\r\n"));
    }

    /// Stores an item that expires after `seconds`; 0 if it never expires.
    pub(super) fn set(
        &mut self,
        key: impl Display,
        value: &[u8],
        seconds: u32,
        when: WriteCondition,
    ) {
        self.writes = true;
        self.begin(format_args!("ms {key} {} T{seconds} c", value.len()));
        self.when(when);
        self.bytes.extend_from_slice(value);
        self.text(format_args!("\r\n"));
    }

    /// Removes an item.
    pub(super) fn delete(&mut self, key: impl Display, when: WriteCondition) {
        self.writes = true;
        self.begin(format_args!("md {key}"));
        self.when(when);
    }

    fn begin(&mut self, command: fmt::Arguments<'_>) {
        let token = self.first_token.wrapping_add(self.commands);
        self.commands += 1;
        self.text(format_args!("{command} O{token:x}"));
    }

    fn when(&mut self, condition: WriteCondition) {
        match condition {
            WriteCondition::Always => self.text(format_args!("\r\n")),
            WriteCondition::Absent => self.text(format_args!(" ME\r\n")),
            WriteCondition::Version(cas) => self.text(format_args!(" C{cas}\r\n")),
        }
    }

    fn text(&mut self, text: fmt::Arguments<'_>) {
        // Writing to bytes in memory cannot fail.
        let _ = std::io::Write::write_fmt(&mut self.bytes, text);
    }
}

impl ReplyLine {
    /// Reads the first line of the reply to the command with this token.
    pub(super) fn parse(line: &[u8], token: u64) -> CommandResult<Self> {
        let make_error = || not_memcached(line);
        let text = std::str::from_utf8(line).map_err(|_| make_error())?;
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let code = words.next().ok_or_else(make_error)?;
        let bytes = match code {
            "VA" => words.next().and_then(|bytes| bytes.parse::<usize>().ok()),
            "HD" | "EN" | "NF" | "NS" | "EX" => None,
            _ => return Err(error_reply(text)),
        };
        let mut cas = None;
        let mut lease = None;
        let mut repeated = None;
        for word in words {
            match word.split_at_checked(1) {
                Some(("c", number)) => cas = number.parse::<u64>().ok(),
                Some(("O", token)) => repeated = Some(token),
                Some(("W", "")) => lease = Some(LeaseReply::Granted),
                Some(("Z", "")) if lease.is_none() => lease = Some(LeaseReply::Busy),
                _ => {}
            }
        }
        // Without the token: an item that was lost while it was read from the server's disk.
        let is_lost = code == "EN" && repeated.is_none();
        if !is_lost && repeated.and_then(|text| u64::from_str_radix(text, 16).ok()) != Some(token) {
            return Err(unavailable("the reply belongs to another command"));
        }
        match (code, bytes) {
            ("VA", Some(bytes)) => Ok(ReplyLine::Value { bytes, cas, lease }),
            ("VA", None) => Err(make_error()),
            ("HD", _) => Ok(ReplyLine::Complete(MetaReply::Done { cas })),
            ("EN" | "NF", _) => Ok(ReplyLine::Complete(MetaReply::Missing)),
            _ => Ok(ReplyLine::Complete(MetaReply::ConditionFailed)),
        }
    }
}

/// Returns the meaning of an error line.
fn error_reply(line: &str) -> CommandFailure {
    let unsupported = |why: String| CommandFailure::new(ErrorKind::Unsupported, why);
    let (word, why) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "SERVER_ERROR" => {
            let kind = match why {
                _ if why.contains("too large") => ErrorKind::TooLarge,
                _ if why.contains("out of memory") => ErrorKind::Full,
                _ => ErrorKind::Unavailable,
            };
            CommandFailure { batch_continues: true, ..CommandFailure::new(kind, line) }
        }
        "ERROR" if why.contains("open connections") => unavailable(line),
        "CLIENT_ERROR" if why == "unauthenticated" => {
            unsupported("the server demands authentication, by its option -Y".to_owned())
        }
        "ERROR" | "CLIENT_ERROR" => {
            unsupported(format!("the server does not know the command: {line}"))
        }
        _ => not_memcached(line.as_bytes()),
    }
}

fn not_memcached(line: &[u8]) -> CommandFailure {
    let start = line.get(..40).unwrap_or(line).escape_ascii();
    unavailable(format!("the server is not memcached: its reply begins with {start}"))
}

/// Checks the reply to `version`.
pub(super) fn check_version(line: &[u8]) -> CommandResult<()> {
    let text = std::str::from_utf8(line).map_err(|_| not_memcached(line))?;
    let Some(version) = text.strip_prefix("VERSION ") else { return Err(error_reply(text)) };
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(|number| number.ok());
    match [next(), next(), next()] {
        [Some(major), Some(minor), Some(patch)] if [major, minor, patch] >= OLDEST => Ok(()),
        _ => {
            let [major, minor, patch] = OLDEST;
            let why = format!(
                "memcached {major}.{minor}.{patch} or newer is needed, the server is {version}"
            );
            Err(CommandFailure::new(ErrorKind::Unsupported, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> CommandResult<ReplyLine> {
        ReplyLine::parse(line.as_bytes(), 0xab)
    }

    fn kind(line: &str) -> ErrorKind {
        parse(line).unwrap_err().kind
    }

    #[test]
    fn commands_are_encoded_as_the_protocol_says() {
        let mut batch = Batch::new(0xfe);
        batch.get("a", None);
        batch.get("b", Some(10));
        batch.set("c", b"xyz", 60, WriteCondition::Absent);
        batch.set("d", b"", 0, WriteCondition::Version(7));
        batch.delete("e", WriteCondition::Always);
        let text = String::from_utf8(batch.bytes).unwrap();
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        let expected = [
            "mg a v c Ofe",
            "mg b v c Off N10",
            "ms c 3 T60 c O100 ME",
            "xyz",
            "ms d 0 T0 c O101 C7",
            "",
            "md e O102",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn replies_are_read_as_the_protocol_says() {
        let value = |bytes, lease| ReplyLine::Value { bytes, cas: Some(5), lease };
        for (line, expected) in [
            ("VA 3 c5 Oab", value(3, None)),
            ("VA 0 W c5 Oab", value(0, Some(LeaseReply::Granted))),
            ("VA 0 c5 Oab Z", value(0, Some(LeaseReply::Busy))),
            ("VA 0 c5 Oab W Z", value(0, Some(LeaseReply::Granted))),
            ("HD c9 Oab", ReplyLine::Complete(MetaReply::Done { cas: Some(9) })),
            ("HD Oab", ReplyLine::Complete(MetaReply::Done { cas: None })),
            ("EN Oab", ReplyLine::Complete(MetaReply::Missing)),
            ("EN", ReplyLine::Complete(MetaReply::Missing)),
            ("NF Oab", ReplyLine::Complete(MetaReply::Missing)),
            ("NS Oab", ReplyLine::Complete(MetaReply::ConditionFailed)),
            ("EX Oab", ReplyLine::Complete(MetaReply::ConditionFailed)),
        ] {
            assert_eq!(parse(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn a_reply_to_another_command_is_refused() {
        for line in ["VA 3 c5 Oac", "VA 3 c5", "HD", "HD O1", "NF", "EN Oaa", "HD Oxyz", "VA 3 O"] {
            assert_eq!(kind(line), ErrorKind::Unavailable, "{line}");
        }
    }

    #[test]
    fn errors_have_their_kinds() {
        for (line, expected) in [
            ("SERVER_ERROR object too large for cache", ErrorKind::TooLarge),
            ("SERVER_ERROR out of memory storing object", ErrorKind::Full),
            ("SERVER_ERROR out of memory writing get response", ErrorKind::Full),
            ("SERVER_ERROR backend failure", ErrorKind::Unavailable),
            ("ERROR Too many open connections", ErrorKind::Unavailable),
            ("ERROR", ErrorKind::Unsupported),
            ("CLIENT_ERROR unauthenticated", ErrorKind::Unsupported),
            ("CLIENT_ERROR bad command line format", ErrorKind::Unsupported),
            ("-ERR unknown command 'mg'", ErrorKind::Unavailable),
            ("HTTP/1.1 400 Bad Request", ErrorKind::Unavailable),
            ("", ErrorKind::Unavailable),
            ("VA", ErrorKind::Unavailable),
            ("VA -1 c5 Oab", ErrorKind::Unavailable),
            ("VA 99999999999999999999 c5 Oab", ErrorKind::Unavailable),
        ] {
            assert_eq!(kind(line), expected, "{line}");
        }
    }

    #[test]
    fn versions_before_1_6_18_are_refused() {
        let check = |line: &str| check_version(line.as_bytes());
        for good in ["1.6.18", "1.6.45", "1.6.21_5_gabc", "1.7.0", "2.0.0", "1.6.18-beta1"] {
            check(&format!("VERSION {good}")).unwrap();
        }
        for (line, expected) in [
            ("VERSION 1.6.17", ErrorKind::Unsupported),
            ("VERSION 1.5.22", ErrorKind::Unsupported),
            ("VERSION 0.9.99", ErrorKind::Unsupported),
            ("VERSION twemproxy", ErrorKind::Unsupported),
            ("VERSION 1.6", ErrorKind::Unsupported),
            ("ERROR Too many open connections", ErrorKind::Unavailable),
            ("-ERR unknown command `version`", ErrorKind::Unavailable),
            ("CLIENT_ERROR unauthenticated", ErrorKind::Unsupported),
        ] {
            let CommandFailure { kind, why, .. } = check(line).unwrap_err();
            assert_eq!(kind, expected, "{line}: {why}");
        }
    }
}

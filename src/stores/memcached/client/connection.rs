//! One connection to a memcached server. Each exchange has one deadline, and all that is read is
//! bounded.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::error::ErrorKind;
use crate::stores::memcached::client::protocol::{
    Batch, ItemReply, MAX_LINE, MetaReply, ReplyLine, check_version,
};
use crate::stores::memcached::client::{
    CommandFailure, CommandResult, ConnectionSettings, TIMED_OUT, rest_until, unavailable,
};

/// A connection that was idle for longer is not used again: a firewall may have dropped it without
/// telling either side.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// The replies to a batch, in the order of its commands.
#[derive(Debug)]
pub(super) struct BatchReplies {
    pub(super) all: Vec<CommandResult<MetaReply>>,
    /// Whether the connection can be used again.
    pub(super) reusable: bool,
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
    timeout: Duration,
    /// The timeout that the socket has.
    socket_timeout: Duration,
    max_value: usize,
    last_used: Instant,
}

impl Connection {
    /// Connects, and checks the server's version, at most until `deadline`.
    pub(super) fn open(
        address: SocketAddr,
        settings: &ConnectionSettings,
        deadline: Instant,
    ) -> CommandResult<Self> {
        let timeout = rest_until(deadline, settings.connect_timeout)?;
        let stream = TcpStream::connect_timeout(&address, timeout);
        let stream = stream.map_err(|error| io_failure(&error))?;
        // With Nagle's algorithm a command can wait until the one before is acknowledged.
        stream.set_nodelay(true).map_err(|error| io_failure(&error))?;
        let mut connection = Connection {
            stream: BufReader::new(stream),
            timeout: settings.io_timeout,
            socket_timeout: Duration::ZERO,
            max_value: settings.item_limit,
            last_used: Instant::now(),
        };
        let deadline = deadline.min(Instant::now() + settings.io_timeout);
        connection.write(b"version\r\n", deadline)?;
        let line = connection.line(deadline)?;
        check_version(&line)?;
        Ok(connection)
    }

    /// Returns whether the server has kept this idle connection open and sent nothing on it.
    pub(super) fn is_reusable(&mut self) -> bool {
        if self.last_used.elapsed() > MAX_IDLE || !self.stream.buffer().is_empty() {
            return false;
        }
        let stream = self.stream.get_ref();
        // A read returns 0 at the end of the connection, and otherwise stray bytes.
        let quiet = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        stream.set_nonblocking(true).is_ok()
            && stream.peek(&mut [0]).is_err_and(quiet)
            && stream.set_nonblocking(false).is_ok()
    }

    /// Sends the commands of a batch and reads their replies, for as long as the I/O timeout, and
    /// at most until `deadline`. After a failure, the commands that have no reply yet fail too.
    pub(super) fn exchange(&mut self, batch: &Batch, deadline: Instant) -> BatchReplies {
        let deadline = deadline.min(Instant::now() + self.timeout);
        let mut failure = self.write(&batch.bytes, deadline).err();
        let mut replies = BatchReplies { all: Vec::new(), reusable: failure.is_none() };
        for number in 0..batch.commands {
            let mut reply = match &failure {
                Some(failure) => Err(failure.clone()),
                None => self.reply(batch.first_token.wrapping_add(number), deadline),
            };
            if let (Err(error), None) = (&mut reply, &failure) {
                replies.reusable = false;
                if !error.batch_continues {
                    if batch.writes && error.kind == ErrorKind::Unavailable {
                        error.why.insert_str(0, "whether it was done is not known: ");
                    }
                    failure = Some(error.clone());
                }
            }
            replies.all.push(reply);
        }
        self.last_used = Instant::now();
        replies
    }

    fn reply(&mut self, token: u64, deadline: Instant) -> CommandResult<MetaReply> {
        let line = self.line(deadline)?;
        match ReplyLine::parse(&line, token)? {
            ReplyLine::Complete(reply) => Ok(reply),
            ReplyLine::Value { bytes, .. } if bytes > self.max_value => {
                let why =
                    format!("the server sends {bytes} bytes, the limit is {}", self.max_value);
                Err(unavailable(why))
            }
            ReplyLine::Value { bytes, cas, lease } => {
                let mut value = vec![0; bytes + 2];
                self.read_exact(&mut value, deadline)?;
                if !value.ends_with(b"\r\n") {
                    return Err(unavailable("the server's value does not end where it said"));
                }
                value.truncate(bytes);
                Ok(MetaReply::Item(ItemReply { value, cas: cas.unwrap_or_default(), lease }))
            }
        }
    }

    /// Reads a line, without its end.
    fn line(&mut self, deadline: Instant) -> CommandResult<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            let buffer = self.fill(deadline)?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or(buffer);
            line.extend_from_slice(part);
            let used = part.len() + usize::from(end.is_some());
            self.stream.consume(used);
            if line.len() > MAX_LINE {
                return Err(unavailable("the server's reply has no end"));
            }
            if end.is_some() {
                line.pop_if(|last| *last == b'\r');
                return Ok(line);
            }
        }
    }

    fn read_exact(&mut self, mut target: &mut [u8], deadline: Instant) -> CommandResult<()> {
        while !target.is_empty() {
            self.fill(deadline)?;
            let read = self.stream.read(target).map_err(|error| io_failure(&error))?;
            target = target.get_mut(read..).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits until there are bytes in the buffer.
    fn fill(&mut self, deadline: Instant) -> CommandResult<&[u8]> {
        while self.stream.buffer().is_empty() {
            self.set_socket_timeout(deadline)?;
            match self.stream.fill_buf() {
                Ok([]) => {
                    return Err(unavailable("the server closed the connection"));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_failure(&error)),
            }
        }
        Ok(self.stream.buffer())
    }

    fn write(&mut self, mut bytes: &[u8], deadline: Instant) -> CommandResult<()> {
        while !bytes.is_empty() {
            self.set_socket_timeout(deadline)?;
            match self.stream.get_mut().write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_failure(&error)),
            }
        }
        Ok(())
    }

    /// Sets the socket's timeouts to the rest of the time, or at most an eighth longer: most
    /// exchanges thus make no system call for it.
    fn set_socket_timeout(&mut self, deadline: Instant) -> CommandResult<()> {
        let rest = rest_until(deadline, self.timeout)?;
        if self.socket_timeout < rest || self.socket_timeout - rest > self.timeout / 8 {
            let until = if rest > self.timeout / 8 * 7 { self.timeout } else { rest };
            let stream = self.stream.get_ref();
            let set = stream.set_read_timeout(Some(until));
            let set = set.and_then(|()| stream.set_write_timeout(Some(until)));
            set.map_err(|error| io_failure(&error))?;
            self.socket_timeout = until;
        }
        Ok(())
    }
}

fn io_failure(error: &io::Error) -> CommandFailure {
    let timed_out = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    unavailable(if timed_out { TIMED_OUT.to_owned() } else { error.to_string() })
}

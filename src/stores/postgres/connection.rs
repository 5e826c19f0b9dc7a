//! One connection to the server, and the round trips of one call over it.
//!
//! The client is asynchronous, and its runtime belongs to the connection: a call runs on the
//! caller's thread, and every wait ends at the call's deadline.

use std::collections::HashMap;
use std::error;
use std::fmt::{self, Debug};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::BytesMut;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::timeout_at;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, Row, Statement};

use crate::error::{Error, ErrorKind, Result};
use crate::stores::postgres::error::{CallFailure, ends_connection, error_of, is_of_pooler};
use crate::stores::postgres::hosts;
use crate::stores::postgres::tls::TlsConnector;

/// The time that a call and each of its statements may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallTime {
    /// The call timeout and the statement timeout.
    Normal,
    /// Twelve times as long, for a call that reads or ends all sessions, or changes the tables. All
    /// its statements are in transactions, which begin with these timeouts.
    Bulk,
}

impl CallTime {
    pub(super) fn factor(self) -> u32 {
        match self {
            CallTime::Normal => 1,
            CallTime::Bulk => 12,
        }
    }
}

/// How statements are sent.
#[derive(Clone, Debug)]
pub(super) struct SqlSettings {
    /// Executed on every new connection.
    pub(super) on_connect: String,
    /// Begins a transaction.
    pub(super) begin: String,
    /// Begins one of a bulk call, with its timeouts.
    pub(super) begin_bulk: String,
    /// Whether a pooler may give each transaction another connection. If so, the settings are in
    /// each transaction, and no statement is prepared.
    pub(super) is_pooled: bool,
}

/// A connection with its runtime and its prepared statements.
pub(super) struct PostgresConnection {
    client: Client,
    io: SocketIo,
    statements: HashMap<String, Statement>,
    runtime: OwnedRuntime,
}

/// The part of the client that reads and writes the socket; `None` after the end of the connection.
/// It runs in the future of a call, because a task of its own would cost more system calls.
struct SocketIo(Option<Pin<Box<SocketFuture>>>);

type SocketFuture = dyn Future<Output = Result<(), tokio_postgres::Error>> + Send;

impl SocketIo {
    /// Completes `work`, and reads and writes the socket meanwhile.
    async fn run<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            // Reads the answers first, so that `work` finds them. This poll needs no waker: the
            // second one registers it, and writes what `work` has sent.
            self.poll(&mut Context::from_waker(Waker::noop()));
            let done = work.as_mut().poll(context);
            if done.is_pending() {
                self.poll(context);
            }
            done
        })
        .await
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        // Its end makes every call on the client fail, and those have the reason.
        if self.0.as_mut().is_some_and(|io| io.as_mut().poll(context).is_ready()) {
            self.0 = None;
        }
    }
}

/// A runtime that can be dropped on any thread: the ordinary drop waits for threads that block, and
/// panics on a thread of another runtime.
struct OwnedRuntime(Option<Runtime>);

impl Drop for OwnedRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl OwnedRuntime {
    fn new(operation: &'static str) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build();
        let to_error = |source| Error::with_source(ErrorKind::Unavailable, operation, source);
        Ok(OwnedRuntime(Some(runtime.map_err(to_error)?)))
    }

    /// Runs `future` on this thread until the deadline.
    fn run<T>(&self, deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
        let runtime = self.0.as_ref()?;
        runtime.block_on(async { timeout_at(deadline.into(), future).await.ok() })
    }
}

/// An attempt at a call that failed.
pub(super) struct FailedAttempt {
    pub(super) failure: CallFailure,
    /// A commit was sent whose result is unknown.
    pub(super) may_be_done: bool,
}

impl PostgresConnection {
    pub(super) fn open(
        config: &Config,
        tls: &TlsConnector,
        settings: &SqlSettings,
        operation: &'static str,
        deadline: Instant,
    ) -> Result<Self> {
        let runtime = OwnedRuntime::new(operation)?;
        let hosts = hosts::one_by_one(config);
        let mut failure = CallFailure::TimedOut;
        for (index, host) in hosts.iter().enumerate() {
            // A silent host gets its share of the time, so that the next one is tried.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(hosts.len() - index).unwrap_or(u32::MAX);
            let connected = runtime.run(Instant::now() + share, async {
                #[allow(clippy::clone_on_copy, reason = "it is Copy without encryption only")]
                let (client, connection) = host.connect(tls.clone()).await?;
                let mut io = SocketIo(Some(Box::pin(connection)));
                io.run(client.batch_execute(&settings.on_connect)).await?;
                Ok((client, io))
            });
            failure = match connected {
                Some(Ok((client, io))) => {
                    let statements = HashMap::new();
                    return Ok(PostgresConnection { client, io, statements, runtime });
                }
                Some(Err(error)) => CallFailure::Sql(error),
                None => CallFailure::TimedOut,
            };
        }
        Err(error_of(operation, failure, false))
    }

    /// Makes one attempt at a call. Returns its result, and whether the connection can be used
    /// again.
    pub(super) fn attempt<T>(
        &mut self,
        settings: &SqlSettings,
        time: CallTime,
        deadline: Instant,
        is_new: bool,
        work: &impl AsyncFn(&mut Trips<'_>) -> Result<T, CallFailure>,
    ) -> (Result<T, FailedAttempt>, bool) {
        let PostgresConnection { client, io, statements, runtime } = self;
        let mut trips = Trips { client, statements, settings, time, is_new, state: TxState::None };
        let call = async {
            let result = work(&mut trips).await;
            (result, trips.roll_back().await)
        };
        let ended = runtime.run(deadline, io.run(call));
        let (result, can_be_used) = ended.unwrap_or((Err(CallFailure::TimedOut), false));
        let may_be_done = trips.state == TxState::CommitSent;
        let ends = matches!(&result, Err(CallFailure::Sql(error)) if ends_connection(error));
        (result.map_err(|failure| FailedAttempt { failure, may_be_done }), can_be_used && !ends)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TxState {
    None,
    Open,
    /// A commit was sent, and its result is unknown.
    CommitSent,
}

/// The round trips of one call. A transaction that the call leaves open is rolled back.
pub(super) struct Trips<'c> {
    client: &'c Client,
    statements: &'c mut HashMap<String, Statement>,
    settings: &'c SqlSettings,
    time: CallTime,
    /// Whether the connection was opened for this call.
    is_new: bool,
    state: TxState,
}

/// How a trip ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TripEnd {
    /// It commits nothing.
    NoCommit,
    /// By a `COMMIT`.
    Commit,
    /// The server commits its only statement by itself.
    Autocommit,
}

/// One statement with its parameters.
#[derive(Debug)]
pub(super) struct Query<'q> {
    pub(super) sql: &'q str,
    pub(super) params: Vec<Param<'q>>,
}

impl<'q> Query<'q> {
    pub(super) fn new<const N: usize>(sql: &'q str, params: [Param<'q>; N]) -> Self {
        Query { sql, params: params.into() }
    }
}

type TripAnswers = Result<Vec<Vec<Row>>, CallFailure>;

/// The rows of a statement; `None` of the beginning of a transaction and of a commit.
type StepResult = Result<Option<Vec<Row>>, tokio_postgres::Error>;
type TripStep<'s> = Pin<Box<dyn Future<Output = StepResult> + 's>>;

impl Trips<'_> {
    /// Executes one statement, in the open transaction if there is one.
    pub(super) async fn query(&mut self, query: Query<'_>) -> Result<Vec<Row>, CallFailure> {
        Ok(self.send(false, vec![query], TripEnd::NoCommit).await?.pop().unwrap_or_default())
    }

    /// Begins a transaction with these statements, in one trip. Returns the rows of each; none for
    /// an absent statement.
    pub(super) async fn begin<'q, const N: usize>(
        &mut self,
        queries: [impl Into<Option<Query<'q>>>; N],
    ) -> Result<[Vec<Row>; N], CallFailure> {
        let queries = queries.map(Into::into);
        let is_present = queries.each_ref().map(Option::is_some);
        let queries = queries.into_iter().flatten().collect();
        let mut answers = self.send(true, queries, TripEnd::NoCommit).await?.into_iter();
        let mut next = || answers.next().unwrap_or_default();
        Ok(is_present.map(|is_present| if is_present { next() } else { Vec::new() }))
    }

    /// Executes these statements in the open transaction, in one trip.
    pub(super) async fn within(&mut self, queries: Vec<Query<'_>>) -> TripAnswers {
        self.send(false, queries, TripEnd::NoCommit).await
    }

    /// Executes these statements and commits, in one trip.
    pub(super) async fn commit(&mut self, queries: Vec<Query<'_>>) -> TripAnswers {
        self.send(false, queries, TripEnd::Commit).await
    }

    /// Executes this statement as a transaction of its own, in one trip.
    pub(super) async fn write(&mut self, query: Query<'_>) -> Result<Vec<Row>, CallFailure> {
        // Behind a pooler, and in a bulk call, the beginning of a transaction has the settings.
        let (begins, end) = if self.settings.is_pooled || self.time == CallTime::Bulk {
            (true, TripEnd::Commit)
        } else {
            (false, TripEnd::Autocommit)
        };
        Ok(self.send(begins, vec![query], end).await?.pop().unwrap_or_default())
    }

    /// Executes a text of several statements, which may contain anything but parameters.
    pub(super) async fn execute_script(&mut self, sql: &str) -> Result<(), CallFailure> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// Sends statements in one trip, with a beginning and a commit where they are wanted. In a bulk
    /// call it begins a transaction unless one is open.
    async fn send(&mut self, begins: bool, queries: Vec<Query<'_>>, end: TripEnd) -> TripAnswers {
        let commits = end != TripEnd::NoCommit;
        let mut statements = Vec::with_capacity(queries.len());
        for query in &queries {
            statements.push(self.prepared(query).await?);
        }
        if commits && self.state == TxState::None && !self.is_new {
            // The result of a commit on a closed connection would be unknown. Here the runtime
            // polls the socket, and what has arrived since the last call is read: the end of the
            // connection, if the server has closed it.
            yield_now().await;
            if self.client.is_closed() {
                return Err(CallFailure::Closed);
            }
        }
        let client = self.client;
        let settings = self.settings;
        let control = |sql| -> TripStep<'_> {
            Box::pin(async move { client.batch_execute(sql).await.map(|()| None) })
        };
        let mut steps: Vec<TripStep<'_>> = Vec::with_capacity(queries.len() + 2);
        let begin = match self.time {
            CallTime::Normal => &settings.begin,
            CallTime::Bulk => &settings.begin_bulk,
        };
        if (begins || self.time == CallTime::Bulk) && self.state == TxState::None {
            steps.push(control(begin));
            self.state = TxState::Open;
        }
        for (query, statement) in queries.iter().zip(&statements) {
            steps.push(Box::pin(execute(client, query, statement.as_ref())));
        }
        if end == TripEnd::Commit {
            steps.push(control("COMMIT"));
        }
        if commits {
            self.state = TxState::CommitSent;
        }
        let mut answers = Vec::with_capacity(queries.len());
        let mut results = in_order(steps).await.into_iter();
        while let Some(result) = results.next() {
            match result {
                Ok(rows) => answers.extend(rows),
                Err(error) => {
                    // In a trip that commits, the last step does.
                    let is_commit = results.len() == 0;
                    // | error                      | outcome of the commit                     |
                    // |----------------------------|-------------------------------------------|
                    // | not fatal                  | known: the server rolls back              |
                    // | fatal, before the commit   | known: the server has not read the commit |
                    // | fatal, at the commit       | unknown                                   |
                    // | fatal, perhaps of a pooler | unknown: the pooler has lost the server   |
                    // | no answer of the server    | unknown                                   |
                    let may_follow_commit = is_commit || settings.is_pooled || is_of_pooler(&error);
                    let is_known = error.as_db_error().is_some()
                        && !(may_follow_commit && ends_connection(&error));
                    if commits && is_known {
                        self.state = TxState::None;
                    }
                    return Err(error.into());
                }
            }
        }
        if commits {
            self.state = TxState::None;
        }
        Ok(answers)
    }

    /// Returns the prepared statement; `None` if statements are not prepared.
    async fn prepared(&mut self, query: &Query<'_>) -> Result<Option<Statement>, CallFailure> {
        if self.settings.is_pooled {
            return Ok(None);
        }
        if let Some(statement) = self.statements.get(query.sql) {
            return Ok(Some(statement.clone()));
        }
        let types: Vec<Type> = query.params.iter().map(Param::sql_type).collect();
        let statement = self.client.prepare_typed(query.sql, &types).await?;
        self.statements.insert(query.sql.to_owned(), statement.clone());
        Ok(Some(statement))
    }

    /// Rolls an open transaction back. Returns whether the connection can be used again.
    async fn roll_back(&mut self) -> bool {
        if self.state == TxState::Open && self.client.batch_execute("ROLLBACK").await.is_ok() {
            self.state = TxState::None;
        }
        self.state == TxState::None && !self.client.is_closed()
    }
}

async fn execute(client: &Client, query: &Query<'_>, statement: Option<&Statement>) -> StepResult {
    let rows = match statement {
        Some(statement) => {
            let params: Vec<_> = query.params.iter().map(|param| param as _).collect();
            client.query(statement, &params).await
        }
        None => {
            let params: Vec<_> =
                query.params.iter().map(|param| (param as _, param.sql_type())).collect();
            client.query_typed(query.sql, &params).await
        }
    };
    rows.map(Some)
}

/// Completes all steps, which send their messages in this order. The client sends a message when
/// its future is polled first, and waits for no answer before the next one.
async fn in_order(mut steps: Vec<TripStep<'_>>) -> Vec<StepResult> {
    let mut results: Vec<_> = steps.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut is_pending = false;
        for (step, result) in steps.iter_mut().zip(&mut results) {
            if result.is_none() {
                match step.as_mut().poll(context) {
                    Poll::Ready(ready) => *result = Some(ready),
                    Poll::Pending => is_pending = true,
                }
            }
        }
        if is_pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// The value of a parameter. Its `Debug` output has no value, because the client logs parameters.
pub(super) enum Param<'p> {
    Bool(bool),
    Int(Option<i64>),
    Ints(Vec<i64>),
    Bytes(Option<&'p [u8]>),
    BytesList(Vec<&'p [u8]>),
    Text(Option<&'p str>),
    OwnedText(Option<String>),
    Texts(Vec<String>),
}

impl Param<'_> {
    fn sql_type(&self) -> Type {
        match self {
            Param::Bool(_) => Type::BOOL,
            Param::Int(_) => Type::INT8,
            Param::Ints(_) => Type::INT8_ARRAY,
            Param::Bytes(_) => Type::BYTEA,
            Param::BytesList(_) => Type::BYTEA_ARRAY,
            Param::Text(_) | Param::OwnedText(_) => Type::TEXT,
            Param::Texts(_) => Type::TEXT_ARRAY,
        }
    }
}

impl ToSql for Param<'_> {
    fn to_sql(
        &self,
        sql_type: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn error::Error + Sync + Send>> {
        match self {
            Param::Bool(value) => value.to_sql(sql_type, out),
            Param::Int(value) => value.to_sql(sql_type, out),
            Param::Ints(value) => value.to_sql(sql_type, out),
            Param::Bytes(value) => value.to_sql(sql_type, out),
            Param::BytesList(value) => value.to_sql(sql_type, out),
            Param::Text(value) => value.to_sql(sql_type, out),
            Param::OwnedText(value) => value.to_sql(sql_type, out),
            Param::Texts(value) => value.to_sql(sql_type, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl Debug for Param<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sql_type().name())
    }
}

impl From<i64> for Param<'_> {
    fn from(number: i64) -> Self {
        Param::Int(Some(number))
    }
}

impl<'p, const N: usize> From<&'p [u8; N]> for Param<'p> {
    fn from(bytes: &'p [u8; N]) -> Self {
        Param::Bytes(Some(bytes))
    }
}

impl<'p> From<&'p str> for Param<'p> {
    fn from(text: &'p str) -> Self {
        Param::Text(Some(text))
    }
}

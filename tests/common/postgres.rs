//! Real PostgreSQL servers: each a cluster of its own in a temporary folder, started on a free port,
//! killed, stopped for a while, started again.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::PostgresStore;
use cloakroom::stores::postgres::PostgresStoreBuilder;

use super::client::PATIENCE;
use super::{Folder, KillOnDrop};

/// A server of the test's own. It goes with the test, however that ends.
pub struct Postgres {
    folder: Folder,
    port: u16,
    process: Mutex<Option<KillOnDrop>>,
}

impl Postgres {
    pub fn start() -> Postgres {
        let folder = new_folder();
        let mut initdb = server_program("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        run(initdb.arg("-D").arg(folder.path("data")));
        Postgres::run_in(folder)
    }

    /// A replica of this server, which applies its changes. It begins with a copy of the files, for
    /// which this server is restarted: not every package has `pg_basebackup`.
    pub fn start_replica(&self) -> Postgres {
        let folder = new_folder();
        self.kill();
        run(Command::new("cp").arg("-a").args([&self.folder, &folder].map(|it| it.path("data"))));
        self.start_again();
        let primary = format!("host=127.0.0.1 port={} user=postgres", self.port);
        let settings = folder.path("data").join("postgresql.auto.conf");
        let mut settings = fs::OpenOptions::new().append(true).open(settings).unwrap();
        writeln!(settings, "primary_conninfo = '{primary}'").unwrap();
        fs::write(folder.path("data").join("standby.signal"), "").unwrap();
        Postgres::run_in(folder)
    }

    /// Lets this replica become a primary.
    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote()"), "t");
    }

    /// Sets a setting that new transactions use.
    pub fn set(&self, setting: &str, value: &str) {
        self.sql(&format!("ALTER SYSTEM SET {setting} = '{value}'"));
        self.sql("SELECT pg_reload_conf()");
        while self.sql(&format!("SHOW {setting}")) != value {}
    }

    fn run_in(folder: Folder) -> Postgres {
        let mut server = Postgres { folder, port: 0, process: Mutex::default() };
        // Another process may take a free port before the start.
        for _ in 0..20 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            server.port = free.local_addr().unwrap().port();
            drop(free);
            if server.try_run() {
                return server;
            }
        }
        panic!("PostgreSQL does not start; tests/run.sh installs it");
    }

    /// Starts the process, and returns when it answers. False if it ends instead.
    fn try_run(&self) -> bool {
        let log = fs::File::create(self.folder.path("log")).unwrap();
        let mut command = server_program("postgres");
        command.arg("-D").arg(self.folder.path("data")).arg("-k").arg(self.folder.path(""));
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        // A crash of the server loses nothing that the system has taken, so nothing waits for disks.
        command.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        command.args(["-c", "max_connections=400", "-c", "shared_buffers=64MB"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut process = KillOnDrop(command.spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if process.0.try_wait().unwrap().is_some() {
                return false;
            }
            let port = self.port.to_string();
            let mut ready = Command::new(debian_programs().join("pg_isready"));
            if ready.args(["-q", "-h", "127.0.0.1", "-p", &port]).status().unwrap().success() {
                *self.process.lock().unwrap() = Some(process);
                return true;
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        false
    }

    fn id(&self) -> u32 {
        self.process.lock().unwrap().as_ref().expect("it runs").0.id()
    }

    /// Ends all its processes at once, as a crash would.
    pub fn kill(&self) {
        signal("-QUIT", &[self.id()]);
        let mut process = self.process.lock().unwrap();
        process.take().expect("it runs").0.wait().unwrap();
    }

    /// Starts it again, with the data that it had.
    pub fn start_again(&self) {
        assert!(self.try_run(), "PostgreSQL does not start again");
    }

    /// Lets its processes stand still: the system accepts connections, and nothing answers.
    pub fn freeze(&self) {
        signal("-STOP", &self.processes());
    }

    pub fn thaw(&self) {
        signal("-CONT", &self.processes());
    }

    /// The server and the processes that it has started, by Linux's `/proc`.
    fn processes(&self) -> Vec<u32> {
        let server = self.id();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_child = |process: &u32| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
            parent == Some(&server.to_string())
        };
        [server].into_iter().chain(all.filter(is_child)).collect()
    }

    /// Executes SQL as the superuser. Returns the values, one row a line.
    pub fn sql(&self, sql: &str) -> String {
        let output = self.psql().args(["-c", sql]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// All its tables and their content, as SQL.
    pub fn dump(&self) -> String {
        let mut dump = Command::new(debian_programs().join("pg_dump"));
        dump.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", "postgres"]);
        let output = dump.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Puts a dump into this server.
    pub fn load(&self, dump: &str) {
        let file = self.folder.path("dump.sql");
        fs::write(&file, dump).unwrap();
        run(self.psql().arg("-f").arg(&file).stdout(Stdio::null()));
    }

    /// The client that executes SQL as the superuser.
    pub fn psql(&self) -> Command {
        let mut psql = Command::new(debian_programs().join("psql"));
        psql.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"]);
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        psql
    }

    /// Ends all connections but the one that does it, and waits until they have ended.
    pub fn terminate_connections(&self) {
        // The timeout of `pg_terminate_backend` would look only every 100 ms.
        self.sql(
            "DO $$
             DECLARE ended int[] := ARRAY(
                 SELECT pid FROM pg_stat_activity
                 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid());
             BEGIN
                 PERFORM pg_terminate_backend(pid) FROM unnest(ended) AS pid;
                 LOOP
                     PERFORM pg_stat_clear_snapshot();
                     EXIT WHEN NOT EXISTS (
                         SELECT FROM pg_stat_activity WHERE pid = ANY (ended));
                 END LOOP;
             END $$",
        );
    }

    /// Accepts encrypted connections only, with this certificate and key in PEM.
    pub fn require_encryption(&self, certificate: &str, key: &str) {
        for (setting, text) in [("ssl_cert_file", certificate), ("ssl_key_file", key)] {
            let file = self.folder.path(setting);
            fs::write(&file, text).unwrap();
            run(Command::new("chmod").arg("600").arg(&file));
            if let Some(user) = other_user() {
                run(Command::new("chown").arg(user).arg(&file));
            }
            self.sql(&format!("ALTER SYSTEM SET {setting} = '{}'", file.display()));
        }
        let rules = self.folder.path("data").join("pg_hba.conf");
        fs::write(rules, "hostssl all all 127.0.0.1/32 trust\n").unwrap();
        self.set("ssl", "on");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL by TCP, as the superuser.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The URL by TCP, as this user.
    pub fn url_of(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/postgres", self.port)
    }

    /// The folder of the Unix socket.
    pub fn socket_folder(&self) -> PathBuf {
        self.folder.path("")
    }

    /// A store in a new table, with time: a busy machine is no server that is down.
    pub fn store(&self) -> PostgresStore {
        self.builder().open().unwrap()
    }

    pub fn builder(&self) -> PostgresStoreBuilder {
        self.builder_in(&fresh_table())
    }

    pub fn builder_in(&self, table: &str) -> PostgresStoreBuilder {
        PostgresStore::builder(&self.url())
            .table(table)
            .connect_timeout(PATIENCE)
            .call_timeout(PATIENCE)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Ok(mut process) = self.process.lock()
            && let Some(mut process) = process.take()
        {
            // A server that is killed leaves shared memory behind.
            signal("-CONT", &[process.0.id()]);
            signal("-QUIT", &[process.0.id()]);
            let _ = process.0.wait();
        }
    }
}

/// A folder of the user of [`as_accepted_user`].
pub fn new_folder() -> Folder {
    let folder = Folder::in_memory();
    // The server refuses to run as root, so another user must own its folder.
    if let Some(user) = other_user() {
        run(Command::new("chown").arg(format!("{user}:")).arg(folder.path("")));
    }
    folder
}

/// A table name that was not given out before.
pub fn fresh_table() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One server for all tests of a program that do it no harm. The shell ends it and removes its
/// folder when this process has ended: a static is never dropped.
pub fn shared() -> &'static Postgres {
    static SHARED: LazyLock<Postgres> = LazyLock::new(|| {
        let server = Postgres::start();
        let id = server.id();
        let folder = server.folder.path("");
        let script = format!(
            "read -r _; kill -QUIT {id}; while kill -0 {id} 2>/dev/null; do :; done; rm -r {}",
            folder.display()
        );
        let mut watcher = Command::new("sh");
        // Its standard input is a pipe from us: it reads its end when we are gone.
        watcher.args(["-c", &script]).stdin(Stdio::piped());
        watcher.stdout(Stdio::null()).stderr(Stdio::null());
        std::mem::forget(KillOnDrop(watcher.spawn().unwrap()));
        server
    });
    &SHARED
}

/// A program of the server's, run as a user that the server accepts. The environment variable
/// `CLOAKROOM_POSTGRES_PROGRAMS` names the folder of another server than Debian's.
fn server_program(name: &str) -> Command {
    let other = std::env::var_os("CLOAKROOM_POSTGRES_PROGRAMS").map(PathBuf::from);
    as_accepted_user(&other.as_deref().unwrap_or(debian_programs()).join(name))
}

/// A program that refuses to run as root, run as another user then.
pub fn as_accepted_user(program: &Path) -> Command {
    match other_user() {
        None => Command::new(program),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(program);
            command
        }
    }
}

/// The user to run as: the one of Debian's package if we are root, else the one we are.
fn other_user() -> Option<&'static str> {
    static IS_ROOT: LazyLock<bool> = LazyLock::new(|| {
        let output = Command::new("id").arg("-u").output().unwrap();
        output.stdout.trim_ascii() == b"0"
    });
    IS_ROOT.then_some("postgres")
}

/// The folder of the programs of Debian's newest package. Its clients know other servers too.
fn debian_programs() -> &'static Path {
    static BIN: LazyLock<PathBuf> = LazyLock::new(|| {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let folders = versions.map(|version| version.path().join("bin"));
        let found = folders.filter(|folder| folder.join("initdb").exists()).max();
        found.expect("PostgreSQL is installed; tests/run.sh does it")
    });
    &BIN
}

fn signal(signal: &str, processes: &[u32]) {
    let ids = processes.iter().map(ToString::to_string);
    // A process may have ended by itself.
    let _ = Command::new("kill").arg(signal).args(ids).stderr(Stdio::null()).status();
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}
